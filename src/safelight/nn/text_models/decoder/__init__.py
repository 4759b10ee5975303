"""The first blocks of a language model: Mistral Small 3, or Qwen 3 (arXiv 2505.09388), for FLUX.2.

RMSNorm, grouped-query attention, rotary position embedding and SwiGLU. The outputs of several
blocks are concatenated along features.
"""

from safelight.nn.text_models.decoder.config import Config as Config
