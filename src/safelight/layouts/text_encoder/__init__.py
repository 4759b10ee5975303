"""Text encoders: CLIP, OpenCLIP, T5, language models and latent diffusion's own."""
