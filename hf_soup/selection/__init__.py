"""A strategy at work: the trials that it sees, and what its choice is worth."""
