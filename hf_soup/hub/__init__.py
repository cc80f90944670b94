"""The card of a soup, and its way to the Hub."""
