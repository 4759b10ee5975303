"""The network of the T2I-Adapter."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.denoisers.control.t2i.config import Config, widths
from safelight.denoisers.unet.network import UNet
from safelight.errors import BadInput
from safelight.nn.control import Encode
from safelight.types.networks import Condition, Denoiser
from safelight.types.tensors import Images, Latents


class T2IAdapter(nn.Module):
    """A picture that ``encode_hint`` has seen → the residuals of the U-Net: nothing for control,
    then one a feature."""

    takes: frozenset[str] = frozenset()
    projections = 0
    modes: Mapping[str, int] = {}

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.hint_channels = config, config.channels
        before = config.channels * config.factor**2
        self.unshuffle = nn.PixelUnshuffle(config.factor)
        self.enter = (
            None if config.form == "light" else nn.Conv2d(before, config.widths[0], 3, padding=1)
        )
        before = before if config.form == "light" else config.widths[0]
        stages = []
        for number, width in enumerate(widths(config)):
            down = number == 2 if config.form == "xl" else number > 0
            stages.append(Stage(before, width, config.blocks, down, config.form == "light"))
            before = width
        self.stages = nn.ModuleList(stages)

    def prepare(self, condition: Condition) -> Condition:
        """The condition as it is: the adapter takes nothing of it."""
        return condition

    def attach_to(self, denoiser: Denoiser) -> None:
        """BadInput unless it is a U-Net with as many residuals of control."""
        own = type(denoiser).__name__
        if isinstance(denoiser, UNet):
            count = len(denoiser.encoder.skip_widths) + 1
            if count == self.config.ahead:
                return
            own = f"one of {count}"
        raise BadInput(
            f"this T2I-adapter is for a U-Net of {self.config.ahead} parts on the way down, "
            f"not for {own}."
        )

    def encode_hint(
        self, hint: Images, encode: Encode | None = None, mode: int | None = None
    ) -> tuple[Tensor, ...]:
        """Features of a picture (b, channels, h, w), from fine to coarse."""
        if (
            hint.ndim != 4
            or hint.shape[1] != self.config.channels
            or any(s % self.config.factor for s in hint.shape[2:])
        ):
            raise BadInput(
                f"this adapter wants a picture of {self.config.channels} channels and sides "
                "that are multiples of "
                f"{self.config.factor}, got {tuple(hint.shape)}."
            )
        x, features = self.unshuffle(hint.to(next(self.parameters()).dtype)), []
        x = x if self.enter is None else self.enter(x)
        for stage in self.stages:
            features.append(x := stage(x))
        return tuple(features)

    def forward(
        self, noisy: Latents, time: Tensor, condition: Condition, hint_features: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        nothing = torch.zeros(
            1, 1, 1, 1, dtype=hint_features[0].dtype, device=hint_features[0].device
        )
        return (*[nothing] * self.config.ahead, *hint_features)


class Stage(nn.Module):
    """Half the size if ``down``, another width, residual blocks; a ``light`` one works at a quarter
    of the width."""

    def __init__(self, before: int, width: int, count: int, down: bool, light: bool) -> None:
        super().__init__()
        self.down, inner = down, width // 4 if light else width
        self.enter = nn.Conv2d(before, inner, 1) if before != inner or light else nn.Identity()
        self.blocks = nn.Sequential(*[Block(inner, 3 if light else 1) for _ in range(count)])
        self.leave = nn.Conv2d(inner, width, 1) if light else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 2, ceil_mode=True) if self.down else x
        return self.leave(self.blocks(self.enter(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Convolution, ReLU, convolution, beside a skip."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, side, padding=side // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x))) + x  # type: ignore[no-any-return]
