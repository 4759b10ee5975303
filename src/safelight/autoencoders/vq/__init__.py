"""The VQ autoencoder of latent diffusion (Rombach et al., arXiv 2112.10752, appendix E.1; VQGAN,
arXiv 2012.09841): the decoder begins by rounding latents to a codebook, so that a diffusion model
learns them unrounded."""
