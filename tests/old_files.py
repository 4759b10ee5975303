"""What is computed from files that earlier versions wrote.

By the script that recorded the numbers, and by the test that computes them again. Tensors are
compared without their names, which may be other ones today.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safelight.errors import BadInput
from safelight.model import LatentDiffusion
from safelight.pipeline import steps
from safelight.settings import Settings
from safelight.tasks.text_to_image import TextToImage
from safelight.types.networks import Condition, Prompt, Tokens

FOLDER = Path(__file__).parent / "recorded" / "before-0.1"
PARTS = ("autoencoder", "conditioner", "denoiser")
PROMPTS = {
    "text": [("a red square", {}), ("", {}), ("a blue circle, very large", {})],
    "label": [("", {"label": "red"}), ("", {"label": "blue"}), ("green", {})],
    "number": [("2", {}), ("0", {})],
    "ids": [("3 1 4 1 5", {}), ("", {})],
    "segments": [("", {"segments": torch.arange(32).view(8, 4) % 3}), ("", {})],
}
SHAPES = {"tokens": (1, 3), "vector": (1,), "noisy": (1,)}


def wave(*shape: int, phase: float = 0.0) -> Tensor:
    """Numbers from -1 to 1 that are the same on every machine."""
    count = torch.Size(shape).numel()
    return torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + phase).float().view(shape)


def summary(tensor: Tensor) -> list[Any]:
    """Shape, mean, mean size and the first numbers of a tensor."""
    values = tensor.detach().double().flatten()
    if not len(values):
        return [list(tensor.shape)]
    return [
        list(tensor.shape),
        float(values.mean()),
        float(values.abs().mean()),
        values[:4].tolist(),
    ]


def tensors(state: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Shape and mean size of each tensor, those that hold text among them."""
    return {
        name: [list(value.shape), float(value.double().abs().mean())]
        if value.numel()
        else [list(value.shape)]
        for name, value in state.items()
    }


def close(got: Any, want: Any, tolerance: float = 1e-4) -> bool:
    """Whether two trees of numbers are the same within a share of the largest number."""
    if isinstance(want, Mapping):
        return set(got) == set(want) and all(close(got[key], want[key], tolerance) for key in want)
    if isinstance(want, float):
        return abs(got - want) <= tolerance * max(abs(want), 1e-3)
    if isinstance(want, list):
        size = max((abs(one) for one in want if isinstance(one, float)), default=0.0)
        return len(got) == len(want) and all(
            abs(one - other) <= tolerance * max(size, 1e-3)
            if isinstance(other, float)
            else close(one, other, tolerance)
            for one, other in zip(got, want, strict=True)
        )
    return bool(got == want)


def same_tensors(
    got: Mapping[str, list[Any]], want: Mapping[str, list[Any]], tolerance: float = 1e-5
) -> bool:
    """Whether the same tensors are there, whatever their names."""
    return close(sorted(got.values()), sorted(want.values()), tolerance)


def leaves(value: Any) -> Iterator[str]:
    """The values in a tree of options, but for the names of kinds."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from () if key == "kind" else leaves(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from leaves(one)
    else:
        yield (
            repr(float(value))
            if isinstance(value, int | float) and not isinstance(value, bool)
            else repr(value)
        )


def lost(want: Any, got: Any) -> list[str]:
    """The values of ``want`` that ``got`` lacks; it may hold more, such as a new option."""
    return sorted((Counter(leaves(want)) - Counter(leaves(got))).elements())


@torch.no_grad()
def answers(model: LatentDiffusion, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What each part answers to ``inputs``: a size, prompts by name, the denoiser's shapes."""
    found: dict[str, Any] = {}
    if model.autoencoder is not None:
        encoding = model.autoencoder.encode(wave(1, 3, *inputs["size"]))
        found["mean"] = summary(encoding.mean)
        if encoding.deviation is not None:
            found["deviation"] = summary(encoding.deviation)
        found["decoded"] = summary(model.autoencoder.decode(wave(*encoding.mean.shape, phase=1.0)))
    if model.conditioner is not None:
        prompts = [Prompt(text, given) for text, given in PROMPTS[inputs["prompts"]]]
        said = {"said": model.conditioner(prompts)}
        with suppress(BadInput):  # a model of classes may have been taught one in every picture
            said["nothing"] = model.conditioner.null_condition(prompts[:1])
        for name, one in said.items():
            if one.tokens is not None:
                found[f"{name} tokens"] = summary(one.tokens.values * one.tokens.mask[..., None])
            for way, value in (
                ("vector", one.vector),
                ("channels", one.channels),
                *one.scalars.items(),
            ):
                if value is not None:
                    found[f"{name} {way}"] = summary(value)
    if model.denoiser is not None:
        ways = inputs["condition"]
        tokens = wave(*ways["tokens"]) if "tokens" in ways else None
        condition = Condition(
            tokens=None
            if tokens is None
            else Tokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)),
            vector=wave(*ways["vector"], phase=2.0) if "vector" in ways else None,
            channels=wave(*ways["channels"], phase=3.0) if "channels" in ways else None,
            scalars={
                name: torch.tensor([value]) for name, value in ways.get("scalars", {}).items()
            },
        )
        noisy, time = wave(*inputs["noisy"], phase=4.0), torch.tensor([inputs["time"]])
        found["answer"] = summary(model.denoiser(noisy, time, model.denoiser.prepare(condition)))
    return found


def sampled(model: LatentDiffusion, settings: Mapping[str, Any]) -> list[Any]:
    """The latents at the end of the walk that these settings say."""
    latents = torch.zeros(())
    for step in steps(
        model, TextToImage("a red square", negative="a blue circle"), Settings(**settings)
    ):
        latents = step.noisy
    return summary(latents)
