"""Tables and figures of plain numbers. Soups are unknown here."""
