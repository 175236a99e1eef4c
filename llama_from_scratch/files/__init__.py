"""From a model's name to the content of its files. Everything that reads or writes models stands on this floor.

It knows names, folders and containers, and neither tokens nor weights.
"""
