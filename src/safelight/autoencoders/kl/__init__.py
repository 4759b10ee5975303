"""The KL autoencoder of latent diffusion (Rombach et al., arXiv 2112.10752, appendix E.1; the f8
shape of Stable Diffusion with the defaults): residual blocks, attention in the middle, a diagonal
Gaussian over the latents."""
