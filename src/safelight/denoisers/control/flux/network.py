"""The network of the ControlNets for FLUX.1."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.denoisers.control.flux.config import Config
from safelight.denoisers.control.unet.network import hint_encoder
from safelight.denoisers.flux.network import Flux
from safelight.errors import BadInput
from safelight.nn.control import Encode, encode_picture, require_patch_count
from safelight.nn.modulation import init_adaln_zero
from safelight.types.networks import Condition, Denoiser
from safelight.types.tensors import Images, Latents

MODES = ("canny", "tile", "depth", "blur", "pose", "gray", "low-quality")
"""The kinds of picture of InstantX's union, by their numbers."""


class ControlNet(nn.Module):
    """Latents, time, a condition and a picture that ``encode_hint`` has seen → a residual for each
    block of the transformer, the double ones first. It takes ``tokens``, ``vector`` and the scalar
    ``guidance`` as its transformer does.

    One block of ours serves several of theirs: neighbours, or with ``hints`` all in turn, as each
    was taught.
    """

    hint_channels = 3
    projections = 1

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, network = config, config.network
        volume, width = network.channels * network.patch**2, network.width
        self.network = Flux(network, ends=False)
        self.sight = hint_encoder(3, config.hints, network.channels) if config.hints else None
        self.hint = nn.Linear(volume, width)
        self.mode = nn.Embedding(config.modes, width) if config.modes else None
        self.zeros = nn.ModuleList(nn.Linear(width, width) for _ in range(network.double))
        self.single_zeros = nn.ModuleList(nn.Linear(width, width) for _ in range(network.single))
        init_adaln_zero(self)
        for parameter in (
            *self.hint.parameters(),
            *self.zeros.parameters(),
            *self.single_zeros.parameters(),
        ):
            nn.init.zeros_(parameter)
        self.takes = self.network.takes - {"references", "residuals"}
        self.modes: Mapping[str, int] = {name: i for i, name in enumerate(MODES[: config.modes])}
        self.modes = {**self.modes, **{str(i): i for i in range(len(MODES), config.modes)}}
        self.target = network

    def prepare(self, condition: Condition) -> Condition:
        """As the transformer does, with a projection of its own."""
        return self.network.prepare(condition)

    def attach_to(self, denoiser: Denoiser) -> None:
        """BadInput unless it is a FLUX as wide, with text as wide; its depths are what residuals
        are made for."""
        network, own = self.config.network, type(denoiser).__name__
        if isinstance(denoiser, Flux):
            theirs, same = (
                denoiser.config,
                ("channels", "patch", "width", "axes", "text_width", "generation"),
            )
            if all(vars(network)[name] == vars(theirs)[name] for name in same):
                self.target = theirs
                return
            own = f"one of generation {theirs.generation}, {theirs.width} and {theirs.text_width}"
        raise BadInput(
            f"this ControlNet is for a FLUX of generation 1, of width {network.width} and "
            f"texts {network.text_width} "
            f"wide, not for {own}."
        )

    def encode_hint(
        self, hint: Images, encode: Encode | None = None, mode: int | None = None
    ) -> tuple[Tensor, ...]:
        """What is added to the patches, (b, n, width), of a picture (b, 3, h, w) from 0 to 1; and
        the word, (1, 1, width), that says which kind of picture it is, for those that tell them
        apart."""
        if hint.ndim != 4 or hint.shape[1] != 3:
            raise BadInput(
                f"this control wants a picture of 3 colours, got one of shape {tuple(hint.shape)}."
            )
        images = 2 * hint - 1
        hint_features = (
            encode_picture(images, encode)
            if self.sight is None
            else self.sight(images.to(self.hint.weight.dtype))
        )
        sides = self.config.network.patch
        if any(side % sides for side in hint_features.shape[2:]):
            raise BadInput(
                f"this control cannot cut a picture of {tuple(hint.shape[2:])} into patches: "
                "take another."
            )
        added = self.hint(self.network.pack(hint_features.to(self.hint.weight.dtype)))
        if self.mode is None:
            return (added,)
        if mode is None:
            raise BadInput(
                "this control knows several kinds of picture: say which this is, one of "
                f"{', '.join(self.modes)}."
            )
        return added, self.mode.weight[None, mode : mode + 1]

    def forward(
        self, noisy: Latents, time: Tensor, condition: Condition, hint_features: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        condition = self.prepare(condition)
        if self.mode is not None:
            condition = with_prepended_token(condition, hint_features[1])
        image, text, emb, rope, mask, grid = self.network.begin(noisy, time, condition)
        image = image + require_patch_count(hint_features[0], grid)
        double, single = list[Tensor](), list[Tensor]()
        for block, zero in zip(self.network.double_blocks, self.zeros, strict=True):
            image, text = block(image, text, emb, emb, rope, mask)
            double.append(zero(image))
        x, ahead = torch.cat([text, image], dim=1), text.shape[1]
        for layer, zero in zip(self.network.single_blocks, self.single_zeros, strict=True):
            x = layer(x, emb, rope, mask)
            single.append(zero(x[:, ahead:]))
        first = spread(double, self.target.double, in_turn=self.sight is not None)
        return (*first, *spread(single, self.target.single))


def spread(left: Sequence[Tensor], count: int, in_turn: bool = False) -> tuple[Tensor, ...]:
    """What our blocks left, for ``count`` of theirs: each for some neighbours, or all of them
    ``in_turn``."""
    width = ceil(count / len(left)) if left else 1
    return tuple(
        left[index % len(left) if in_turn else index // width]
        for index in range(count if left else 0)
    )


def with_prepended_token(condition: Condition, word: Tensor) -> Condition:
    """The condition, prepared, with a ``word`` (b, 1, width) before its text."""
    tokens = condition.tokens
    if tokens is None:
        raise BadInput(
            "this control tells kinds of picture apart by a word before the text: give a "
            "text, or an empty one."
        )
    (text,) = tokens.projected
    text = torch.cat([word.to(text.dtype).expand(len(text), -1, -1), text], dim=1)
    values, mask = F.pad(tokens.values, (0, 0, 1, 0)), F.pad(tokens.mask, (1, 0), value=True)
    return replace(condition, tokens=replace(tokens, values=values, mask=mask, projected=(text,)))
