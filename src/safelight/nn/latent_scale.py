"""The autoencoder's own scale and shift, so that everyone else meets latents of zero mean and unit
variance."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from safelight.types.networks import Encoding
from safelight.types.tensors import Latents


class LatentScale(nn.Module):
    """Per-channel mean and deviation of raw latents, measured once after training: 0 and 1 until
    then.

    With an ``epsilon`` it keeps what a batch norm does: ``variance``, to which epsilon is added
    before the root, and the ``count`` of batches. A root and a square would not give back a file's
    bits.
    """

    mean: Tensor
    deviation: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, channels: int, epsilon: float | None = None) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(channels))
        if epsilon is None:
            self.register_buffer("deviation", torch.ones(channels))
        else:
            self.register_buffer("variance", torch.ones(channels))
            self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @property
    def spread(self) -> Tensor:
        """The deviation (c,)."""
        return (
            self.deviation
            if self.epsilon is None
            else (self.variance.float() + self.epsilon).sqrt()
        )

    def standard(self, raw: Encoding) -> Encoding:
        """An encoding of raw latents (b, c, *space) in standard units."""
        mean, deviation = (self._along(one, raw.mean) for one in (self.mean, self.spread))
        return Encoding(
            (raw.mean - mean) / deviation,
            None if raw.deviation is None else raw.deviation / deviation,
        )

    def unscaled(self, standard: Encoding) -> Encoding:
        """An encoding in standard units as it was before ``standard``."""
        deviation = self._along(self.spread, standard.mean)
        return Encoding(
            self.raw(standard.mean),
            None if standard.deviation is None else standard.deviation * deviation,
        )

    def raw(self, latents: Latents) -> Latents:
        """Standard latents in the units of the decoder."""
        return latents * self._along(self.spread, latents) + self._along(self.mean, latents)

    @torch.no_grad()
    def measure(self, encodings: Iterable[Encoding]) -> None:
        """Take mean and deviation from encodings made with the present scale, so that it may be
        measured again."""
        count, total, square = (
            0,
            torch.zeros_like(self.mean).double(),
            torch.zeros_like(self.mean).double(),
        )
        for encoding in encodings:
            flat = encoding.mean.double().transpose(0, 1).flatten(1)  # (c, n)
            count += flat.shape[1]
            total += flat.sum(1)
            square += flat.square().sum(1)
            if encoding.deviation is not None:
                square += encoding.deviation.double().square().transpose(0, 1).flatten(1).sum(1)
        mean = total / count
        deviation = (
            (square / count - mean.square()).clamp(min=1e-12).sqrt()
        )  # a channel may be constant
        self.mean.add_((mean * self.spread).to(self.mean))
        if self.epsilon is None:
            self.deviation.mul_(deviation.to(self.deviation))
        else:
            self.variance.copy_((self.spread * deviation).square() - self.epsilon)
            self.count.add_(1)

    def _along(self, values: Tensor, latents: Tensor) -> Tensor:
        return values.view(-1, *[1] * (latents.dim() - 2)).to(latents.dtype)
