"""Publishing of soups: the card, the files beside the weights, and the push to the Hub."""
