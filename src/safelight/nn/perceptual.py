"""The perceptual distance: how far apart pictures are in the eyes of a feature network."""

import torch
from jaxtyping import Float
from torch import Tensor

from safelight.types.networks import Features
from safelight.types.tensors import Images


def perceptual(network: Features, images: Images, others: Images) -> Float[Tensor, " b"]:
    """The distance of Zhang et al. (LPIPS, arXiv 1801.03924, eq. 1) between pictures in [-1, 1].

    In each map every place's channels are made a unit vector; squared differences are weighed by
    the network's ``heads`` (1 each where it has none), summed over channels, averaged over places,
    and summed over the maps.
    """
    maps, others_maps = network.maps(images), network.maps(others)
    heads = network.heads or (None,) * len(maps)
    layers = [_layer(*parts) for parts in zip(maps, others_maps, heads, strict=True)]
    return torch.stack(layers).sum(0)


def _layer(one: Tensor, other: Tensor, head: Tensor | None) -> Tensor:
    difference = (_unit(one) - _unit(other)).square()  # (b, c, h, w)
    weighed = difference if head is None else difference * head.view(-1, 1, 1)
    return weighed.sum(1).mean((1, 2))  # (b,)


def _unit(features: Tensor) -> Tensor:
    """Unit vectors along the channels. 1e-10 keeps the gradient finite where all channels are
    zero."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features * (features.square().sum(1, keepdim=True) + 1e-10).rsqrt()
