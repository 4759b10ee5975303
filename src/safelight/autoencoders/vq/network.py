"""The network of the VQ autoencoder."""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Int
from torch import Tensor, nn

from safelight.autoencoders.vq.config import Config
from safelight.nn.codebook import Codebook
from safelight.nn.conv_autoencoder import Decoder, Encoder
from safelight.nn.latent_scale import LatentScale
from safelight.nn.local_layers import LocalLayer
from safelight.nn.sizes import reduced
from safelight.types.networks import Encoding
from safelight.types.shapes import Shape
from safelight.types.tensors import Images, Latents


class VQ(nn.Module):
    """Images (b, 3, h, w) in [-1, 1] ⇄ latents (b, c, h/f, w/f) before rounding. BadInput for sizes
    that f does not divide."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.factor, self.codes = config.pyramid.factor, config.codebook.number
        c = config.latent_channels
        hidden = config.hidden_channels or c
        self.encoder = Encoder(config.pyramid, hidden)
        self.decoder = Decoder(config.pyramid, hidden)
        self.quant = nn.Conv2d(hidden, c, 1)
        self.post_quant = nn.Conv2d(c, hidden, 1)
        self.codebook = Codebook(config.codebook, c)
        self.scale = LatentScale(c)

    def encode(self, images: Images) -> Encoding:
        """The latents of images before rounding; the encoding has no spread."""
        self.latent_shape(tuple(images.shape))
        return self.encode_global(
            self.encoder.forward_local(images.to(self.encoder.enter.weight.dtype))
        )

    def encode_global(self, features: Tensor) -> Encoding:
        """The rest of ``encode``."""
        raw = self.quant(self.encoder.forward_global(features))
        return self.scale.standard(Encoding(self.codebook.placed(raw.float())))

    def encode_local(self) -> Sequence[LocalLayer]:
        """The encoder's layers before any attention."""
        return self.encoder.local_sequence()

    def decode(self, latents: Latents) -> Images:
        """Images behind latents in standard units, which become their nearest codes first."""
        return self.decoder.forward_local(self.decode_global(latents)).to(latents.dtype)

    def decode_global(self, latents: Latents) -> Tensor:
        """The codes, and the decoder's layers up to the last attention."""
        rounded = self.codebook(self.scale.raw(latents)).to(self.decoder.enter.weight.dtype)
        return self.decoder.forward_global(self.post_quant(rounded))

    def decode_local(self) -> Sequence[LocalLayer]:
        """The rest of ``decode``, in the precision of the weights."""
        return self.decoder.local_sequence()

    def indices(self, latents: Latents) -> Int[Tensor, " b *space"]:
        """The numbers of the codes nearest to latents in standard units."""
        return self.codebook.nearest(self.codebook.placed(self.scale.raw(latents).float()))

    def lookup(self, indices: Int[Tensor, " b *space"]) -> Latents:
        """The codes of these numbers as latents in standard units. BadInput for a number that no
        code has."""
        return self.scale.standard(Encoding(self.codebook.lookup(indices))).mean

    def regularisers(self, encoding: Encoding) -> Mapping[str, Tensor]:
        """``quantisation`` (b,): mean squared distance of latents from their codes, once for each
        to learn by."""
        commitment, codebook = self.codebook.distances(self.scale.unscaled(encoding).mean)
        latents_learn, codes_learn = (
            (1.0, self.config.beta) if self.config.legacy else (self.config.beta, 1.0)
        )
        if self.config.codebook.decay:
            codes_learn = 0.0  # they are running means
        return {"quantisation": latents_learn * commitment + codes_learn * codebook}

    def after_update(
        self, seed: int, update: int, total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> None:
        """Once an update: running means of codes, and codes long idle drawn anew."""
        self.codebook.after_update(seed, update, total)

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last layer."""
        return self.decoder.leave.weight

    def latent_shape(self, image_shape: Shape) -> Shape:
        """(b, 3, h, w) → (b, c, h/f, w/f)."""
        return reduced(
            "vq", image_shape, self.config.channels, self.config.latent_channels, self.factor
        )
