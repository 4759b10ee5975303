"""The multimodal diffusion transformer of Stable Diffusion 3 and 3.5 (arXiv 2403.03206).

Text and patches are two sequences with weights of their own that share one attention. The last
block answers for the patches alone. SD 3.5 adds a norm of queries and keys and, in its medium size,
an attention of the patches among themselves in the first blocks.
"""
