"""Tensors by name. Images are in [-1, 1], batch first; latents have about zero mean and unit
variance.

The spatial rank is open: ``*space`` is ``h w``, ``t h w`` or a list of points.
"""

from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

Images: TypeAlias = Float[Tensor, "b colours *pixels"]

Latents: TypeAlias = Float[Tensor, "b c *space"]
