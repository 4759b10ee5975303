"""A model in the layouts of other programs: one file, or a folder for each part; to the bit what it was read from."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from safelight.autoencoders.kl import config as kl_config
from safelight.checkpoints.diffusers_folder import tokenizer
from safelight.checkpoints.native import write_json
from safelight.config import kind_of
from safelight.diffusion.prediction import Noise, NoiseAndVariance, V
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import EDM
from safelight.errors import BadInput, Note
from safelight.files import writing, writing_folder
from safelight.governance.licences import markdown_table
from safelight.layouts import schedulers, training_metadata
from safelight.layouts.detection import all_layouts
from safelight.layouts.families import Family, families, family_of
from safelight.layouts.key_mapping import Layout
from safelight.layouts.text_families import cut
from safelight.model import Card, LatentDiffusion, module
from safelight.nn.text_models import decoder
from safelight.tokenization.tokenizers import BERT_SPECIAL
from safelight.types.diffusion import Prediction
from safelight.weights.progress import Counted, Report, unheard
from safelight.weights.writing import size, write_tensors

TAUGHT: Mapping[Prediction, str] = {Noise(): "epsilon", NoiseAndVariance(): "epsilon", V(): "v"}
"""How metadata calls what a network was taught (the modelspec of single files)."""
VERSION = "0.42.1"  # of diffusers, whose words the folders have
LARGEST = 10 * 10**9  # bytes of one file in a folder; what is larger is divided


class Written(NamedTuple):
    """A part on its way out: our ``state`` of it, and the words that it is written in."""

    part: str  # denoiser, autoencoder, conditioner, towers, eye
    number: int  # of several towers
    config: Any
    state: Mapping[str, Tensor]
    scale: Mapping[str, Any]  # of latents, and sizes, in the words of a folder's configuration


def write_single(model: LatentDiffusion, path: Path, report: Report = unheard) -> None:
    """All parts in one safetensors file, by the names of the family's first publisher; a lone part by bare names.

    Raises BadInput if no family has such parts, or its layout cannot hold what they are.
    """
    if path.suffix != ".safetensors":
        raise BadInput(f"a single file wants a name that ends in .safetensors, got {path.name!r}.")
    family, parts = _parts(model)
    tensors: dict[str, Tensor] = {}
    bare = family is not None and family.bare and len(parts) == 1
    for one in parts:
        if family is None:
            prefix, layout = (
                "",
                _layout("transformers" if one.part == "image_encoder" else "ldm", one),
            )
        else:
            places = family.single[one.part]
            prefix, name = places[one.number] if one.part == "towers" else places
            prefix, layout = "" if bare else prefix, _layout(name, one)
            tensors |= _latents_told(family, one) if one.part == "autoencoder" else {}
        theirs = dict(layout.table(one.config).write(one.state))
        tensors |= {prefix + name: tensor for name, tensor in theirs.items()}
        if family is not None and one.part == "autoencoder" and "again" in family.single:
            tensors |= {
                family.single["again"] + name: tensor.clone() for name, tensor in theirs.items()
            }
    metadata = {
        "format": "pt",
        "modelspec.title": model.card.name,
        "modelspec.license": model.card.licence,
    }
    if family is not None and model.process is not None:
        table, taught = _process(model.process, family, not bare)
        tensors, metadata = tensors | table, metadata | taught
    with writing(path) as aside:
        write_tensors(tensors, aside, metadata, Counted("writing", size(tensors), report))


def _latents_told(family: Family, one: Written) -> dict[str, Tensor]:
    """What a single file says of the autoencoder's latents; BadInput if they have a scale that it cannot say."""
    if "latents_mean" in one.scale:
        both = one.state["scale.mean"], one.state["scale.deviation"] * family.scale
        return {
            name: kept.reshape(1, -1, 1, 1)
            for name, kept in zip(training_metadata.LATENTS, both, strict=True)
        }
    known = {"scaling_factor": family.scale, "shift_factor": family.shift}
    if all(abs(known[key] - value) < 1e-5 for key, value in one.scale.items() if key in known):
        return {}
    if "scale_factor" in family.single.get("marks", ()) and one.scale["shift_factor"] == 0:
        return {"scale_factor": one.state["scale.deviation"][0].double().reciprocal().float()}
    raise BadInput(
        f"a single file of {family.title} has latents of the scale {family.scale:g}, got "
        f"{one.scale['scaling_factor']:g}, which it cannot say; write a folder (--to diffusers)."
    )


def write_folder(model: LatentDiffusion, folder: Path, report: Report = unheard) -> None:
    """A folder of diffusers' layout, with its ``model_index.json``; a lone autoencoder, or image encoder, as the
    folder of one part.

    Raises BadInput if no family has such parts, or if something else is in the way.
    """
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise BadInput(f"{str(folder)!r} is not empty; write to a folder that is new.")
    family, parts = _parts(model)
    if family is not None and not family.folder:
        raise BadInput(
            f"diffusers has no folder of {family.title}; write a single file (--to single-file), or native."
        )
    count = Counted("writing", sum(size(one.state) for one in parts), report)
    with writing_folder(folder) as aside:
        if family is None:
            (only,) = parts
            _write_part(only, aside, count)
            return
        index: dict[str, Any] = {
            "_class_name": family.folder["pipeline"],
            "_diffusers_version": VERSION,
        }
        for one in parts:
            name, library, kind = _place(one, family)
            _write_part(_to_the_last(model, one), aside / name, count)
            index[name] = [library, kind]
            if one.part == "towers":
                words = tokenizer(name)
                index[words] = [
                    "transformers",
                    _write_words(module(model.conditioner), one.number, aside / words),
                ]
        if model.process is not None:
            scheduler = schedulers.write(model.process, model.card.settings)
            _write_scheduler(scheduler, aside / "scheduler")
            index["scheduler"] = ["diffusers", scheduler["_class_name"]]
        for name, scheduler in family.folder.get("schedulers", {}).items():
            _write_scheduler(scheduler, aside / name)
            index[name] = ["diffusers", scheduler["_class_name"]]
        write_json(aside / "model_index.json", dict(sorted(index.items())))
        (aside / "README.md").write_text(_card(model.card), encoding="utf-8")


def _parts(model: LatentDiffusion) -> tuple[Family | None, list[Written]]:
    """The family and all parts; the family is None for an autoencoder or an image encoder alone."""
    parts: list[Written] = []
    family = None
    if model.denoiser is not None:
        config = vars(module(model.denoiser))["config"]
        family = _family(model, kind_of(config), config)
        if family is None:
            raise BadInput(
                f"no public layout holds a denoiser like this ({kind_of(config)}); save it as native."
            )
        parts.append(
            Written("denoiser", 0, config, module(model.denoiser).state_dict(), _sizes(model))
        )
    if model.autoencoder is not None:
        parts.append(_latents(module(model.autoencoder), family))
    if model.conditioner is not None and family is not None and "conditioner" in family.single:
        conditioner = module(model.conditioner)
        parts.append(
            Written("conditioner", 0, vars(conditioner)["config"], conditioner.state_dict(), {})
        )
    elif model.conditioner is not None and family is not None and not family.conditioner:
        parts += _towers(module(model.conditioner), family)
    if model.image_encoder is not None:
        parts.append(
            Written(
                "image_encoder",
                0,
                vars(model.image_encoder)["config"],
                model.image_encoder.state_dict(),
                {},
            )
        )
    if not parts:
        raise BadInput("the model has no part that could be written.")
    return family, parts


def _sizes(model: LatentDiffusion) -> dict[str, int]:
    """What a denoiser's configuration tells of the model around it: the latents' side, and how sizes are heard."""
    if kind_of(vars(module(model.denoiser))["config"]) not in ("unet", "mmdit"):
        return {}
    factor = 8 if model.autoencoder is None else model.autoencoder.factor
    found = {"sample_size": model.card.size[0] // factor}
    if model.conditioner is not None and "frequencies" in (
        config := vars(vars(module(model.conditioner))["config"])
    ):
        found["addition_time_embed_dim"] = config["frequencies"]
    return found


def _family(model: LatentDiffusion, kind: str, config: Any) -> Family | None:
    """The family that was read, or the parts are of; an heir whose files are marked where the process is that one's."""
    beside: set[str] = set()
    if model.conditioner is not None:
        told = vars(module(model.conditioner))["config"]
        beside = {
            kind_of(told),
            *(kind_of(tower.network) for tower in vars(told).get("encoders", ())),
        }
    family = families().get(str(model.card.origin.get("family"))) or family_of(kind, config, beside)
    if family is None or model.process in (None, family.process()):
        return family
    marked = [
        one
        for one in families().values()
        if one.fits.get("beside") in training_metadata.NAMES and one.text == family.text
    ]
    heirs = [
        one
        for one in marked
        if one.knows(kind, config, training_metadata.NAMES) and one.process() == model.process
    ]
    return heirs[-1] if heirs else family


def _latents(autoencoder: nn.Module, family: Family | None) -> Written:
    """An autoencoder whose latents have one scale for all channels, which is all that most layouts can say.

    Where ours has one for each, it goes into the 1×1 convolutions beside the latents, which then make and take
    standard latents themselves: the same pictures but for rounding.
    """
    config, state = vars(autoencoder)["config"], autoencoder.state_dict()
    mean, deviation = state.get("scale.mean"), state.get("scale.deviation")
    if mean is None or deviation is None:
        return Written("autoencoder", 0, config, state, {})
    if bool((mean == mean[0]).all() and (deviation == deviation[0]).all()):
        scale = {"scaling_factor": 1 / float(deviation[0]), "shift_factor": float(mean[0])}
        return Written(
            "autoencoder", 0, config, state, {key: round(value, 6) for key, value in scale.items()}
        )
    if family is not None and training_metadata.LATENTS[0] in family.single.get("marks", ()):
        both = {"latents_mean": mean, "latents_std": deviation * family.scale}
        told = {name: [round(value, 6) for value in one.tolist()] for name, one in both.items()}
        return Written("autoencoder", 0, config, state, {"scaling_factor": family.scale, **told})
    if not isinstance(config, kl_config.Config) or not config.quant:
        raise BadInput(
            "latents with a scale for each channel can be written for kl with quant convolutions only."
        )
    return Written(
        "autoencoder", 0, config, folded(state), {"scaling_factor": 1.0, "shift_factor": 0.0}
    )


def _process(
    process: Process, family: Family, holds: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The marks of the family, and what tells a schedule that is not its usual one: its table, where the file ``holds``
    more than a network. And in its metadata, what the network was taught.

    BadInput for what no file of the family can tell, which its readers would take for something else.
    """
    usual = family.process()
    taught = TAUGHT.get(process.prediction, kind_of(process.prediction))
    if process.prediction != usual.prediction and taught not in TAUGHT.values():
        raise BadInput(
            f"a single file of {family.title} cannot tell the prediction {taught}; write a folder (--to diffusers), "
            "or native."
        )
    metadata = {"modelspec.prediction_type": taught} if taught in TAUGHT.values() else {}
    told = [
        name
        for name in family.single.get("marks", ())
        if name not in (*training_metadata.LATENTS, "scale_factor")
    ]
    marked = training_metadata.write(told, process)
    if process.schedule == usual.schedule or (
        isinstance(process.schedule, EDM) and training_metadata.SIGMAS[0] in marked
    ):
        return marked, metadata
    table = schedulers.table(process.schedule)
    if not holds or schedulers.of_table(table, usual.schedule) != process.schedule:
        raise BadInput(
            f"a single file of {family.title} cannot tell the schedule {process.schedule}; write a folder "
            "(--to diffusers), or native."
        )
    return marked | {"alphas_cumprod": table}, metadata


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a ``kl`` with quant convolutions, with the latents' scale in them and that of none beside."""
    state = dict(state)
    mean, deviation = state["scale.mean"].double(), state["scale.deviation"].double()
    rows = torch.cat(
        [1 / deviation, torch.ones_like(deviation)]
    )  # of the mean, then of the log-variance
    shift = torch.cat([-mean / deviation, -2 * deviation.log()])
    weight, kind = state["quant.weight"].double(), state["quant.weight"].dtype
    state["quant.weight"] = (weight * rows[:, None, None, None]).to(kind)
    state["quant.bias"] = (state["quant.bias"].double() * rows + shift).to(kind)
    weight = state["post_quant.weight"].double()
    state["post_quant.weight"] = (weight * deviation[None, :, None, None]).to(kind)
    state["post_quant.bias"] = (state["post_quant.bias"].double() + weight[:, :, 0, 0] @ mean).to(
        kind
    )
    return state


def _towers(conditioner: nn.Module, family: Family) -> list[Written]:
    if not family.text or kind_of(vars(conditioner)["config"]) != "text-encoders":
        kind = kind_of(vars(conditioner)["config"])
        raise BadInput(
            f"files of {family.title} hold no conditioner of the kind {kind}; save the model as native."
        )
    found = []
    for number, reader in enumerate(vars(conditioner)["_modules"]["encoders"]):
        if isinstance(reader.config.network, decoder.Config):
            told = f"a file of {family.title} is written without its text tower, of which only a part is kept here"
            warnings.warn(f"{told}: bring it from where it came from.", Note, stacklevel=4)
        elif reader.network is not None:
            state = reader.network.state_dict()
            found.append(Written("towers", number, reader.config.network, state, {}))
    return found


def _to_the_last(model: LatentDiffusion, one: Written) -> Written:
    """A tower without the blocks that it does not use: this layout's readers take the last state."""
    if one.part != "towers":
        return one
    reader = vars(model.conditioner)["_modules"]["encoders"][one.number]
    config, state = cut(reader.config, one.state)
    return one._replace(config=config, state=state)


def _layout(name: str, one: Written) -> Layout:
    """The dialect of that name for a part of this kind."""
    part = "tower" if one.part == "towers" else one.part
    for layout in all_layouts():
        if (layout.name, layout.part) == (name, part) and kind_of(layout.example) == kind_of(
            one.config
        ):
            return layout
    raise BadInput(
        f"the layout {name} has no {part} of the kind {kind_of(one.config)}; save the model as native."
    )


def _place(one: Written, family: Family) -> tuple[str, str, str]:
    """The folder of a part, and the library and the class that read it."""
    if one.part == "denoiser":
        return family.folder["denoiser"][0], "diffusers", family.folder["denoiser"][1]
    if one.part == "towers" and family.folder["towers"][one.number] == "LDMBertModel":
        return "bert", "latent_diffusion", "LDMBertModel"
    if one.part == "towers":
        name = "text_encoder" + (f"_{one.number + 1}" if one.number else "")
        return name, "transformers", family.folder["towers"][one.number]
    if "autoencoder" in family.folder:
        return family.folder["autoencoder"][0], "diffusers", family.folder["autoencoder"][1]
    kind = kind_of(one.config)
    if isinstance(one.config, kl_config.Config) and one.config.packed > 1:
        return "vae", "diffusers", "AutoencoderKLFlux2"
    return (
        ("vqvae", "diffusers", "VQModel") if kind == "vq" else ("vae", "diffusers", "AutoencoderKL")
    )


def _write_part(one: Written, folder: Path, count: Counted) -> None:
    """The configuration and the weights of a part, in several files where they are large."""
    reads = one.part in ("towers", "image_encoder")  # by transformers
    layout = _layout("transformers" if reads else "diffusers", one)
    assert layout.describe is not None
    folder.mkdir(parents=True, exist_ok=True)
    told = layout.describe(one.config)
    free = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    more = {
        key: value
        for key, value in one.scale.items()
        if key in told or key in free[: 4 if kind_of(one.config) == "kl" else 1]
    }
    write_json(folder / "config.json", {**told, **more})
    tensors = dict(layout.table(one.config).write(one.state))
    stem = "model" if reads else "diffusion_pytorch_model"
    shards = _shards(tensors)
    for number, shard in enumerate(shards, 1):
        name = (
            f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
            if len(shards) > 1
            else f"{stem}.safetensors"
        )
        write_tensors({key: tensors[key] for key in shard}, folder / name, count=count)
    if len(shards) > 1:
        places = {
            key: f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
            for number, shard in enumerate(shards, 1)
            for key in shard
        }
        total = sum(tensor.nbytes for tensor in tensors.values())
        write_json(
            folder / f"{stem}.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": places},
        )


def _shards(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    held = 0
    for name, tensor in tensors.items():
        if shards[-1] and held + tensor.nbytes > LARGEST:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += tensor.nbytes
    return shards


def _write_scheduler(scheduler: Mapping[str, Any], folder: Path) -> None:
    folder.mkdir()
    write_json(folder / "scheduler_config.json", scheduler)


def _write_words(conditioner: nn.Module, number: int, folder: Path) -> str:
    """Write the tokenizer of a tower as its library saves it → the name of its class there."""
    reader = vars(conditioner)["_modules"]["encoders"][number]
    folder.mkdir()
    (folder / "tokenizer.json").write_text(reader.tokenizer.backend.to_str(), encoding="utf-8")
    length = {"model_max_length": reader.config.length}
    kind = {"t5": "T5TokenizerFast", "bert": "BertTokenizer"}.get(
        reader.config.tokenizer, "CLIPTokenizer"
    )
    markers = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    if reader.config.tokenizer == "clip":
        begin, end = "<|startoftext|>", "<|endoftext|>"
        pad = end if reader.config.padding == "end" else "!"
        markers = {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": pad}
        model = json.loads(reader.tokenizer.backend.to_str())["model"]
        write_json(folder / "vocab.json", model["vocab"])
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (folder / "merges.txt").write_text(
            "#version: 0.2\n" + "\n".join(pairs) + "\n", encoding="utf-8"
        )
    if reader.config.tokenizer == "bert":
        markers = dict(
            zip(
                ("unk_token", "cls_token", "sep_token", "pad_token", "mask_token"),
                BERT_SPECIAL,
                strict=True,
            )
        )
        ids = reader.tokenizer.backend.get_vocab()
        (folder / "vocab.txt").write_text(
            "\n".join(sorted(ids, key=ids.__getitem__)) + "\n", encoding="utf-8"
        )
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": kind, **length, **markers})
    return kind


def _card(card: Card) -> str:
    """The model card, with its licence where the hub looks for it."""
    head = [
        "---",
        "license: other",
        f"license_name: {json.dumps(card.licence, ensure_ascii=False)}",
        "---",
        "",
    ]
    return "\n".join(
        [*head, f"# {card.name}", "", card.summary, "", *markdown_table(card.licences)]
    )
