"""The network of the KL autoencoder."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.autoencoders.kl.config import Config
from safelight.nn.conv_autoencoder import Decoder, Encoder
from safelight.nn.latent_scale import LatentScale
from safelight.nn.local_layers import LocalLayer
from safelight.nn.sizes import reduced
from safelight.types.networks import Encoding
from safelight.types.shapes import Shape
from safelight.types.tensors import Images, Latents


class KL(nn.Module):
    """Images (b, 3, h, w) in [-1, 1] ⇄ latents (b, c, h/f, w/f). BadInput for sizes that f does not
    divide."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.factor = config.pyramid.factor * config.packed
        c = config.latent_channels
        self.encoder = Encoder(config.pyramid, 2 * c)
        self.decoder = Decoder(config.pyramid, c)
        self.quant = nn.Conv2d(2 * c, 2 * c, 1) if config.quant else nn.Identity()
        self.post_quant = nn.Conv2d(c, c, 1) if config.quant else nn.Identity()
        self.scale = LatentScale(config.packed_channels, 1e-4 if config.packed > 1 else None)

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last layer."""
        return self.decoder.leave.weight

    def encode(self, images: Images) -> Encoding:
        """The diagonal Gaussian over latents, in standard units."""
        self.latent_shape(tuple(images.shape))
        return self.encode_global(
            self.encoder.forward_local(images.to(self.encoder.enter.weight.dtype))
        )

    def encode_local(self) -> Sequence[LocalLayer]:
        """The encoder's layers before any attention."""
        return self.encoder.local_sequence()

    def encode_global(self, features: Tensor) -> Encoding:
        """The rest of ``encode``."""
        moments = self.quant(self.encoder.forward_global(features))
        mean, log_variance = moments.float().chunk(2, dim=1)
        mean, log_variance = (
            F.pixel_unshuffle(one, self.config.packed) for one in (mean, log_variance)
        )
        return self.scale.standard(Encoding(mean, torch.exp(0.5 * log_variance.clamp(-30, 20))))

    def decode(self, latents: Latents) -> Images:
        """Images behind latents in standard units."""
        return self.decoder.forward_local(self.decode_global(latents)).to(latents.dtype)

    def decode_global(self, latents: Latents) -> Tensor:
        """The decoder's layers up to the last attention."""
        raw = F.pixel_shuffle(self.scale.raw(latents), self.config.packed).to(
            self.decoder.enter.weight.dtype
        )
        return self.decoder.forward_global(self.post_quant(raw))

    def decode_local(self) -> Sequence[LocalLayer]:
        """The rest of ``decode``, in the precision of the weights."""
        return self.decoder.local_sequence()

    def regularisers(self, encoding: Encoding) -> Mapping[str, Tensor]:
        """``kl`` (b,): divergence from the standard normal in nats, the mean over a latent's
        numbers."""
        raw = self.scale.unscaled(encoding)
        assert raw.deviation is not None
        variance = raw.deviation.square()
        return {"kl": 0.5 * (raw.mean.square() + variance - 1 - variance.log()).flatten(1).mean(1)}

    def latent_shape(self, image_shape: Shape) -> Shape:
        """(b, 3, h, w) → (b, c, h/f, w/f)."""
        return reduced(
            "kl", image_shape, self.config.channels, self.config.packed_channels, self.factor
        )
