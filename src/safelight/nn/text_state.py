"""What a module knows besides weights (a tokenizer, names), as a tensor: a state dict of safetensors holds no other."""

import numpy as np
import torch
from torch import Tensor


def pack(text: str) -> Tensor:
    """``text`` as the bytes of its UTF-8, uint8 (n,)."""
    return torch.from_numpy(np.frombuffer(bytearray(text.encode()), dtype=np.uint8))


def unpack(packed: Tensor) -> str:
    """The text that ``pack`` was given."""
    return packed.cpu().numpy().tobytes().decode()
