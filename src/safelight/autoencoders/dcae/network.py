"""The network of the deep compression autoencoder."""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from safelight.autoencoders.dcae.config import Config
from safelight.nn.latent_scale import LatentScale
from safelight.nn.local_layers import LocalLayer, global_span, layer
from safelight.nn.sizes import reduced
from safelight.types.networks import Encoding
from safelight.types.shapes import Shape
from safelight.types.tensors import Images, Latents


class DCAE(nn.Module):
    """Images (b, 3, h, w) in [-1, 1] ⇄ latents (b, c, h/f, w/f). BadInput for sizes that f does not
    divide."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.factor = 2 ** (len(config.widths) - 1)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.scale = LatentScale(config.latent_channels)

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last layer."""
        leave = self.decoder.leave
        return leave.conv.weight if isinstance(leave, Up) else leave.weight

    def encode(self, images: Images) -> Encoding:
        """The latents of images; the encoding has no spread."""
        self.latent_shape(tuple(images.shape))
        return self.encode_global(self.encoder.forward_local(images))

    def encode_local(self) -> Sequence[LocalLayer]:
        """The encoder's layers before any attention."""
        return self.encoder.local_sequence()

    def encode_global(self, features: Tensor) -> Encoding:
        """The rest of ``encode``."""
        return self.scale.standard(Encoding(self.encoder.forward_global(features).float()))

    def decode(self, latents: Latents) -> Images:
        """Images behind latents in standard units."""
        return self.decoder.forward_local(self.decode_global(latents)).to(latents.dtype)

    def decode_global(self, latents: Latents) -> Tensor:
        """The decoder's layers up to the last attention."""
        return self.decoder.forward_global(self.scale.raw(latents).to(self.scale.mean.dtype))

    def decode_local(self) -> Sequence[LocalLayer]:
        """The rest of ``decode``, in the precision of the weights."""
        return self.decoder.local_sequence()

    def regularisers(self, encoding: Encoding) -> Mapping[str, Tensor]:
        """None: its latents have no regulariser."""
        return {}

    def latent_shape(self, image_shape: Shape) -> Shape:
        """(b, 3, h, w) → (b, c, h/f, w/f)."""
        return reduced(
            "dcae", image_shape, self.config.channels, self.config.latent_channels, self.factor
        )


class Encoder(nn.Module):
    """Images (b, channels, h, w) → (b, c, h/f, w/f)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths, first = config.widths, config.begins
        shuffled = config.resample == "shuffle"
        half = Down(config.channels, widths[first], shuffled, shortcut=False)
        self.enter = half if first else nn.Conv2d(config.channels, widths[0], 3, padding=1)
        layers: list[nn.Module] = []
        for number in range(first, len(widths)):
            layers += [Down(widths[number - 1], widths[number], shuffled)] if number > first else []
            layers += level(config, number, config.encoder_blocks[number], fixed=False)
        self.levels = nn.Sequential(*layers)
        self.leave = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward_local(self, images: Images) -> Tensor:
        """The layers before any attention."""
        return self.levels[: attention_span(self.levels)[0]](self._entered(images))  # type: ignore[no-any-return]

    def local_sequence(self) -> list[LocalLayer]:
        """Those of ``forward_local``, one by one."""
        down = 2 if isinstance(self.enter, Down) else 1
        enter = LocalLayer(
            self.enter, lambda maps, _: (self._entered(maps[0]),), radius=1, down=down
        )
        return [enter, *described(list(self.levels)[: attention_span(self.levels)[0]])]

    def forward_global(self, x: Tensor) -> Tensor:
        """The layers from the first attention on."""
        x = self.levels[attention_span(self.levels)[0] :](x)
        return self.leave(x) + averaged(x, self.leave.out_channels)  # type: ignore[no-any-return]

    def _entered(self, images: Images) -> Tensor:
        return self.enter(images.to(self.leave.weight.dtype))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Latents (b, c, h/f, w/f) → (b, channels, h, w)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths, first = config.widths, config.begins
        shuffled = config.resample == "shuffle"
        self.enter = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        layers: list[nn.Module] = []
        for number in reversed(range(first, len(widths))):
            layers += level(config, number, config.decoder_blocks[number], config.fixed_norm)
            layers += [Up(widths[number], widths[number - 1], shuffled)] if number > first else []
        self.levels = nn.Sequential(*layers)
        self.norm = ChannelNorm(widths[first])
        twice = Up(widths[first], config.channels, shuffled, shortcut=False)
        self.leave = twice if first else nn.Conv2d(widths[0], config.channels, 3, padding=1)

    def forward_global(self, latents: Latents) -> Tensor:
        """The layers up to the last attention."""
        x = self.enter(latents) + repeated(latents, self.enter.out_channels)
        return self.levels[: attention_span(self.levels)[1]](x)  # type: ignore[no-any-return]

    def forward_local(self, x: Tensor) -> Tensor:
        """The layers after all attention."""
        return self._pictures(self.levels[attention_span(self.levels)[1] :](x))

    def local_sequence(self) -> list[LocalLayer]:
        """Those of ``forward_local``, one by one."""
        up = 2 if isinstance(self.leave, Up) else 1
        leave = LocalLayer(self, lambda maps, _: (self._pictures(maps[0]),), radius=1, up=up)
        return [*described(list(self.levels)[attention_span(self.levels)[1] :]), leave]

    def _pictures(self, x: Tensor) -> Tensor:
        return self.leave(F.relu(self.norm(x)))  # type: ignore[no-any-return]


def attention_span(levels: nn.Sequential) -> tuple[int, int]:
    """Where the first block that attends begins and where the last one ends: (the layers' number,
    0) if none does."""
    return global_span(levels, lambda one: isinstance(one, Attending))


def described(modules: Sequence[nn.Module]) -> Iterator[LocalLayer]:
    """The layers of levels without attention."""
    for one in modules:
        up, down = 2 if isinstance(one, Up) else 1, 2 if isinstance(one, Down) else 1
        yield layer(one, 2 if isinstance(one, Residual) else 1, up, down)


def level(config: Config, number: int, blocks: int, fixed: bool) -> list[nn.Module]:
    """The blocks of one level: convolutions where pictures are large, attention where they are
    small."""
    width = config.widths[number]
    if number >= config.attend_from:
        return [Attending(width, config.head, config.scales) for _ in range(blocks)]
    return [Residual(width, fixed) for _ in range(blocks)]


class Down(nn.Module):
    """Half the size; the shortcut moves space into channels and takes means of neighbouring
    ones."""

    def __init__(self, before: int, width: int, shuffled: bool, shortcut: bool = True) -> None:
        super().__init__()
        self.shuffled, self.shortcut, self.width = shuffled, shortcut, width
        self.conv = nn.Conv2d(
            before, width // 4 if shuffled else width, 3, stride=1 if shuffled else 2, padding=1
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = F.pixel_unshuffle(y, 2) if self.shuffled else y
        return y + averaged(F.pixel_unshuffle(x, 2), self.width) if self.shortcut else y


class Up(nn.Module):
    """Twice the size; the shortcut repeats channels and moves them into space."""

    def __init__(self, before: int, width: int, shuffled: bool, shortcut: bool = True) -> None:
        super().__init__()
        self.shuffled, self.shortcut, self.width = shuffled, shortcut, width
        self.conv = nn.Conv2d(before, 4 * width if shuffled else width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.shuffled:
            y = F.pixel_shuffle(self.conv(x), 2)
        else:
            y = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y + F.pixel_shuffle(repeated(x, 4 * self.width), 2) if self.shortcut else y


class Residual(nn.Module):
    """Two convolutions and a norm beside a skip."""

    def __init__(self, width: int, fixed: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.ReLU() if fixed else nn.SiLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = FixedNorm(width) if fixed else ChannelNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(self.act(self.conv1(x))))  # type: ignore[no-any-return]


class Attending(nn.Module):
    """Linear attention, then a gated convolutional network, each beside a skip (EfficientViT, arXiv
    2205.14756)."""

    def __init__(self, width: int, head: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.attention = LinearAttention(width, head, scales)
        self.mlp = GatedMLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)  # type: ignore[no-any-return]


class LinearAttention(nn.Module):
    """Attention whose kernel is ReLU, so that its cost grows with the places of an image and not
    with their square.

    Each of ``scales`` is the kernel of a depthwise convolution over queries, keys and values that
    makes more heads.
    """

    def __init__(self, width: int, head: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.head = head
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    3 * width, 3 * width, side, padding=side // 2, groups=3 * width, bias=False
                ),
                nn.Conv2d(3 * width, 3 * width, 1, groups=3 * width // head, bias=False),
            )
            for side in scales
        )
        self.out = nn.Conv2d(width * (1 + len(scales)), width, 1, bias=False)
        self.norm = ChannelNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, *(scale(qkv) for scale in self.scales)], dim=1)
        with torch.autocast(x.device.type, enabled=False):  # sums over all places want float32
            heads = rearrange(qkv.float(), "b (n d) h w -> b n d (h w)", d=3 * self.head)
            q, k, v = heads.chunk(3, dim=2)  # (b, heads, d, hw)
            q, k = F.relu(q), F.relu(k)
            weighed = (v @ k.transpose(-1, -2)) @ q
            y = weighed / (k.sum(-1, keepdim=True).transpose(-1, -2) @ q + 1e-15)
        y = rearrange(y, "b n d (h w) -> b (n d) h w", h=x.shape[-2])
        return self.norm(self.out(y.to(x.dtype)))  # type: ignore[no-any-return]


class GatedMLP(nn.Module):
    """Four times as wide inside, with a depthwise convolution, half of which gates the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inside = 8 * width
        self.enter = nn.Conv2d(width, inside, 1)
        self.depthwise = nn.Conv2d(inside, inside, 3, padding=1, groups=inside)
        self.leave = nn.Conv2d(inside // 2, width, 1, bias=False)
        self.norm = ChannelNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.depthwise(F.silu(self.enter(x))).chunk(2, dim=1)
        return self.norm(self.leave(y * F.silu(gate)))  # type: ignore[no-any-return]


class ChannelNorm(nn.Module):
    """RMS norm over the channels of each place (arXiv 1910.07467), with gain and bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-5)
        return (y * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class FixedNorm(nn.Module):
    """Batch norm whose statistics are part of the weights and never change."""

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, training=False)


def averaged(x: Tensor, width: int) -> Tensor:
    """Means of neighbouring channels, so that ``width`` remain."""
    return reduce(x, "b (c n) h w -> b c h w", "mean", c=width)


def repeated(x: Tensor, width: int) -> Tensor:
    """Each channel as often as makes ``width``."""
    return x.repeat_interleave(width // x.shape[1], dim=1)
