"""Features of pictures → tokens to attend to: IP-Adapter (arXiv 2308.06721) and its descendants.

A picture has three kinds of features: its CLIP vector, the states of its patches before CLIP's last
block, and the vector of a face in it. Each projection takes features (b, k, …) of k pictures a
prompt by these names and makes tokens (b, k, n, text_width).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import BadInput
from safelight.nn.attention import attend

ImageFeature = Literal["vector", "states", "face"]
"""A picture's vector (d), its states (n, d), or the vector of its face (d)."""
ImageFeatures = Mapping[ImageFeature, Tensor]


class ProjectionConfig(Protocol):
    """The configuration of a projection: the widths of its features and of its tokens."""

    @property
    def reads(self) -> Mapping[ImageFeature, int]: ...

    @property
    def text_width(self) -> int: ...

    def build(self) -> nn.Module: ...


@dataclass(frozen=True)
class LinearProjection:
    """A vector of ``width`` becomes ``tokens`` by one layer: the first IP-Adapter, and FLUX's.

    diffusers: ``ImageProjection``.
    """

    width: int = 1024
    tokens: int = 4
    text_width: int = 768

    @property
    def reads(self) -> Mapping[ImageFeature, int]:
        return {"vector": self.width}

    def build(self) -> "LinearProjector":
        return LinearProjector(self)


@dataclass(frozen=True)
class MlpProjection:
    """A vector becomes ``tokens`` by two layers: that of a face, or each of the picture's states.

    The former is FaceID, the latter the full IP-Adapter (diffusers:
    ``IPAdapterFullImageProjection``).
    """

    feature: Literal["states", "face"] = "face"
    width: int = 512
    hidden: int = 1024
    tokens: int = 4
    text_width: int = 768

    @property
    def reads(self) -> Mapping[ImageFeature, int]:
        reads: dict[ImageFeature, int] = {self.feature: self.width}
        return reads

    def build(self) -> "MlpProjector":
        return MlpProjector(self)


@dataclass(frozen=True)
class Resampler:
    """Queries of width ``inner`` attend to a picture's states, ``depth`` times: IP-Adapter Plus.

    A perceiver resampler (arXiv 2103.03206). ``face``: the width of the face vector from which the
    queries are made, through ``face_hidden`` (FaceID Plus); 0: the queries are learned.
    ``shortcut``: the queries are added to the output, as in the second version of FaceID Plus.
    """

    width: int = 1280
    inner: int = 768
    heads: int = 12
    head_width: int = 64
    depth: int = 4
    hidden: int = 3072
    tokens: int = 16
    text_width: int = 768
    face: int = 0
    face_hidden: int = 0
    shortcut: bool = False

    def __post_init__(self) -> None:
        if self.shortcut and (not self.face or self.inner != self.text_width):
            raise BadInput("a shortcut needs a face, and inner must equal text_width.")

    @property
    def reads(self) -> Mapping[ImageFeature, int]:
        reads: dict[ImageFeature, int] = {"states": self.width}
        return reads | ({"face": self.face} if self.face else {})

    def build(self) -> "ResamplerNetwork":
        return ResamplerNetwork(self)


class LinearProjector(nn.Module):
    """The network of ``LinearProjection``."""

    def __init__(self, config: LinearProjection) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.project = nn.Linear(config.width, config.tokens * config.text_width)
        self.norm = nn.LayerNorm(config.text_width)

    def forward(self, features: ImageFeatures) -> Tensor:
        tokens: Tensor = self.norm(
            self.project(features["vector"]).unflatten(-1, (self.tokens, -1))
        )
        return tokens


class MlpProjector(nn.Module):
    """The network of ``MlpProjection``."""

    def __init__(self, config: MlpProjection) -> None:
        super().__init__()
        self.feature, self.tokens = config.feature, config.tokens
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.tokens * config.text_width)
        self.norm = nn.LayerNorm(config.text_width)

    def forward(self, features: ImageFeatures) -> Tensor:
        vectors = self.fc2(F.gelu(self.fc1(features[self.feature]))).unflatten(
            -1, (self.tokens, -1)
        )
        tokens: Tensor = self.norm(
            vectors
        )  # (b, k, tokens, text_width), of states (b, k, n, tokens, text_width)
        return tokens.flatten(2, -2)


class ResamplerNetwork(nn.Module):
    """The network of ``Resampler``."""

    def __init__(self, config: Resampler) -> None:
        super().__init__()
        self.tokens, self.shortcut = config.tokens, config.shortcut
        width = config.inner
        self.queries = (
            None if config.face else nn.Parameter(torch.randn(1, config.tokens, width) / width**0.5)
        )
        self.face = FaceQueries(config) if config.face else None
        self.proj_in = nn.Linear(config.width, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.proj_out = nn.Linear(width, config.text_width)
        self.norm = nn.LayerNorm(config.text_width)

    def forward(self, features: ImageFeatures) -> Tensor:
        states = features["states"]
        k = states.shape[1]
        source = self.proj_in(states.flatten(0, 1))  # (b · k, n, inner)
        if self.face is not None:
            queries: Tensor = self.face(features["face"].flatten(0, 1))
        else:
            assert self.queries is not None
            queries = self.queries.expand(len(source), -1, -1)  # (b · k, tokens, inner)
        x = queries
        for block in self.blocks:
            x = block(x, source)
        tokens: Tensor = self.norm(self.proj_out(x))
        tokens = queries + tokens if self.shortcut else tokens
        return tokens.reshape(-1, k, *tokens.shape[1:])


class FaceQueries(nn.Module):
    """The vector of a face (b, face) → queries (b, tokens, inner)."""

    def __init__(self, config: Resampler) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.fc1 = nn.Linear(config.face, config.face_hidden)
        self.fc2 = nn.Linear(config.face_hidden, config.tokens * config.inner)
        self.norm = nn.LayerNorm(config.inner)

    def forward(self, face: Tensor) -> Tensor:
        queries: Tensor = self.norm(
            self.fc2(F.gelu(self.fc1(face))).unflatten(-1, (self.tokens, -1))
        )
        return queries


class Block(nn.Module):
    """Attention of queries to the source and to themselves, then an MLP; only norms have biases."""

    def __init__(self, config: Resampler) -> None:
        super().__init__()
        width, inner = config.inner, config.heads * config.head_width
        self.heads = config.heads
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.q = nn.Linear(width, inner, bias=False)
        self.kv = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.fc1 = nn.Linear(width, config.hidden, bias=False)
        self.fc2 = nn.Linear(config.hidden, width, bias=False)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """``x`` (b, tokens, inner), ``source`` (b, n, inner) → as ``x``."""
        queries = self.norm2(x)
        context = torch.cat([self.norm1(source), queries], dim=1)
        q = self.q(queries).unflatten(-1, (self.heads, -1))  # (b, tokens, heads, d)
        k, v = (
            self.kv(context).unflatten(-1, (2, self.heads, -1)).unbind(2)
        )  # (b, n + tokens, heads, d)
        x = x + self.out(attend(q, k, v))
        change: Tensor = self.fc2(F.gelu(self.fc1(self.norm3(x))))
        return x + change
