"""Inception v3 (Szegedy et al., arXiv 1512.00567) as it was trained for TensorFlow in 2015: the
network of the published Fréchet and kernel inception distances. The user gives its weights."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.pretrained import at_least, weights_of
from safelight.types.tensors import Images

SIDE = 299
MAP_LAYERS = ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")


@dataclass(frozen=True)
class Config:
    """``weights``: a safetensors file of ``pt_inception-2015-12-05`` (pytorch-fid, torch-fidelity),
    with the names that it has there (``Conv2d_1a_3x3.conv.weight``, …, ``fc.weight`` of 1008
    classes)."""

    weights: str

    def build(self) -> "Inception":
        return Inception(self)


class Inception(nn.Module):
    """Images (b, 3, h, w) in [-1, 1], 75 pixels a side or more, to maps of 64, 192, 288, 768 and
    2048 channels. It never trains; gradients pass through it to the images. BadInput for other
    weights."""

    name = "inception-v3"
    min_size = 75
    heads: tuple[Tensor, ...] = ()

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        for name, module in _layers().items():
            self.add_module(name, module)
        self.fc = nn.Linear(2048, 1008)
        tensors = weights_of(Path(config.weights))
        tensors = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
        if any(name.startswith("AuxLogits.") for name in tensors):
            raise BadInput(
                f"{config.weights!r} is torchvision's Inception, whose features are others; wanted "
                "pt_inception-2015-12-05, the weights of the published distances."
            )
        try:
            self.load_state_dict(tensors)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise BadInput(f"{config.weights!r} is not Inception v3 for FID: {reason}") from None
        self.requires_grad_(False)

    def maps(self, images: Images) -> tuple[Tensor, ...]:
        """The last layer of each size, at the size of the images."""
        at_least(self.name, self.min_size, images)
        maps = []
        x = images
        for name in LAYERS:
            x = self._layer(name, x)
            maps += [x] if name in MAP_LAYERS else []
        return tuple(maps)

    def vector(self, images: Images) -> Tensor:
        """(b, 2048): the last layer's mean over places, of images scaled to 299×299.

        They are scaled as clean-fid does (arXiv 2104.11222): bicubic, antialiased, in floating
        point; then 8-bit values become (x - 128) / 128, as in TensorFlow's graph.
        """
        if tuple(images.shape[-2:]) != (SIDE, SIDE):
            images = F.interpolate(
                images, (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False
            )
        x = ((images + 1) * 127.5 - 128) / 128
        for name in LAYERS:
            x = self._layer(name, x)
        pooled: Tensor = x.mean((2, 3))
        return pooled

    def _layer(self, name: str, x: Tensor) -> Tensor:
        if name == "pool":
            return F.max_pool2d(x, 3, 2)
        y: Tensor = self.get_submodule(name)(x)
        return y


LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "pool"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "pool"),
    *(
        "Mixed_5b",
        "Mixed_5c",
        "Mixed_5d",
        "Mixed_6a",
        "Mixed_6b",
        "Mixed_6c",
        "Mixed_6d",
        "Mixed_6e",
    ),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c"),
)


def _layers() -> dict[str, nn.Module]:
    return {
        "Conv2d_1a_3x3": Convolution(3, 32, 3, stride=2),
        "Conv2d_2a_3x3": Convolution(32, 32, 3),
        "Conv2d_2b_3x3": Convolution(32, 64, 3, padding=1),
        "Conv2d_3b_1x1": Convolution(64, 80, 1),
        "Conv2d_4a_3x3": Convolution(80, 192, 3),
        "Mixed_5b": MixedFive(192, 32),
        "Mixed_5c": MixedFive(256, 64),
        "Mixed_5d": MixedFive(288, 64),
        "Mixed_6a": ReductionSix(288),
        "Mixed_6b": MixedSix(768, 128),
        "Mixed_6c": MixedSix(768, 160),
        "Mixed_6d": MixedSix(768, 160),
        "Mixed_6e": MixedSix(768, 192),
        "Mixed_7a": ReductionSeven(768),
        "Mixed_7b": MixedSeven(1280, "mean"),
        "Mixed_7c": MixedSeven(2048, "max"),  # a slip of the original, which its weights know
    }


class Normalisation(nn.Module):
    """A batch norm that keeps the statistics of its training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=1e-3)


class Convolution(nn.Module):
    """A convolution without bias, normalised and rectified; kernels may be oblong."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = Normalisation(after)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y.relu()


def _wide(before: int, after: int) -> Convolution:
    return Convolution(before, after, (1, 7), padding=(0, 3))


def _tall(before: int, after: int) -> Convolution:
    return Convolution(before, after, (7, 1), padding=(3, 0))


def _mean_pool(x: Tensor) -> Tensor:
    """TensorFlow's: the border is not counted."""
    return F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)


class MixedFive(nn.Module):
    """Four branches at 35×35: 1×1, 5×5, two 3×3, pooled."""

    def __init__(self, before: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(before, 64, 1)
        self.branch5x5_1 = Convolution(before, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Convolution(before, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, padding=1)
        self.branch_pool = Convolution(before, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_mean_pool(x))], 1)


class ReductionSix(nn.Module):
    """From 35×35 to 17×17."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(before, 384, 3, stride=2)
        self.branch3x3dbl_1 = Convolution(before, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class MixedSix(nn.Module):
    """Four branches at 17×17, with 7×7 taken apart into rows and columns."""

    def __init__(self, before: int, inside: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(before, 192, 1)
        self.branch7x7_1 = Convolution(before, inside, 1)
        self.branch7x7_2 = _wide(inside, inside)
        self.branch7x7_3 = _tall(inside, 192)
        self.branch7x7dbl_1 = Convolution(before, inside, 1)
        self.branch7x7dbl_2 = _tall(inside, inside)
        self.branch7x7dbl_3 = _wide(inside, inside)
        self.branch7x7dbl_4 = _tall(inside, inside)
        self.branch7x7dbl_5 = _wide(inside, 192)
        self.branch_pool = Convolution(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_mean_pool(x))], 1)


class ReductionSeven(nn.Module):
    """From 17×17 to 8×8."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(before, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Convolution(before, 192, 1)
        self.branch7x7x3_2 = _wide(192, 192)
        self.branch7x7x3_3 = _tall(192, 192)
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(x, 3, 2)], 1)


class MixedSeven(nn.Module):
    """Four branches at 8×8, two of which end in a row and a column side by side."""

    def __init__(self, before: int, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Convolution(before, 320, 1)
        self.branch3x3_1 = Convolution(before, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Convolution(before, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Convolution(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _mean_pool(x) if self.pool == "mean" else F.max_pool2d(x, 3, 1, padding=1)
        branches = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        branches += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([*branches, self.branch_pool(pooled)], 1)
