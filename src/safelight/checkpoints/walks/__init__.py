"""Layouts of one kind of network: a table of words for each, one walk over the shape for all."""
