"""What is published of a soup: its card, the files around its weights, and its way to the Hub."""
