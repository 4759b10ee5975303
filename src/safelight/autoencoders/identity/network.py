"""The network of the identity autoencoder."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from safelight.autoencoders.identity.config import Config
from safelight.nn.latent_scale import LatentScale
from safelight.nn.local_layers import LocalLayer
from safelight.nn.sizes import reduced
from safelight.types.networks import Encoding
from safelight.types.shapes import Shape
from safelight.types.tensors import Images, Latents


class Identity(nn.Module):
    """Images (b, 3, h, w) in [-1, 1] ⇄ latents of the same shape."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.factor = 1
        self.last_layer: Tensor | None = None  # it has no layers
        self.scale = LatentScale(config.channels)

    def encode(self, images: Images) -> Encoding:
        """The images in standard units; the encoding has no spread."""
        self.latent_shape(tuple(images.shape))
        return self.encode_global(images)

    def encode_local(self) -> Sequence[LocalLayer]:
        """No layers."""
        return ()

    def encode_global(self, features: Tensor) -> Encoding:
        """``encode``."""
        return self.scale.standard(Encoding(features))

    def decode(self, latents: Latents) -> Images:
        """The images that latents in standard units are."""
        return self.decode_global(latents)

    def decode_global(self, latents: Latents) -> Tensor:
        """``decode``."""
        return self.scale.raw(latents)

    def decode_local(self) -> Sequence[LocalLayer]:
        """No layers."""
        return ()

    def regularisers(self, encoding: Encoding) -> Mapping[str, Tensor]:
        """None: there is nothing to train."""
        return {}

    def latent_shape(self, image_shape: Shape) -> Shape:
        """(b, 3, h, w) → the same."""
        return reduced(
            "identity", image_shape, self.config.channels, self.config.channels, self.factor
        )
