"""LoRA files: their layers placed in a model by the key mappings of its parts; and written."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from safelight.adapters.lora import Adapter, Layer, Spot
from safelight.attachments.lora_names import (
    PREFIXES,
    XLABS,
    family_title,
    has_low_rank,
    split_name,
)
from safelight.checkpoints.detach import detach
from safelight.config import kind_of
from safelight.errors import BadInput, unknown
from safelight.files import writing
from safelight.layouts.detection import all_layouts
from safelight.layouts.key_mapping import KeyMapping
from safelight.model import LatentDiffusion, module
from safelight.weights.files import open_weights
from safelight.weights.writing import write_tensors

Mappings = Mapping[str, Sequence[KeyMapping]]
"""The key mappings of a part in all layouts, by part (denoiser, tower.0, …)."""


def read_adapter(path: Path, model: LatentDiffusion) -> Adapter:
    """The adapter in a file, for this model.

    BadInput if it is none, or one for another family or size.
    """
    adapter = place_adapter(open_weights(path), mappings_of_model(model), path.name)
    adapter.check(adaptable_parts(model))
    return adapter


def is_adapter(path: Path) -> bool:
    """Whether a path is a file of low-rank matrices, by its names alone."""
    return path.is_file() and has_low_rank(open_weights(path))


def adaptable_parts(model: LatentDiffusion) -> dict[str, nn.Module]:
    """What adapters can change: the denoiser, and each text encoder by its number."""
    model = detach(model)
    parts = {} if model.denoiser is None else {"denoiser": module(model.denoiser)}
    if model.conditioner is not None:
        encoders = vars(module(model.conditioner))["_modules"].get("encoders", ())
        parts |= {
            f"tower.{number}": encoder.network
            for number, encoder in enumerate(encoders)
            if encoder.network is not None
        }
    return parts


def mappings_of_model(model: LatentDiffusion) -> Mappings:
    """The key mappings of all that adapters can change."""
    return {
        name: mappings_of(name.split(".")[0], vars(part)["config"])
        for name, part in adaptable_parts(model).items()
    }


def mappings_of(part: str, config: object) -> list[KeyMapping]:
    """The key mappings of a denoiser or text encoder in every layout of its kind."""
    kind = kind_of(config)
    return [
        layout.table(config)
        for layout in all_layouts()
        if layout.part == part and layout.example and kind_of(layout.example) == kind
    ]


def place_adapter(file: Mapping[str, Tensor], known: Mappings, where: str) -> Adapter:
    """The adapter in a file's tensors, each layer at its place in the model.

    Kohya's names have underscores for dots, which only the modules' names can undo: all are
    compared so. Tensors for text encoders that the model lacks are in ``left``. Raises BadInput
    for names that belong to nothing.
    """
    modules = {part: ModuleNames(mappings) for part, mappings in known.items()}
    numbered = _numbered_modules(known)
    absent = tuple(
        prefix
        for part, prefixes in PREFIXES.items()
        if part not in known
        for prefix in prefixes
        if prefix
    )
    layers: dict[tuple[str, str], dict[str, Tensor]] = {}
    ignored: list[str] = []
    unplaced: list[str] = []
    embeddings: dict[str, Tensor] = {}
    file = _split_single_blocks(file)
    for name in file:
        if name.startswith("<"):
            embeddings[name] = file[name]
            continue
        path, tensor = split_name(name, numbered)
        place = next(_places(path, modules), None)
        if place is not None:
            layers.setdefault(place, {})[tensor] = file[name]
        elif path.replace(".", "_").startswith(absent):
            ignored.append(name)
        else:
            unplaced.append(name)
    if unplaced or not layers:
        raise BadInput(_refusal(where, unplaced or [*file], known))
    placed = [
        Layer(part, path, tensors, modules[part].weights[path], modules[part].biases.get(path))
        for (part, path), tensors in layers.items()
    ]
    return Adapter(where, tuple(placed), tuple(ignored), embeddings)


class ModuleNames:
    """The modules of a part by the names of other layouts, and where their tensors are in ours."""

    def __init__(self, mappings: Sequence[KeyMapping]) -> None:
        self.weights: dict[str, Spot] = {}
        self.biases: dict[str, Spot] = {}
        for mapping in mappings:
            for rule in mapping.rules:
                for index, name in enumerate(rule.theirs):
                    path, _, last = name.rpartition(".")
                    if last == "bias":
                        self.biases.setdefault(path, Spot(rule, index))
                    else:  # a tensor that is no weight, as a norm's scale, by its own name
                        key = path if last == "weight" else name
                        self.weights.setdefault(key, Spot(rule, index))
        self.underscored: dict[str, set[str]] = {}
        for path in self.weights:
            self.underscored.setdefault(path.replace(".", "_"), set()).add(path)

    def find(self, name: str) -> str | None:
        """The module of that name, with dots or underscores; None unless there is exactly one."""
        if name in self.weights:
            return name
        matches = self.underscored.get(name.replace(".", "_"), set())
        return next(iter(matches)) if len(matches) == 1 else None


def transformer_blocks(known: Mappings) -> list[str]:
    """A U-Net's transformer blocks by diffusers' names in its order: down, up, middle."""
    names = ModuleNames(known.get("denoiser", ())).weights
    paths = [path for path in names if re.match(r"(down|up|mid)_block", path)]
    matches = (re.match(r".*\.transformer_blocks\.\d+", path) for path in paths)
    blocks = dict.fromkeys(match[0] for match in matches if match)
    return sorted(blocks, key=lambda block: "dum".index(block[0]))


def write_adapter(adapter: Adapter, path: Path, layout: str = "kohya") -> None:
    """Write a safetensors file in the layout of kohya or PEFT.

    The modules keep the names of the file that the adapter came from.
    """
    with writing(path) as temporary:
        write_tensors(adapter_tensors(adapter, layout), temporary)


def adapter_tensors(adapter: Adapter, layout: str) -> dict[str, Tensor]:
    """The tensors of an adapter in the layout ``kohya`` or ``peft``.

    PEFT's files have no alpha: the second matrix is multiplied by it. Without alpha the tensors
    are the same bit for bit. Raises BadInput for what PEFT's layout cannot hold.
    """
    if layout not in ("kohya", "peft"):
        raise unknown("layout of adapters", layout, ("kohya", "peft"))
    write = _kohya_tensors if layout == "kohya" else _peft_tensors
    several = any(layer.part == "tower.1" for layer in adapter.layers)
    return {name: tensor for layer in adapter.layers for name, tensor in write(layer, several)}


def _kohya_tensors(layer: Layer, several: bool) -> Iterator[tuple[str, Tensor]]:
    """A layer's tensors by kohya's names; text encoders have numbers if there are several."""
    if layer.part == "denoiser":
        prefix = "lora_unet"
    else:
        number = int(layer.part.removeprefix("tower.")) + 1
        prefix = f"lora_te{number if several else ''}"
    names = {
        "up": "lora_up.weight",
        "down": "lora_down.weight",
        "mid": "lora_mid.weight",
        "magnitude": "dora_scale",
        "bias": "diff_b",
    }
    path = layer.module.replace(".", "_")
    for name, tensor in layer.tensors.items():
        yield f"{prefix}_{path}.{names.get(name, name)}", tensor


def _peft_tensors(layer: Layer, several: bool) -> Iterator[tuple[str, Tensor]]:
    """A layer's tensors by PEFT's names, alpha multiplied into the second matrix."""
    if layer.part == "denoiser":
        is_unet = re.match(r"(down|up|mid)_block", layer.module)
        prefix = "unet" if is_unet else "transformer"
    else:
        number = int(layer.part.removeprefix("tower."))
        prefix = f"text_encoder_{number + 1}" if number else "text_encoder"
    names = {
        "up": "lora_B.weight",
        "down": "lora_A.weight",
        "bias": "lora_B.bias",
        "magnitude": "lora_magnitude_vector",
    }
    if unsupported := set(layer.tensors) - set(names) - {"alpha"}:
        raise BadInput(
            f"PEFT's layout has no {', '.join(sorted(unsupported))} ({layer.module}); "
            "write it as kohya."
        )
    for name, tensor in layer.tensors.items():
        if name == "alpha":
            continue
        if name == "up" and "alpha" in layer.tensors:
            factor = layer.tensors["alpha"].float() / layer.tensors["down"].shape[0]
            tensor = (tensor.float() * factor).to(tensor.dtype)
        tensor = tensor.flatten() if name == "magnitude" else tensor
        yield f"{prefix}.{layer.module}.{names[name]}", tensor


def _split_single_blocks(file: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The file with x-labs' queries, keys and values of single blocks by diffusers' names.

    In FLUX these are the first rows of a larger layer, which x-labs leave unchanged otherwise.
    """
    tensors: dict[str, Tensor] = {}
    for name in file:
        match = XLABS.fullmatch(name)
        if match is None or match[1] == "double":
            tensors[name] = file[name]
        elif match[3] == "proj":
            tensors[f"single_blocks.{match[2]}.linear2.lora_{match[5]}.weight"] = file[name]
        else:
            parts = file[name].chunk(3) if match[5] == "up" else (file[name],) * 3
            path = f"single_transformer_blocks.{match[2]}.attn"
            for letter, part in zip("qkv", parts, strict=True):
                tensors[f"{path}.to_{letter}.lora_{match[5]}.weight"] = part
    return tensors


def _places(path: str, modules: Mapping[str, ModuleNames]) -> Iterator[tuple[str, str]]:
    """The parts and modules of ours that a module's name in a file may stand for."""
    underscored = path.replace(".", "_")
    for part, names in modules.items():
        for prefix in PREFIXES[part]:
            if not underscored.startswith(prefix):
                continue
            rest = path[len(prefix) :]
            without = re.sub(r"^text_model[._]", "", rest)
            for candidate in (rest, f"text_model.{rest}", without):
                if name := names.find(candidate):
                    yield part, name


def _numbered_modules(known: Mappings) -> dict[str, str]:
    """The modules that cloneofsimo's files number, in the order of diffusers, the middle last."""
    attention = [f"attn1.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
    second = [name.replace("1", "2", 1) for name in attention]
    layers = [*attention, "ff.net.0.proj", *second]
    names = [f"{block}.{layer}" for block in transformer_blocks(known) for layer in layers]
    modules = {f"unet:{number}": f"unet.{name}" for number, name in enumerate(names)}
    for block in range(64):
        for number, name in enumerate(("k_proj", "v_proj", "q_proj", "out_proj")):
            path = f"text_encoder.text_model.encoder.layers.{block}.self_attn.{name}"
            modules[f"text_encoder:{4 * block + number}"] = path
    return modules


def _refusal(where: str, unplaced: Sequence[str], known: Mappings) -> str:
    """Why an adapter is not for this model."""
    if not unplaced:
        return f"{where} holds no adapter: it has no tensors."
    family = family_title(name.replace(".", "_") for name in unplaced)
    names = ", ".join(name[:100] for name in unplaced[:3])
    names += f" and {len(unplaced) - 3} more" if len(unplaced) > 3 else ""
    reason = (
        f"they look like those of {family}" if family else "no family that is known has such names"
    )
    parts = ", ".join(known) or "no part"
    return f"{where}: {names} belong to no layer of this model ({parts}): {reason}."
