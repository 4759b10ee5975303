"""What a module holds besides weights (a tokenizer, names), as a tensor for its state dict."""

import numpy as np
import torch
from torch import Tensor


def pack(text: str) -> Tensor:
    """The UTF-8 bytes of ``text``, uint8 (n,)."""
    return torch.from_numpy(np.frombuffer(bytearray(text.encode()), dtype=np.uint8))


def unpack(packed: Tensor) -> str:
    """The text that ``pack`` was called with."""
    return packed.cpu().numpy().tobytes().decode()
