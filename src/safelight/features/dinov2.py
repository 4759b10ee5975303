"""DINOv2 (Oquab et al., arXiv 2304.07193): a vision transformer trained without labels, whose
vectors agree better with people about generated pictures than Inception's do (Stein et al., arXiv
2306.04675). The user gives its weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.pretrained import at_least, native, weights_of
from safelight.types.tensors import Images

SIDE = 224
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = {384: "s", 768: "b", 1024: "l", 1536: "g"}

NAMES = [  # transformers' names → those of the original's files
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.(cls_token|register_tokens|mask_token)$", r"\1"),
    (r"^(?:encoder|model)\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"^layernorm\.", "norm."),
]
PARTS = [
    [f"attention.attention.{part}" for part in ("query", "key", "value")],
    [f"attention.{part}_proj" for part in ("q", "k", "v")],  # since transformers 5, in memory
]


@dataclass(frozen=True)
class Config:
    """``weights``: a safetensors file of DINOv2 with the names of its authors
    (``blocks.0.attn.qkv.weight``) or of transformers (``encoder.layer.0.attention…``), with
    registers or without.

    ``heads``: of its attention; 0: of 64 features each, as in all public ones.
    """

    weights: str
    heads: int = 0

    def build(self) -> "DINOv2":
        return DINOv2(self)


class DINOv2(nn.Module):
    """Images (b, 3, h, w) in [-1, 1] to maps of five depths, a place for each patch. It never
    trains; gradients pass through it to the images. BadInput for the weights of another network."""

    heads: tuple[Tensor, ...] = ()

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        tensors = original_names(weights_of(Path(config.weights)))
        tensors.pop("mask_token", None)  # of its training
        if (
            not {"pos_embed", "cls_token", "patch_embed.proj.weight", "norm.weight"}
            <= tensors.keys()
        ):
            raise BadInput(
                f"{config.weights!r} is not DINOv2: wanted its tensors cls_token, pos_embed, "
                f"patch_embed.proj.weight and others; got {', '.join(sorted(tensors)[:3])}, …"
            )
        width, _, self.patch, _ = tensors["patch_embed.proj.weight"].shape
        depth = sum(name.endswith(".attn.proj.weight") for name in tensors)
        self.min_size = self.patch
        self.name = f"dinov2-vit-{SIZES.get(width, width)}-{self.patch}"
        self.cls_token, self.pos_embed = (
            nn.Parameter(torch.empty_like(tensors[name])) for name in ("cls_token", "pos_embed")
        )
        self.registers = "register_tokens" in tensors
        if self.registers:
            self.register_tokens = nn.Parameter(torch.empty_like(tensors["register_tokens"]))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, self.patch, self.patch)})
        hidden = _hidden(tensors)
        heads = config.heads or width // 64
        gated = "blocks.0.mlp.w12.weight" in tensors
        self.blocks = nn.ModuleList(Block(width, heads, hidden, gated) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)
        try:
            self.load_state_dict(tensors)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise BadInput(
                f"{config.weights!r} is not DINOv2 as it was published: {reason}"
            ) from None
        self.requires_grad_(False)

    def maps(self, images: Images) -> tuple[Tensor, ...]:
        """The patches after blocks at five even depths (all, if it has fewer), (b, width, h, w)."""
        at_least(self.name, self.min_size, images)
        depth = len(self.blocks)
        indices = sorted({depth * number // 5 - 1 for number in range(1, 6)} - {-1})
        rows, columns = (side // self.patch for side in images.shape[-2:])
        states = self._states(images)
        patches = [states[number][:, -rows * columns :] for number in indices]
        return tuple(
            rearrange(state, "b (h w) d -> b d h w", h=rows, w=columns) for state in patches
        )

    def vector(self, images: Images) -> Tensor:
        """(b, width): the normed class token, of images scaled to 224×224, bilinear."""
        y: Tensor = self.norm(self._states(native(images, SIDE))[-1][:, 0])
        return y

    def _states(self, images: Images) -> list[Tensor]:
        """The states after each block: class token, registers, patches (b, n, width)."""
        pixels = ((images + 1) / 2 - self.get_buffer("mean")) / self.get_buffer("deviation")
        x = self.patch_embed["proj"](pixels)  # (b, width, rows, columns)
        places = self._positions(*x.shape[-2:])
        first = self.cls_token + self.pos_embed[:, :1]
        parts = [first.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2) + places]
        if self.registers:
            parts.insert(1, self.register_tokens.expand(len(x), -1, -1))
        x = torch.cat(parts, dim=1)
        states = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        return states

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The learned square of positions, scaled bicubically to the patches at hand."""
        learned = self.pos_embed[:, 1:]
        side = int(learned.shape[1] ** 0.5)
        if (rows, columns) == (side, side):
            return learned
        square = rearrange(learned, "b (h w) d -> b d h w", h=side)
        scaled = F.interpolate(
            square,
            (rows, columns),
            mode="bicubic",
            antialias=self.registers,  # as those with registers were trained
            align_corners=False,
        )
        return scaled.flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled by learned factors: (b, n, width) → the same."""

    def __init__(self, width: int, heads: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.count = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )
        self.ls1, self.ls2 = Scale(width), Scale(width)
        self.mlp = Gated(width, hidden) if gated else Plain(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, self.count, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 × (b, heads, n, d)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.ls1(self.attn["proj"](mixed))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class Scale(nn.Module):
    """A learned factor for each feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Plain(nn.Module):
    """The MLP of the smaller networks."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class Gated(nn.Module):
    """The MLP of the giant: SwiGLU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        y: Tensor = self.w3(F.silu(gate) * value)
        return y


def original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of DINOv2's authors; those of transformers are translated."""
    bare = {
        re.sub(r"^dinov2(_with_registers)?\.", "", name): item for name, item in tensors.items()
    }
    translated: dict[str, Tensor] = {}
    for name, tensor in bare.items():
        if not any(f".{part}." in name for parts in PARTS for part in parts):
            translated[_original_name(name)] = tensor
    for query, key, value in PARTS:
        for name in [item for item in bare if f".{query}." in item]:
            parts = [bare.get(name.replace(query, item)) for item in (query, key, value)]
            if any(part is None for part in parts):
                raise BadInput(
                    f"DINOv2: {name} has no key or value beside it; the file is not whole."
                )
            block, kind = re.findall(r"layer\.(\d+)\..*\.(weight|bias)$", name)[0]
            whole = torch.cat([part for part in parts if part is not None])
            translated[f"blocks.{block}.attn.qkv.{kind}"] = whole
    return translated


def _original_name(name: str) -> str:
    for theirs, original in NAMES:
        name = re.sub(theirs, original, name)
    return name


def _hidden(tensors: Mapping[str, Tensor]) -> int:
    for name in ("blocks.0.mlp.fc1.weight", "blocks.0.mlp.w3.weight"):
        if name in tensors:
            return tensors[name].shape[0] if "fc1" in name else tensors[name].shape[1]
    raise BadInput("DINOv2: its first block has no MLP; the file is not whole.")
