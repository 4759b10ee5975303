"""The text encoders of CLIP (arXiv 2103.00020) and OpenCLIP: a causal transformer."""

from safelight.nn.text_models.clip.config import Config as Config
