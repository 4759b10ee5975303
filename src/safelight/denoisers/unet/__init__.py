"""The U-Net of latent diffusion (Rombach et al., arXiv 2112.10752): Stable Diffusion 1 and 2, SDXL
(arXiv 2307.01952) and its refiner, with further input channels for masks, pictures and depth, and
the models of the paper itself.

Residual blocks on levels of falling size, and back up beside what each left on the way down;
attention after the blocks of some levels, to the other places and to a text.
"""
