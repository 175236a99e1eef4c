"""The files that hold tokenizers, read and written."""
