"""Tables and pictures of plain numbers. Nothing here knows a soup."""
