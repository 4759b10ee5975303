"""The diffusion transformer: patches of latents as one sequence, time modulates every norm.

DiT (arXiv 2212.09748) with adaLN-zero, and what has proved itself since: normed queries and keys,
rotary positions on any number of axes, text by cross-attention (PixArt-α, arXiv 2310.00426) or in
the sequence itself, and a modulation that all blocks share (adaLN-single, idem).
"""
