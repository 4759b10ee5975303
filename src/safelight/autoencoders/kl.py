"""The KL autoencoder of latent diffusion (Rombach et al., arXiv 2112.10752, appendix E.1; the f8 shape of Stable
Diffusion with the defaults): residual blocks, one attention in the middle, a diagonal Gaussian over the latents."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.latent_scale import LatentScale
from safelight.types import Encoding, Images, Latents, Shape


@dataclass(frozen=True)
class Config:
    """Each multiplier is a level; each level after the first halves the size, so f = 2 ** (levels - 1)."""

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2  # a level in the encoder; the decoder has one more
    latent_channels: int = 4
    channels: int = 3
    groups: int = 32  # of the group norms
    quant: bool = True  # 1×1 convolutions beside the latents: SD 1, 2, XL have them, SD 3 and FLUX do not

    def __post_init__(self) -> None:
        numbers = (self.width, *self.multipliers, self.blocks, self.latent_channels, self.channels, self.groups)
        if min(numbers) < 1 or not self.multipliers:
            raise BadInput(f"kl: every number wants to be at least 1, got {self}.")
        if any(self.width * m % self.groups for m in self.multipliers):
            raise BadInput(
                f"kl: every level's width wants to be a multiple of groups = {self.groups}, got width {self.width} "
                f"times {self.multipliers}; change width or groups."
            )

    def build(self) -> "KL":
        return KL(self)


class KL(nn.Module):
    """Images (b, 3, h, w) in [-1, 1] ⇄ latents (b, c, h/f, w/f). BadInput for sizes that f does not divide."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.factor = 2 ** (len(config.multipliers) - 1)
        c = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant = nn.Conv2d(2 * c, 2 * c, 1) if config.quant else nn.Identity()
        self.post_quant = nn.Conv2d(c, c, 1) if config.quant else nn.Identity()
        self.scale = LatentScale(c)

    def encode(self, images: Images) -> Encoding:
        """The diagonal Gaussian over latents, in standard units."""
        self.latent_shape(tuple(images.shape))
        moments = self.quant(self.encoder(images.to(self.encoder.enter.weight.dtype)))
        mean, log_variance = moments.float().chunk(2, dim=1)
        return self.scale.standard(Encoding(mean, torch.exp(0.5 * log_variance.clamp(-30, 20))))

    def decode(self, latents: Latents) -> Images:
        """Images behind latents in standard units."""
        raw = self.scale.raw(latents).to(self.decoder.enter.weight.dtype)
        images: Tensor = self.decoder(self.post_quant(raw))
        return images.to(latents.dtype)

    def latent_shape(self, image_shape: Shape) -> Shape:
        """(b, 3, h, w) → (b, c, h/f, w/f)."""
        *batch, channels, height, width = image_shape
        if channels != self.config.channels:
            raise BadInput(f"kl: wanted images of {self.config.channels} channels, got {channels}.")
        if height % self.factor or width % self.factor or not height or not width:
            raise BadInput(
                f"kl: wanted a height and width that are multiples of {self.factor}, got {width}×{height}; "
                f"the nearest is {_near(width, self.factor)}×{_near(height, self.factor)}."
            )
        return (*batch, self.config.latent_channels, height // self.factor, width // self.factor)


class Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.enter = nn.Conv2d(config.channels, config.width, 3, padding=1)
        layers: list[nn.Module] = []
        before = config.width
        for number, width in enumerate(widths):
            layers += [Residual(before if i == 0 else width, width, config.groups) for i in range(config.blocks)]
            layers += [Down(width)] if number < len(widths) - 1 else []
            before = width
        self.levels = nn.Sequential(*layers)
        self.middle = middle(before, config.groups)
        self.norm = norm(before, config.groups)
        self.leave = nn.Conv2d(before, 2 * config.latent_channels, 3, padding=1)

    def forward(self, images: Images) -> Tensor:
        x = self.middle(self.levels(self.enter(images)))
        return self.leave(F.silu(self.norm(x)))  # type: ignore[no-any-return]  # (b, 2c, h/f, w/f)


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = [config.width * multiplier for multiplier in reversed(config.multipliers)]
        self.enter = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.middle = middle(widths[0], config.groups)
        layers: list[nn.Module] = []
        before = widths[0]
        for number, width in enumerate(widths):
            layers += [Residual(before if i == 0 else width, width, config.groups) for i in range(config.blocks + 1)]
            layers += [Up(width)] if number < len(widths) - 1 else []
            before = width
        self.levels = nn.Sequential(*layers)
        self.norm = norm(before, config.groups)
        self.leave = nn.Conv2d(before, config.channels, 3, padding=1)

    def forward(self, latents: Latents) -> Tensor:
        x = self.levels(self.middle(self.enter(latents)))
        return self.leave(F.silu(self.norm(x)))  # type: ignore[no-any-return]  # (b, 3, h, w)


class Residual(nn.Module):
    """Norm, SiLU, convolution, twice, beside a skip that changes the width where it must."""

    def __init__(self, before: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = norm(before, groups)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.norm2 = norm(width, groups)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))  # type: ignore[no-any-return]


class SpatialAttention(nn.Module):
    """One head over all places of an image."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = norm(width, groups)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)  # (b, 1, hw, c)
        y = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2).reshape(x.shape)
        return x + self.out(y)  # type: ignore[no-any-return]


class Down(nn.Module):
    """Half the size by a strided convolution, padded at the right and the bottom only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Up(nn.Module):
    """Twice the size by repetition, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


def middle(width: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        Residual(width, width, groups), SpatialAttention(width, groups), Residual(width, width, groups)
    )


def norm(width: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, width, eps=1e-6)


def _near(side: int, factor: int) -> int:
    return max(1, round(side / factor)) * factor
