"""The network of the ControlNet for U-Nets."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from safelight.denoisers.control.unet.config import Config
from safelight.denoisers.unet.blocks import attention_plan
from safelight.denoisers.unet.encoder import Encoder, prepare, takes
from safelight.denoisers.unet.network import UNet
from safelight.errors import BadInput
from safelight.nn.attention import CrossAttention
from safelight.nn.control import Encode
from safelight.types.networks import Condition, Denoiser
from safelight.types.tensors import Images, Latents


class ControlNet(nn.Module):
    """Latents, time, a condition and a picture that ``encode_hint`` has seen → the residuals of the
    U-Net, first for what each part of the way down leaves, then for the middle.

    It takes ``tokens``, ``vector`` and ``scalars`` as its U-Net does.
    """

    modes: Mapping[str, int] = {}

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.hint_channels = config, config.hint_channels
        self.size_multiple = 2 ** (len(config.network.levels) - 1)
        self.encoder = Encoder(config.network)
        self.hint = hint_encoder(config.hint_channels, config.hints, config.network.levels[0].width)
        self.zeros = nn.ModuleList(nn.Conv2d(width, width, 1) for width in self.encoder.skip_widths)
        self.zero = nn.Conv2d(config.network.levels[-1].width, config.network.levels[-1].width, 1)
        for parameter in (
            *self.hint[-1].parameters(),
            *self.zeros.parameters(),
            *self.zero.parameters(),
        ):
            nn.init.zeros_(parameter)
        self.takes = takes(config.network) - {"channels", "streams"}
        self.projections = 2 * sum(isinstance(one, CrossAttention) for one in self.modules())

    def copy(self, network: UNet) -> "ControlNet":
        """Begin training as the paper does: with the weights of the way down of ``network``, of its
        own channels."""
        state = network.encoder.state_dict()
        state["enter.weight"] = state["enter.weight"][:, : self.encoder.enter.in_channels]
        self.encoder.load_state_dict(state)
        return self

    def prepare(self, condition: Condition) -> Condition:
        """As the U-Net does, with keys and values of its own."""
        return prepare(self, condition, self.takes, self.config.network)

    def attach_to(self, denoiser: Denoiser) -> None:
        """BadInput unless it is a U-Net whose levels and text are as wide."""
        mine, own = (
            (self.encoder.skip_widths, self.config.network.text_width),
            type(denoiser).__name__,
        )
        if isinstance(denoiser, UNet):
            theirs = (denoiser.encoder.skip_widths, denoiser.config.text_width)
            if mine == theirs:
                return
            own = f"one of {theirs[0]} and {theirs[1]}"
        raise BadInput(
            f"this ControlNet is for a U-Net of widths {mine[0]} and texts {mine[1]} wide, "
            f"not for {own}."
        )

    def encode_hint(
        self, hint: Images, encode: Encode | None = None, mode: int | None = None
    ) -> tuple[Tensor, ...]:
        """What is added behind the first convolution, (b, width, h, w), of a picture (b,
        hint_channels, f·h, f·w)."""
        factor = 2 ** (len(self.config.hints) - 1)
        sides = hint.shape[2:]
        if (
            hint.ndim != 4
            or hint.shape[1] != self.config.hint_channels
            or any(one % factor for one in sides)
        ):
            raise BadInput(
                f"this control wants a picture of {self.config.hint_channels} channels and "
                "sides that are multiples of "
                f"{factor}, got {tuple(hint.shape)}."
            )
        return (self.hint(hint.to(self.encoder.enter.weight.dtype)),)

    def forward(
        self, noisy: Latents, time: Tensor, condition: Condition, hint_features: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        condition = self.prepare(condition)
        x = self.encoder.join(noisy, None, self.size_multiple)
        if hint_features[0].shape[2:] != x.shape[2:]:
            size, wanted = ("×".join(map(str, one.shape[2:])) for one in (hint_features[0], x))
            raise BadInput(
                f"this control has seen a picture for latents of {size}, not {wanted}: give one "
                "of that size."
            )
        emb = self.encoder.embed(time, condition)
        x, left = self.encoder(x, emb, attention_plan(self, condition), (), hint_features[0])
        return (*(zero(one) for zero, one in zip(self.zeros, left, strict=True)), self.zero(x))


def hint_encoder(hint_channels: int, widths: Sequence[int], out: int) -> nn.Sequential:
    """Convolutions that look at a picture: of these ``widths``, each after the first at half the
    size, then ``out``."""
    layers: list[nn.Module] = [nn.Conv2d(hint_channels, widths[0], 3, padding=1)]
    for before, width in pairwise(widths):
        layers += [nn.SiLU(), nn.Conv2d(before, before, 3, padding=1)]
        layers += [nn.SiLU(), nn.Conv2d(before, width, 3, stride=2, padding=1)]
    return nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(widths[-1], out, 3, padding=1))
