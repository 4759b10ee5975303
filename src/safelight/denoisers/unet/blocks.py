"""The blocks of the U-Net, and which of its attention layers attend to what."""

from collections.abc import Collection, Iterator

from torch import Tensor, nn

from safelight.denoisers.unet.config import Config, Level
from safelight.nn.attention import Context, CrossAttention
from safelight.nn.spatial_transformer import Contexts, How, PlainAttention, Transformer
from safelight.nn.unet_blocks import Residual, Resize
from safelight.types.networks import Condition

Layers = Collection[int]
"""Layers of attention by their numbers: see ``UNet.variant``."""


class Block(nn.Module):
    """A residual block and, where the level attends, attention; or one that changes the size,
    without attention."""

    def __init__(self, config: Config, before: int, level: Level, resize: Resize = "") -> None:
        super().__init__()
        self.residual = residual(config, before, level.width, resize)
        self.attention: Transformer | PlainAttention | None = None
        groups, eps = config.norm.groups, config.norm.eps
        if level.depth and not resize and config.text_width:
            self.attention = Transformer(
                level.width, level.depth, level.heads, config.text_width, level.text_only, groups
            )
        elif level.depth and not resize:
            self.attention = PlainAttention(level.width, level.heads, groups, eps)

    def forward(self, x: Tensor, emb: Tensor, context: Contexts, how: How) -> Tensor:
        x = self.residual(x, emb)
        return x if self.attention is None or how == "skipped" else self.attention(x, context, how)


def residual(config: Config, before: int, width: int, resize: Resize = "") -> Residual:
    return Residual(
        before,
        width,
        config.embedding_width,
        config.norm.groups,
        config.norm.eps,
        config.norm.modulated,
        resize,
    )


def blocks(network: nn.Module) -> list[Block]:
    """All blocks, in the order in which they are passed."""
    return [one for one in network.modules() if isinstance(one, Block)]


def attention_plan(
    network: nn.Module, condition: Condition, skip: Layers = (), alone: Layers = ()
) -> Iterator[tuple[Contexts, How]]:
    """The contexts of each block and how it attends, in the order of computation; ``condition``
    is prepared."""
    sequences = [one for one in (condition.tokens, *condition.streams) if one is not None]
    pairs = [
        (tuple(zip(one.projected[::2], one.projected[1::2], strict=True)), one.mask)
        for one in sequences
    ]
    number, layer = 0, 0
    for block in blocks(network):
        count = sum(isinstance(one, CrossAttention) for one in block.modules())
        context = tuple(
            tuple(Context(*each[index], mask) for each, mask in pairs)
            for index in range(number, number + count)
        )
        attends = block.attention is not None
        how: How = (
            "skipped"
            if attends and layer in skip
            else "alone"
            if attends and layer in alone
            else "whole"
        )
        number, layer = number + count, layer + attends
        yield context, how


def zero_init_branches(network: nn.Module) -> None:
    """Zero wherever a branch joins the trunk, so that each block starts as its skip."""
    for module in network.modules():
        last = {Residual: "conv2", Transformer: "leave", PlainAttention: "leave"}.get(type(module))
        if last:
            joining = module.get_submodule(last)
            for parameter in joining.parameters():
                nn.init.zeros_(parameter)
