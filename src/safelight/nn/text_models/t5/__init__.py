"""The encoder of T5 v1.1 (arXiv 1910.10683, 2002.05202).

Relative positions enter as a bias of the attention scores; MLPs are gated; layers have no biases.
"""

from safelight.nn.text_models.t5.config import Config as Config
