"""The verbs, one file each, and the soup: they open what they are given and call the folders below."""
