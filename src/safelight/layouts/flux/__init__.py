"""The transformers of FLUX.1 and FLUX.2."""
