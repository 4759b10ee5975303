"""Classes and maps of classes, as latent diffusion stores them."""
