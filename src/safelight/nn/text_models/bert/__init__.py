"""The text transformer of latent diffusion (arXiv 2112.10752, appendix E.2.1).

Every token attends to all others, padding included. It was trained with its denoiser, on texts in
BERT's vocabulary or on bounding boxes.
"""

from safelight.nn.text_models.bert.config import Config as Config
