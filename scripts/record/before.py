"""Small files of every kind that this version writes, with what is computed from them, for tests/test_old_files.py.

Run it once, on the last commit before names change: python scripts/record/before.py
"""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import chdir
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))

import making  # noqa: E402
from old_files import FOLDER, answers, sampled, tensors  # noqa: E402
from safelight.checkpoints import load, save  # noqa: E402
from safelight.checkpoints.native import PARTS, fingerprint  # noqa: E402
from safelight.conditioners.reading.pieces import clip, wordpiece  # noqa: E402
from safelight.config import Slot, dump, read, read_toml  # noqa: E402
from safelight.diffusion.process import Process  # noqa: E402
from safelight.errors import BadInput  # noqa: E402
from safelight.generate import generate, recipe, resolve  # noqa: E402
from safelight.governance.licences import Licensed  # noqa: E402
from safelight.media.pictures import to_images, write_png  # noqa: E402
from safelight.model import Card, LatentDiffusion, licensed, with_more  # noqa: E402
from safelight.settings import SAMPLER, Settings  # noqa: E402
from safelight.tasks.compose import Compose  # noqa: E402
from safelight.tasks.text_to_image import TextToImage  # noqa: E402
from safelight.training.loop import train  # noqa: E402
from safelight.training.recipe import Recipe  # noqa: E402
from safelight.training.run import Run, open_run  # noqa: E402
from safelight.types import Prompt  # noqa: E402

AUTOENCODERS: dict[str, dict[str, Any]] = {
    "kl": {"width": 4, "multipliers": [1, 1], "blocks": 1, "groups": 2, "latent_channels": 2},
    "kl-packed": {
        "kind": "kl",
        "width": 4,
        "multipliers": [1, 1],
        "blocks": 1,
        "groups": 2,
        "attention": [2],
        "quant": False,
        "latent_channels": 2,
        "packed": 2,
    },
    "vq": {
        "width": 4,
        "multipliers": [1, 1],
        "blocks": 1,
        "groups": 2,
        "latent_channels": 2,
        "hidden_channels": 3,
        "attention": [2],
        "codebook": {"number": 8, "normalise": True, "restart": 3},
    },
    "vq-mean": {
        "kind": "vq",
        "width": 4,
        "multipliers": [1, 1],
        "blocks": 1,
        "groups": 2,
        "latent_channels": 2,
        "middle": False,
        "legacy": True,
        "beta": 0.5,
        "codebook": {"number": 8, "decay": 0.9},
    },
    "dcae": {
        "widths": [4, 8],
        "encoder_blocks": [1, 1],
        "decoder_blocks": [1, 1],
        "attend_from": 1,
        "scales": [3],
        "head": 4,
        "latent_channels": 4,
        "fixed_norm": True,
        "resample": "plain",
    },
    "tiny": {"width": 4, "blocks": 1, "levels": 2, "pool": False},
    "identity": {"channels": 3},
}
DIT = {"patch": 2, "width": 8, "depth": 2, "heads": 2, "text_width": 8, "vector_width": 8, "channels": 2}
FLUX = {"channels": 4, "width": 8, "axes": [2, 2, 4], "double": 1, "single": 2, "text_width": 8, "mlp_ratio": 2.0}
UNET = {
    "levels": [{"width": 4, "depth": 1, "heads": 2}, {"width": 4, "depth": 1, "heads": 2}],
    "norm": {"groups": 2},
    "blocks": 1,
    "text_width": 4,
}
TOWARDS = {"text_only": True}
DENOISERS: dict[str, dict[str, Any]] = {
    "dit-cross": {"kind": "dit", **DIT},
    "dit-joint": {"kind": "dit", **DIT, "heads": 1, "text": "joint", "extra_channels": 2, "modulation": "shared"},
    "dit-closed": {"kind": "dit", "width": 8, "depth": 1, "heads": 2, "text": "none", "axes": 2},
    "unet": {
        "kind": "unet",
        **UNET,
        "levels": [{**UNET["levels"][0], **TOWARDS}, UNET["levels"][1]],  # type: ignore[dict-item]
        "vector_width": 3,
        "extra_channels": 2,
        "classes": 3,
    },
    "unet-modulated": {
        "kind": "unet",
        **UNET,
        "norm": {"groups": 2, "modulated": True, "eps": 1e-6},
        "residual_resize": True,
        "linear": False,
    },
    "unet-guided": {
        "kind": "unet",
        **UNET,
        "guidance": 6,
        "middle": -1,
        "levels": [{**UNET["levels"][0], "up": [0, 2]}, UNET["levels"][1]],  # type: ignore[dict-item]
    },
    "unet-plain": {
        "kind": "unet",
        **UNET,
        "text_width": 0,
        "levels": [{"width": 4, "depth": 0}, {"width": 4, "heads": 2}],
    },
    "mmdit": {
        "kind": "mmdit",
        "channels": 4,
        "width": 8,
        "depth": 2,
        "heads": 2,
        "text_width": 8,
        "vector_width": 5,
        "side": 8,
        "mlp_ratio": 2.0,
        "dual": [0],
    },
    "mmdit-plain": {
        "kind": "mmdit",
        "channels": 4,
        "width": 8,
        "depth": 2,
        "heads": 2,
        "text_width": 8,
        "vector_width": 5,
        "side": 8,
        "mlp_ratio": 2.0,
        "qk_norm": False,
    },
    "flux": {"kind": "flux", **FLUX, "vector_width": 5, "extra_channels": 2},
    "flux-2": {"kind": "flux", **FLUX, "axes": [2, 2, 2, 2], "vector_width": 0, "generation": 2},
    "plain-dit": {
        "kind": "plain-dit",
        "width": 8,
        "depth": 2,
        "heads": 2,
        "side": 4,
        "classes": 5,
        "embedders": "each",
    },
    "plain-dit-sit": {
        "kind": "plain-dit",
        "width": 8,
        "depth": 1,
        "heads": 2,
        "side": 4,
        "classes": 5,
        "variance": "ignored",
        "to_clean": True,
        "embedders": "inclusive",
        "mlp_eps": 1e-5,
    },
    "plain-dit-learned": {"kind": "plain-dit", "width": 8, "depth": 1, "heads": 2, "side": 4, "variance": "learned"},
}
TEXT = {"kind": "text", "vocabulary": 262, "length": 16, "width": 8, "depth": 1, "heads": 2}
CLIP = {"kind": "clip", "width": 4, "depth": 2, "heads": 2, "hidden": 8, "vocabulary": 520, "length": 12}
T5 = {
    "kind": "t5",
    "width": 4,
    "depth": 1,
    "heads": 2,
    "head": 2,
    "hidden": 8,
    "vocabulary": 12,
    "buckets": 8,
    "farthest": 16,
}
BERT = {"kind": "bert", "width": 4, "depth": 1, "heads": 2, "head": 2, "hidden": 8, "vocabulary": 16, "length": 12}
DECODER = {
    "kind": "decoder",
    "width": 4,
    "taps": [1, 2],
    "heads": 2,
    "shared": 1,
    "head": 4,
    "hidden": 8,
    "vocabulary": 12,
    "qk_norm": True,
    "base": 1e4,
}
CONDITIONERS: dict[str, tuple[str, dict[str, Any]]] = {  # with the prompts that they are tried with
    "text": ("text", TEXT),
    "text-tokens": ("text", {**TEXT, "pooled": False, "length": 8}),
    "label": ("label", {"kind": "label", "classes": 4, "width": 8}),
    "label-attended": ("label", {"kind": "label", "classes": 4, "width": 4, "attended": True, "absence": False}),
    "label-numbered": ("number", {"kind": "label", "classes": 5, "width": 0, "numbered": True}),
    "segments": (
        "segments",
        {"kind": "segments", "classes": 3, "channels": 2, "halvings": 1, "bias": True, "size": [8, 4]},
    ),
    "nothing": ("text", {"kind": "nothing"}),
    "towers": (
        "text",
        {
            "kind": "towers",
            "towers": [
                {
                    "network": {**CLIP, "projection": 6},
                    "length": 12,
                    "chunks": 2,
                    "pooled": "projected",
                    "skip": 1,
                    "norm": False,
                },
                {
                    "network": {**CLIP, "activation": "gelu", "temperature": True},
                    "length": 12,
                    "pad": "zero",
                    "pooled": "plain",
                },
                {"network": {**T5, "width": 6}, "words": "t5", "length": 5, "row": 1, "pad": "zero", "absent": True},
            ],
            "sizes": ["original_size", "crop", "target_size"],
            "frequencies": 4,
            "native": [32, 32],
            "empty": "zeros",
        },
    ),
    "towers-bert": (
        "text",
        {
            "kind": "towers",
            "towers": [{"network": BERT, "words": "bert", "length": 12, "pad": "own"}],
            "frequencies": 8,
        },
    ),
    "towers-ids": (
        "ids",
        {
            "kind": "towers",
            "towers": [
                {"network": T5, "words": "ids", "length": 6, "pad": "own", "row": 0},
                {"network": DECODER, "words": "ids", "length": 6, "pad": "zero", "row": 1},
            ],
        },
    ),
}
MODELS: dict[str, tuple[str | None, str | None, str, Any]] = {  # each part at least once
    "whole": ("kl", "text", "dit-cross", {"schedule": {"kind": "linear"}, "prediction": {"kind": "flow"}}),
    "joint": ("kl-packed", "text-tokens", "dit-joint", {"schedule": {"kind": "linear"}, "prediction": {"kind": "v"}}),
    "closed": ("identity", "nothing", "dit-closed", {"schedule": {"kind": "cosine"}, "prediction": {"kind": "clean"}}),
    "sd": ("vq", "towers", "unet", {"schedule": {"kind": "scaled-linear"}, "prediction": {"kind": "noise"}}),
    "adm": (
        "vq-mean",
        "towers-bert",
        "unet-modulated",
        {"schedule": {"kind": "linear-beta"}, "prediction": {"kind": "noise"}},
    ),
    "lcm": (
        "tiny",
        None,
        "unet-guided",
        {"schedule": {"kind": "scaled-linear"}, "prediction": {"kind": "edm", "negated": True}},
    ),
    "plain": (None, "segments", "unet-plain", {"schedule": {"kind": "sigmoid"}, "prediction": {"kind": "v"}}),
    "sd35": ("dcae", None, "mmdit", None),
    "sd3": (None, "towers-ids", "mmdit-plain", None),
    "flux": (None, "label-attended", "flux", None),
    "flux2": (None, None, "flux-2", None),
    "classes": (None, "label-numbered", "plain-dit", {"schedule": {"kind": "edm"}, "prediction": {"kind": "edm"}}),
    "sit": (None, "label", "plain-dit-sit", {"schedule": {"kind": "linear"}, "prediction": {"kind": "flow"}}),
    "learned": (
        None,
        None,
        "plain-dit-learned",
        {"schedule": {"kind": "table"}, "prediction": {"kind": "noise-and-variance"}},
    ),
}
SPECIAL: dict[tuple[str, str], dict[str, Any]] = {  # what cannot be varied by itself
    ("diffusion.samplers.*", "heun"): {"churn": 1.0, "churn_from": 0.05, "churn_to": 50.0, "swell": 1.01},
    ("diffusion.samplers.*", "euler"): {"eta": 0.5, "swell": 1.02},
    ("diffusion.spacing", "times"): {"times": [1.0, 0.75, 0.5, 0.25, 0.0]},
    ("diffusion.spacing", "sigmas"): {"sigmas": [8.0, 3.0, 1.0, 0.3, 0.1]},
    ("diffusion.guidance", "skip-layers"): {"blocks": [0]},
    ("diffusion.guidance", "perturbed-attention"): {"blocks": [0]},
    ("features", "lpips"): {"trunk": "vgg", "weights": "vgg16.safetensors"},
    ("data.sources", "folder"): {
        "paths": ["shapes.zip"],
        "only": {"split": "train"},
        "caption": "text",
        "broken": "skip",
    },
    ("tasks", "compose"): {"prompts": "a | b", "place": "rows", "weights": "1,0.5", "negative": "c", "width": 32},
    ("training.objectives", "denoising"): {"autoencoder": "whole", "hints": {"scale": 0.5, "family": "sd1"}},
    ("training.objectives", "reconstruction"): {
        "costs": {"kl": 1e-5, "quantisation": 0.5},
        "perceptual": {"weight": 0.5},
        "adversarial": {"begins": 3, "most": 10.0, "rate": 0.5},
        "log_variance": 0.1,
        "equivariance": 0.1,
        "robust": 0.2,
    },
}
ROOMS = (
    "autoencoders",
    "conditioners",
    "denoisers",
    "nn.towers",
    "features",
    "data.sources",
    "diffusion.schedule",
    "diffusion.prediction",
    "diffusion.density",
    "diffusion.samplers.*",
    "diffusion.spacing",
    "diffusion.guidance",
    "tasks",
    "training.objectives",
    "training.optimisers",
    "training.discriminators",
    "evaluation.metrics",
)


def shaken(part: nn.Module) -> nn.Module:
    """The part with every weight a little moved, so that nothing of it is zero."""
    with torch.no_grad():
        for value in part.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return part.eval()


def words(part: nn.Module) -> None:
    """Tokenizers for text encoders that are too small for those that ship."""
    for reader in getattr(part, "towers", ()):
        if reader.tower.absent or reader.tower.words == "ids":
            continue
        tokenizer = clip([["r", "e"], ["re", "d</w>"]])
        if reader.tower.words == "bert":
            tokenizer = wordpiece(
                ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "square", "circle"]
            )
        reader.words.give({"tokenizer.json": tokenizer.to_str().encode()}, "a test")


def built(room: str, options: Mapping[str, Any]) -> Any:
    part = shaken(Slot(room).read(options).build())
    if room == "conditioners":
        words(part)
        lessons = [
            Prompt(f"a {colour} {shape}", {"label": colour}) for colour in making.COLOURS for shape in making.SHAPES
        ]
        if options["kind"] == "label" and not options.get("numbered"):
            lessons = [*lessons, Prompt("", {"label": "grey"})]
        if not (options["kind"] == "label" and options.get("numbered")):
            part.learn(lessons)
    return part


def card(name: str) -> Card:
    """A card with all that one may hold."""
    settings = Settings(steps=3, sampler="euler:swell=1.0", guidance=2.0)
    if name == "sd":
        settings = Settings(
            steps=4,
            sampler=SAMPLER.write(SAMPLER.read("heun:churn=1.0,swell=1.01")),
            spacing="picked:among=20",
            guidance="interval:of=apg,scale=3,high=0.9",
            one_batch=False,
            emphasis="mean",
        )
    origin = {
        "files": ["a.safetensors"],
        "fingerprint": "0" * 64,
        "dialect": ["ldm-unet"],
        "family": "sd1",
        "hints": {"scale": 0.2, "text_head_width": 2},
        "assumed": {"latents of": "sd1"},
        "lacking": {"autoencoder": "sd-vae-ft-mse"},
    }
    licences = [Licensed("denoiser", "a.safetensors", "MIT"), Licensed("conditioner", "b.safetensors", "", "CLIP: MIT")]
    mine = Card(
        name=name,
        summary="A toy.",
        size=(16, 16),
        settings=settings,
        data=({"paths": ["shapes.zip"], "licence": "CC0", "count": 12},),
        origin=origin if name == "sd" else {"updates": 3},
        preview=((0.1, 0.2, 0.3), (0.2, 0.1, 0.0), (0.3, 0.1, 0.1)),
        adapters={"style.safetensors": 0.5, "edges.safetensors=map.png": 1.0} if name == "sd" else {},
    )
    return licensed(mine, licences)


def inputs(name: str, conditioner: str | None, denoiser: Mapping[str, Any], model: LatentDiffusion) -> dict[str, Any]:
    config = vars(vars(model.denoiser)["config"])
    ways: dict[str, Any] = {}
    if config.get("text_width") and config.get("text") != "none":
        ways["tokens"] = [1, 3, config["text_width"]]
    if config.get("vector_width"):
        ways["vector"] = [1, config["vector_width"]]
    if config.get("extra_channels"):
        ways["channels"] = [1, config["extra_channels"], 8, 8]
    scalars = {}
    if config.get("classes"):
        scalars["label" if denoiser["kind"] == "plain-dit" else "noise_level"] = 2
    if config.get("guidance"):
        scalars["guidance"] = 3.5
    ways |= {"scalars": scalars} if scalars else {}
    return {
        "size": [16, 16],
        "prompts": CONDITIONERS[conditioner][0] if conditioner else "",
        "condition": ways,
        "noisy": [1, config["channels"], 8, 8],
        "time": 0.3,
    }


def model(name: str) -> tuple[LatentDiffusion, dict[str, Any]]:
    autoencoder, conditioner, denoiser, process = MODELS[name]
    torch.manual_seed(len(name))
    options = AUTOENCODERS[autoencoder] if autoencoder else {}
    whole = LatentDiffusion(
        autoencoder=built("autoencoders", {"kind": autoencoder, **options}) if autoencoder else None,
        conditioner=built("conditioners", CONDITIONERS[conditioner][1]) if conditioner else None,
        denoiser=built("denoisers", DENOISERS[denoiser]),
        process=Process(
            Slot("diffusion.schedule").read(process["schedule"]),
            Slot("diffusion.prediction").read(process["prediction"]),
        )
        if process
        else None,
        card=card(name),
    )
    if autoencoder == "kl":
        scale = vars(whole.autoencoder)["_modules"]["scale"]
        scale.measure([whole.autoencoder.encode(to_images([making.shape(one) for one in making.COLOURS]))])  # type: ignore[union-attr]
    return whole, inputs(name, conditioner, DENOISERS[denoiser], whole)


def varied(cls: type, name: str, value: Any) -> Iterator[Any]:
    """Other values for a field than its own."""
    hint = get_type_hints(cls).get(name)
    if isinstance(value, bool):
        yield not value
    elif get_origin(hint) is Literal:
        yield from (one for one in get_args(hint) if one != value)
    elif isinstance(value, float):
        yield from (value * 0.75 + 0.125, value + 0.5)
    elif isinstance(value, int):
        yield from (value + 1, max(1, value // 2))


def kinds(room: str) -> list[dict[str, Any]]:
    """Each kind of a room twice: as it is by default, and with every option changed that can be changed alone."""
    slot, found = Slot(room), []
    for kind in slot.kinds():
        cls = slot.config(kind)
        needed = SPECIAL.get((room, kind), {})
        try:
            plain = slot.read({"kind": kind, **needed})
        except BadInput:
            continue  # what holds a function is never written
        found.append(slot.write(plain))
        changed = plain
        for one in fields(cls):
            if one.name in needed or (one.default is MISSING and one.default_factory is MISSING):
                continue
            for other in varied(cls, one.name, vars(changed)[one.name]):
                try:
                    changed = slot.read(slot.write(replace(changed, **{one.name: other})))
                    break
                except BadInput:
                    continue
        if changed != plain:
            found.append(slot.write(changed))
    return found


def walks(folder: Path, options: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Where the toy model ends by each sampler, spacing and guidance that fits it, as settings say."""
    whole, found = load(folder, "cpu", "fp32"), []
    base = {"steps": 4, "seed": 5, "count": 1, "sampler": "euler", "spacing": "uniform", "guidance": 3.0}
    for field, room in (
        ("sampler", "diffusion.samplers.*"),
        ("spacing", "diffusion.spacing"),
        ("guidance", "diffusion.guidance"),
    ):
        for one in options[room]:
            settings = {**base, field: one}
            try:
                settings = dump(resolve(whole, Settings(**settings)))
                found.append({"settings": settings, "ends": sampled(whole, settings)})
            except (BadInput, KeyError) as error:
                print(f"not walked: {one}: {error}")
    return found


def rounded(value: Any) -> Any:
    """A tree with its numbers to six digits."""
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def data(place: Path) -> None:
    making.shapes(place / "shapes")
    with zipfile.ZipFile(place / "shapes.zip", "w") as archive:
        for path in sorted((place / "shapes").rglob("*.*")):
            archive.writestr(zipfile.ZipInfo(str(path.relative_to(place / "shapes"))), path.read_bytes())
    shutil.rmtree(place / "shapes")


def tree(stage: str) -> dict[str, Any]:
    """The recipe of a toy run, its paths relative."""
    common = {"loop__updates": 8, "watch__save": 5, "framing__size": 16}
    if stage == "denoising":
        made = making.tables("denoising", Path("shapes.zip"), Path("whole"), **common)
        made["objective"] |= {
            "denoiser": {**DENOISERS["dit-cross"], "depth": 1, "mlp_ratio": 1.0},
            "conditioner": TEXT,
            "settings": {"steps": 2, "sampler": "heun:swell=1.01", "spacing": "picked", "guidance": "interval:scale=3"},
            "density": {"kind": "logit-normal", "strata": 4},
        }
        return made | {"optimiser": {"kind": "muon", "least": 8}, "title": "toy"}
    made = making.tables("reconstruction", Path("shapes.zip"), **common, framing__mirror=True)
    made["objective"] |= {
        "autoencoder": {"kind": "kl", **AUTOENCODERS["kl"], "width": 2, "groups": 1},
        "costs": {"kl": 1e-5},
        "log_variance": 0.0,
        "equivariance": 0.1,
        "robust": 0.1,
        "adversarial": {
            "discriminator": {"kind": "patch", "width": 4, "layers": 1, "norm": "actnorm"},
            "begins": 3,
            "r1": 1.0,
            "optimiser": {"kind": "adamw", "betas": [0.5, 0.9]},
        },
    }
    return made


def run(stage: str, place: Path) -> dict[str, Any]:
    """Record a run after 5 of 8 updates; then go on, for the numbers of its end."""
    folder = place / f"run-{stage}"
    with chdir(place):
        begun = Run(Path(folder.name), read(Recipe, tree(stage)))
        done = 0

        def stop() -> bool:
            return done >= 5

        with begun.claim():
            for progress in train(begun, Path("cache"), lambda *told: None, stop):
                done = progress.update
        for name in ("metrics.png", "lock", "samples", "model"):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.copytree(folder.name, "kept")
        again = open_run(Path("kept"))
        with again.claim():
            for _ in train(again, Path("cache"), lambda *told: None):
                pass
        (last,) = again.checkpoints[-1:]
        lines = [{k: v for k, v in one.items() if k != "pictures_a_second"} for one in again.metrics()]
        ended = load(Path("kept"), "cpu", "fp32")
        found = {
            "last": last.name,
            "metrics": lines,
            "tensors": {name: tensors(part.state_dict()) for name in PARTS if (part := vars(ended)[name]) is not None},
        }
        shutil.rmtree("kept")
        shutil.rmtree("cache", ignore_errors=True)
    return found


def pictures(place: Path) -> dict[str, Any]:
    whole = load(place / "whole", "cpu", "fp32")
    named = with_more(
        whole,
        {"style.safetensors": 0.5, "birb": 1.0, "edges.safetensors=map.png": 1.0},
        [Licensed("adapter", "style.safetensors", "MIT"), Licensed("control", "edges.safetensors", "MIT")],
    )
    foreign = replace(whole, card=replace(whole.card, hash="", origin=card("sd").origin))
    drawn = {
        "text-to-image": (whole, TextToImage("a red square", "blue", 16, 16), Settings(seed=3, emphasis="none")),
        "compose": (whole, Compose("a red square | a circle", "columns", "1,0.5"), Settings(spacing="picked")),
        "adapted": (named, TextToImage("birb"), Settings(sampler="heun:swell=1.01,churn=0.5", guidance=2.0)),
        "beside": (
            replace(whole, beside={"weak": foreign}),
            TextToImage("a square"),
            Settings(guidance="interval:of=autoguidance,scale=2"),
        ),
        "foreign": (foreign, TextToImage("a square"), Settings(guidance="apg:scale=3")),
    }
    found = {}
    for name, (model, task, settings) in drawn.items():
        picture = generate(model, task, settings)[0]
        found[name] = recipe(model, task, settings)
        write_png(picture, place / f"{name}.png", found[name])
    return found


README = """# Files from before version 0.1.0, when names were other ones

What commit {commit} wrote, with toy widths and seeded random weights:
native folders with every kind of part, two runs that stopped after 5 of 8 updates, pictures with their
recipes inside, recipes, and the configuration of the embedded model. `expected.json` holds what was computed
from them then: shape and mean size of each tensor, the answers of each part to fixed inputs, where each
sampler, spacing and guidance leads, the numbers at the end of the runs, and every option of every kind.

`tests/test_old_files.py` opens them all with the code of today. They are never written again: the script
`scripts/record/before.py`, as it was on that code, wrote them. The weights are random numbers and nobody's.
"""


def main() -> None:
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%H", "--", "src"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    torch.set_num_threads(1)
    data(FOLDER)
    expected: dict[str, Any] = {"models": {}}
    for name in MODELS:
        made, given = model(name)
        if name != "whole":  # the others in half the bytes
            for part in filter(None, (vars(made)[part] for part in PARTS)):
                part.half()
        save(made, FOLDER / name)
        opened = load(FOLDER / name, "cpu", "fp32")
        expected["models"][name] = {
            "inputs": given,
            "answers": answers(opened, given),
            "tensors": {part: tensors(one.state_dict()) for part in PARTS if (one := vars(opened)[part]) is not None},
            "fingerprints": {part: fingerprint(one) for part in PARTS if (one := vars(opened)[part]) is not None},
        }
    options = {room: kinds(room) for room in ROOMS}
    expected["kinds"] = options
    expected["walks"] = walks(FOLDER / "whole", options)
    expected["runs"] = {stage: run(stage, FOLDER) for stage in ("denoising", "reconstruction")}
    expected["pictures"] = pictures(FOLDER)
    recipes = FOLDER / "recipes"
    recipes.mkdir()
    shutil.copy(ROOT / "recipes" / "stickers.toml", recipes)
    shutil.copy(ROOT / "recipes" / "first-stage" / "vqgan-f16-n1024.toml", recipes)
    expected["recipes"] = {path.name: dump(read(Recipe, read_toml(path))) for path in sorted(recipes.glob("*.toml"))}
    embedded = FOLDER / "embedded"
    embedded.mkdir()
    for name in ("config.json", "recipe.json"):
        shutil.copy(ROOT / "src" / "safelight" / "models" / "stickers" / name, embedded)
    (FOLDER / "README.md").write_text(README.format(commit=commit.strip()), encoding="utf-8")
    (FOLDER / "expected.json").write_text(
        json.dumps(rounded(expected), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
