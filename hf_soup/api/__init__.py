"""The public functions, one file each, and `Soup`: they open their inputs and call the folders below."""
