"""Meta's folders, read and written."""
