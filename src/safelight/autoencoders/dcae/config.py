"""The configuration of the deep compression autoencoder. Nothing here imports torch."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.autoencoders.dcae.network import DCAE


@dataclass(frozen=True)
class Config:
    """The published f32c32 with the defaults; f = 2 ** (levels - 1). A first level without blocks
    is skipped: the pictures enter at half their size.

    ``resample``: convolutions between levels move space into channels (the published ones) or are
    strided and interpolated (those of SANA, arXiv 2410.10629). ``fixed_norm``: the decoder's
    residual blocks have batch norm with fixed statistics and ReLU, as the published weights of the
    f32c32 and f64c128 for ImageNet have them; else RMS norm and SiLU.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_blocks: tuple[int, ...] = (0, 4, 8, 2, 2, 2)  # of each level
    decoder_blocks: tuple[int, ...] = (0, 5, 10, 2, 2, 2)
    attend_from: int = 3  # the first level whose blocks attend
    scales: tuple[int, ...] = ()  # kernels that gather neighbours for more heads (SANA's: 5)
    head: int = 32  # width of a head
    latent_channels: int = 32
    channels: int = 3
    resample: Literal["shuffle", "plain"] = "shuffle"
    fixed_norm: bool = False

    def __post_init__(self) -> None:
        levels = len(self.widths)
        numbers = (*self.widths, *self.encoder_blocks[1:], *self.decoder_blocks[1:], *self.scales)
        if levels < 2 or min(*numbers, self.head, self.latent_channels, self.channels) < 1:
            raise BadInput(
                f"dcae: every number wants to be at least 1, with two levels or more, got {self}."
            )
        if not levels == len(self.encoder_blocks) == len(self.decoder_blocks):
            raise BadInput(f"dcae: wanted blocks for each of {levels} levels, got {self}.")
        if (self.encoder_blocks[0] == 0) != (self.decoder_blocks[0] == 0) or self.encoder_blocks[
            0
        ] < 0:
            raise BadInput(
                f"dcae: wanted a first level with blocks in both halves or in neither, got {self}."
            )
        if (
            any(a * 4 % b or b * 4 % a for a, b in pairwise(self.widths))
            or self.widths[-1] % self.latent_channels
        ):
            raise BadInput(
                "dcae: shortcuts want widths that divide four times their neighbours, and "
                "latent_channels that divide "
                f"the last, got {self.widths} and {self.latent_channels}."
            )
        if any(width % self.head for width in self.widths[self.attend_from :]) or any(
            w % 4 for w in self.widths
        ):
            raise BadInput(
                f"dcae: wanted widths of whole heads of {self.head} from level "
                f"{self.attend_from} on, and multiples of "
                f"4, got {self.widths}."
            )

    @property
    def begins(self) -> int:
        """The first level that has blocks."""
        return int(self.encoder_blocks[0] == 0)

    def build(self) -> "DCAE":
        from safelight.autoencoders.dcae.network import DCAE

        return DCAE(self)
