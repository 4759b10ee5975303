"""No autoencoder: latents are the images in standard units, so that diffusion in pixels runs
through the same code."""
