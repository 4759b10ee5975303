"""The diffusion transformer as it was published: DiT (arXiv 2212.09748) and SiT (arXiv 2401.08740).

Patches and a class, no text; a fixed table of positions, biases everywhere, no norm of queries and
keys. ``dit`` is the same idea with what has proved itself since. The network keeps the vectors of
the classes itself, as its files do: it takes the number of a class from the conditioner ``label``
of width 0.
"""
