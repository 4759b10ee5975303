"""Small pictures of coloured shapes, tiny models, recipes and runs for tests."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import tomli_w
import torch
from PIL import Image, ImageDraw

from forked import Forked
from safelight import cli
from safelight.autoencoders.kl.config import Config as KL
from safelight.autoencoders.kl.network import KL as KLNetwork
from safelight.card import Card
from safelight.checkpoints import save
from safelight.conditioners.text import Config as Text
from safelight.config import read
from safelight.denoisers.dit.config import Config as DiT
from safelight.diffusion.prediction import Flow
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import Linear
from safelight.media.pictures import to_images
from safelight.model import LatentDiffusion
from safelight.settings import Settings
from safelight.training.loop import train
from safelight.training.recipe import Recipe
from safelight.training.run import Run
from safelight.types.networks import Prompt

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (30, 60, 220)}
SHAPES = ("square", "circle")

AUTOENCODER = {"width": 8, "multipliers": [1, 2], "blocks": 1, "groups": 4}
TEXT = {"vocabulary": 300, "length": 16, "width": 16, "depth": 1, "heads": 2}
DENOISER = {"patch": 4, "width": 32, "depth": 1, "heads": 2, "text_width": 16, "vector_width": 16}


def shape(colour: str, kind: str = "square", shift: int = 0, size: int = 32) -> Image.Image:
    """One coloured shape on white."""
    picture = Image.new("RGB", (size, size), "white")
    box = (size // 4 + shift, size // 4 - shift, 3 * size // 4 + shift, 3 * size // 4 - shift)
    draw = ImageDraw.Draw(picture)
    (draw.rectangle if kind == "square" else draw.ellipse)(box, fill=COLOURS[colour])
    return picture


def shapes(folder: Path, captions: bool = True) -> Path:
    """Twelve pictures in folders by colour, which are their labels, each with a caption."""
    for colour in COLOURS:
        (folder / colour).mkdir(parents=True)
        for kind in SHAPES:
            for shift in (-3, 2):
                path = folder / colour / f"{kind}{shift}.png"
                shape(colour, kind, shift).save(path)
                if captions:
                    path.with_suffix(".txt").write_text(f"a {colour} {kind}", encoding="utf-8")
    return folder


def tiny_model(settings: Settings | None = None) -> LatentDiffusion:
    """All parts, with random weights that answer something, and few default steps.

    As after training, latents have little spread of their own, and unit variance over the shapes.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conditioner = Text(**TEXT).build()
        conditioner.fit([Prompt(f"a {colour} {kind}") for colour in COLOURS for kind in SHAPES])
        model = LatentDiffusion(
            autoencoder=read(KL, AUTOENCODER).build(),
            conditioner=conditioner,
            denoiser=read(DiT, DENOISER).build(),
            process=Process(Linear(), Flow()),
            card=Card(
                name="tiny", size=(32, 32), settings=settings or Settings(steps=3), licence="CC0"
            ),
        )
        with torch.no_grad():
            for part in (model.denoiser, model.conditioner):
                for parameter in part.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            autoencoder = cast(KLNetwork, model.autoencoder)
            autoencoder.quant.bias[4:] = -8.0
            autoencoder.scale.measure(
                [autoencoder.encode(to_images([shape(name) for name in COLOURS]))]
            )
    return model


def saved_model(folder: Path) -> Path:
    """``tiny_model`` as a model folder."""
    save(tiny_model(), folder)
    return folder


def tables(
    stage: str, data: Path, autoencoder: Path | None = None, **changes: Any
) -> dict[str, Any]:
    """A recipe of a stage as nested tables, with ``changes`` such as ``loop__updates=3``."""
    tree: dict[str, Any] = {
        "objective": {"kind": stage},
        "data": {"kind": "folder", "paths": [str(data)], "licence": "CC0"},
        "framing": {"size": 32},
        "rate": {"peak": 1e-3, "warmup": 2},
        "loop": {"updates": 4, "batch": 4, "precision": "fp32", "device": "cpu", "ema": 0.9},
        "watch": {"write": 2, "check": 0, "sheet": 0, "save": 5, "pictures": 4},
        "seed": 3,
    }
    if stage == "reconstruction":
        tree["objective"]["autoencoder"] = {"kind": "kl", **AUTOENCODER}
    else:
        tree["objective"] |= {
            "autoencoder": str(autoencoder),
            "denoiser": {"kind": "dit", **DENOISER},
            "conditioner": {"kind": "text", **TEXT},
            "settings": {"steps": 2},
            "prompts": ["a red square"],
        }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = tree
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    return tree


def recipe(tree: Mapping[str, Any]) -> Recipe:
    return read(Recipe, tree)


def write_recipe(path: Path, tree: Mapping[str, Any]) -> Path:
    path.write_text(tomli_w.dumps(tree), encoding="utf-8")
    return path


def go(folder: Path, recipe: Recipe, cache: Path | None = None) -> Run:
    """Start or resume a run and train it to its end."""
    run = Run(folder, recipe)
    with run.claim():
        for _ in train(run, cache or folder.parent / "cache", lambda *progress: None):
            pass
    return run


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics but for what the machine's speed decides."""
    lines = [
        json.loads(line)
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [
        {key: value for key, value in line.items() if key != "pictures_a_second"} for line in lines
    ]


def command(*words: object, **environment: str) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "safelight.cli", *map(str, words)],
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def forked(*words: object, **environment: str) -> Forked:
    """The command line in a process of its own, a second or two sooner."""
    return Forked([*map(str, words)], os.environ | environment)


def exit_code(monkeypatch: Any, *words: object) -> int:
    """Run the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["safelight", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return end.code or 0
    return 0
