"""The transformers of FLUX: latents, text and reference pictures as one sequence
(black-forest-labs/flux and /flux2).

First come blocks with weights of their own for pictures and for text, which share one attention
(Esser et al., arXiv 2403.03206), then blocks that see one sequence and attend and compute side by
side (ViT-22B, arXiv 2302.05442).
"""
