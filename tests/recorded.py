"""Outputs of other implementations, recorded in tests/recorded or next to the project."""

import json
import os
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import drawn

HERE = Path(__file__).parent / "recorded"
WHOLE = Path(os.environ.get("SAFELIGHT_GOLDENS", Path(__file__).parents[2] / "shared" / "goldens"))
DATA = Path(__file__).parents[2] / "shared" / "data"


class Recording:
    """One family's folder; a test that wants what neither place holds is skipped."""

    latest = ""  # the one that a test opened last, under whose name its errors are written down

    def __init__(self, name: str) -> None:
        Recording.latest = name
        self.folders = [folder for place in (WHOLE, HERE) if (folder := place / name).is_dir()]
        if not self.folders and (drawn_folder := drawn.folder(name)):
            self.folders = [drawn_folder]
        if not self.folders:
            pytest.skip(f"the recordings of {name} are not here")

    def file(self, name: str) -> Path:
        """A file or folder of the recording, the whole one first."""
        for folder in self.folders:
            if (folder / name).exists():
                return folder / name
        pytest.skip(f"{name} is not here")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """``golden.json``."""
        return json.loads(self.file("golden.json").read_text(encoding="utf-8"))

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return load_file(self.file("inputs.safetensors"))

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        return load_file(self.file("outputs.safetensors"))

    def weights(self, name: str) -> dict[str, Tensor]:
        """A file's tensors in the fp32 that the original ran them in."""
        return {
            key: item.float() if item.is_floating_point() else item
            for key, item in load_file(self.file(name)).items()
        }


def difference(got: Tensor, want: Tensor) -> float:
    """The largest difference over the largest value."""
    assert got.shape == want.shape, (got.shape, want.shape)
    return float((got.double() - want.double()).abs().max() / want.double().abs().max())


def error(got: Tensor, want: Tensor) -> float:
    """The difference from what is wanted, which the page of the families tells of."""
    value = difference(got, want)
    if path := os.environ.get("SAFELIGHT_MEASURED"):  # scripts/families_page.py asks
        test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
        with open(path, "a", encoding="utf-8") as file:
            file.write(
                json.dumps({"recording": Recording.latest, "test": test, "error": value}) + "\n"
            )
    return value


def real_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a real full-size checkpoint, ``real.UNET-v1-SD``."""
    with zipfile.ZipFile(HERE / "key-lists.zip") as archive:
        tensors = json.loads(archive.read(f"{name}.json"))["tensors"]
    return {key: tuple(shape) for key, shape in dict(tensors).items()}


def shaken(network: nn.Module) -> Any:
    """The network with every weight a little moved, so that nothing of it is 0."""
    torch.manual_seed(0)
    for parameter in network.requires_grad_(False).parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return network


def shapes_of(file: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """What a dialect recognises a file by."""
    return {name: tuple(item.shape) for name, item in file.items()}
