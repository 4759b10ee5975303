"""Adapters in files: the names of kohya, PEFT, diffusers old and new, x-labs, cloneofsimo and others, read against the
layouts of the parts that they change; written as kohya and PEFT write them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from safelight.adapters.lora import Adapter, Layer, Spot
from safelight.checkpoints.detach import plain
from safelight.config import kind_of
from safelight.errors import BadInput, unknown
from safelight.files import writing
from safelight.layouts.detection import all_layouts
from safelight.layouts.key_mapping import Table
from safelight.model import LatentDiffusion, module
from safelight.weights.files import open_weights
from safelight.weights.writing import write_tensors

Tables = Mapping[str, Sequence[Table]]
"""By part (denoiser, tower.0, …) its tables in all layouts."""

KEY = re.compile(
    r"(?P<module>.+?)[._](?:(?:lora|lora_linear_layer)[._](?P<low>up|down|mid|A|B)(?:\.default)?\.(?P<of>weight|bias)"
    r"|(?P<alpha>alpha)|(?P<magnitude>dora_scale|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
    r"|(?P<other>hada_\w+|lokr_\w+|diff|diff_b))"
)
NAMES = {"A": "down", "B": "up", "diff_b": "bias"}
XLABS = re.compile(
    r"(?:diffusion_model\.)?(double|single)_blocks\.(\d+)\.processor\.(qkv|proj)_lora([12]?)\.(up|down)\.weight"
)
NORM = re.compile(r"(.+\.norm_(?:added_)?[qk])\.weight")  # which control LoRAs hold whole
NUMBERED = re.compile(r"(unet|text_encoder):(\d+):(up|down)")
PREFIXES = {  # before a module's name, its dots underscores; the longest that leads to a known module is it
    "denoiser": (
        "lora_unet_unet_",
        "lora_unet_",
        "lora_transformer_",
        "base_model_model_",
        "model_diffusion_model_",
        "diffusion_model_",
        "transformer_",
        "unet_",
        "",
    ),
    "tower.0": ("lora_te1_", "lora_te_", "text_encoder_"),
    "tower.1": ("lora_te2_", "text_encoder_2_"),
    "tower.2": ("lora_te3_", "text_encoder_3_"),
}
STRANGERS = {  # by underscored names: families that adapters are made for
    r"blocks_\d+_(cross|self)_attn_(q|k|v|output)_proj": "Anima",
    r"blocks_\d+_attn_w[qkvo]_": "Krea 2",
    r"transformer_blocks_\d+_(img|txt)_(mlp|mod)": "Qwen-Image",
    r"(double|single)_blocks_\d|single_transformer_blocks_\d": "FLUX",
    r"joint_blocks_\d|transformer_blocks_\d+_(attn|norm1_context|ff_context)_": "Stable Diffusion 3 or FLUX",
    r"(input|output)_blocks_\d|(down|up)_blocks_\d|mid_block_": "Stable Diffusion 1, 2 or XL",
}


def read_adapter(path: Path, model: LatentDiffusion) -> Adapter:
    """The adapter in a file, for this model. BadInput if it is none, or for another family or size."""
    adapter = place(open_weights(path), tables(model), path.name)
    adapter.check(parts(model))
    return adapter


def is_adapter(path: Path) -> bool:
    """Whether a file holds low-rank matrices, by its names alone."""
    found = (KEY.fullmatch(name) for name in open_weights(path)) if path.is_file() else ()
    return any(one is not None and one["low"] for one in found)


def parts(model: LatentDiffusion) -> dict[str, nn.Module]:
    """What adapters can change: the denoiser and, one by one, the text towers, whatever stands around them."""
    model = plain(model)
    found = {} if model.denoiser is None else {"denoiser": module(model.denoiser)}
    if model.conditioner is not None:
        readers = vars(module(model.conditioner))["_modules"].get("encoders", ())
        found |= {
            f"tower.{i}": one.network for i, one in enumerate(readers) if one.network is not None
        }
    return found


def tables(model: LatentDiffusion) -> Tables:
    """How other layouts name what adapters can change."""
    return {
        name: tables_of(name.split(".")[0], vars(part)["config"])
        for name, part in parts(model).items()
    }


def tables_of(part: str, config: object) -> list[Table]:
    """The tables of a denoiser or tower of this configuration, in every layout that has one."""
    kind = kind_of(config)
    fitting = (
        one
        for one in all_layouts()
        if one.part == part and one.example and kind_of(one.example) == kind
    )
    return [one.table(config) for one in fitting]


def place(file: Mapping[str, Tensor], known: Tables, where: str) -> Adapter:
    """The adapter that ``file`` holds, each of its layers at its place.

    Kohya's names have underscores for dots, which only the modules themselves can undo: all names are compared so.
    Raises BadInput if a name leads nowhere; if only towers that the model lacks are meant, they are ``left``.
    """
    modules = {part: Modules(some) for part, some in known.items()}
    numbered = _numbered(known)
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    absent = tuple(
        prefix for part in PREFIXES if part not in known for prefix in PREFIXES[part] if prefix
    )
    left: list[str] = []
    lost: list[str] = []
    words: dict[str, Tensor] = {}
    file = _in_parts(file)
    for name in file:
        if name.startswith("<"):
            words[name] = file[name]
            continue
        path, what = split(name, numbered)
        spot = next(((part, one) for part, one in _meant(path, modules)), None)
        if spot is not None:
            found.setdefault(spot, {})[what] = file[name]
        elif path.replace(".", "_").startswith(absent):
            left.append(name)
        else:
            lost.append(name)
    if lost or not found:
        raise BadInput(_refusal(where, lost or [*file], known))
    layers = [
        Layer(part, path, some, modules[part].weights[path], modules[part].biases.get(path))
        for (part, path), some in found.items()
    ]
    return Adapter(where, tuple(layers), tuple(left), words)


class Modules:
    """The modules of a part in the layouts of others: where their weights and biases stand in ours."""

    def __init__(self, known: Sequence[Table]) -> None:
        self.weights: dict[str, Spot] = {}
        self.biases: dict[str, Spot] = {}
        for table in known:
            for rule in table.rules:
                for index, name in enumerate(rule.theirs):
                    path, _, last = name.rpartition(".")
                    if last == "bias":
                        self.biases.setdefault(path, Spot(rule, index))
                    else:  # also whole tensors by their own names, as norms of queries
                        self.weights.setdefault(
                            path if last == "weight" else name, Spot(rule, index)
                        )
        self.underscored: dict[str, set[str]] = {}
        for path in self.weights:
            self.underscored.setdefault(path.replace(".", "_"), set()).add(path)

    def find(self, name: str) -> str | None:
        """The module of that name, dotted or underscored; None if there is none, or more than one."""
        if name in self.weights:
            return name
        found = self.underscored.get(name.replace(".", "_"), set())
        return next(iter(found)) if len(found) == 1 else None


def transformer_blocks(known: Tables) -> list[str]:
    """A U-Net's transformer blocks as diffusers names them, in its order: down, up, and the middle last."""
    paths = [
        path
        for path in Modules(known.get("denoiser", ())).weights
        if re.match(r"(down|up|mid)_block", path)
    ]
    stems = dict.fromkeys(
        stem[0] for path in paths if (stem := re.match(r".*\.transformer_blocks\.\d+", path))
    )
    return sorted(stems, key=lambda stem: "dum".index(stem[0]))


def write_adapter(adapter: Adapter, path: Path, layout: str = "kohya") -> None:
    """A safetensors file in the layout of kohya or of PEFT, with the modules called as in the file it came from."""
    with writing(path) as aside:
        write_tensors(written(adapter, layout), aside)


def written(adapter: Adapter, layout: str) -> dict[str, Tensor]:
    """Names and tensors of an adapter in the layout ``kohya`` or ``peft``; to the bit, where there is no alpha to fold.

    PEFT's files know no alpha: it is multiplied into the second matrix. Raises BadInput for what PEFT does not know.
    """
    if layout not in ("kohya", "peft"):
        raise unknown("layout of adapters", layout, ("kohya", "peft"))
    write = _kohya if layout == "kohya" else _peft
    several = any(layer.part == "tower.1" for layer in adapter.layers)
    return {name: one for layer in adapter.layers for name, one in write(layer, several)}


def _kohya(layer: Layer, several: bool) -> Iterator[tuple[str, Tensor]]:
    number = layer.part.removeprefix("tower.")
    prefix = (
        "lora_unet" if layer.part == "denoiser" else f"lora_te{int(number) + 1 if several else ''}"
    )
    named = {"up": "lora_up.weight", "down": "lora_down.weight", "mid": "lora_mid.weight"}
    named |= {"magnitude": "dora_scale", "bias": "diff_b"}
    for name, one in layer.tensors.items():
        yield f"{prefix}_{layer.module.replace('.', '_')}.{named.get(name, name)}", one


def _peft(layer: Layer, several: bool) -> Iterator[tuple[str, Tensor]]:
    number = layer.part.removeprefix("tower.")
    prefix = "text_encoder" + (f"_{int(number) + 1}" if number not in ("denoiser", "0") else "")
    if layer.part == "denoiser":
        prefix = "unet" if re.match(r"(down|up|mid)_block", layer.module) else "transformer"
    named = {
        "up": "lora_B.weight",
        "down": "lora_A.weight",
        "bias": "lora_B.bias",
        "magnitude": "lora_magnitude_vector",
    }
    if strange := set(layer.tensors) - set(named) - {"alpha"}:
        raise BadInput(
            f"PEFT's layout has no {', '.join(sorted(strange))} ({layer.module}); write it as kohya."
        )
    for name, one in layer.tensors.items():
        if name == "up" and "alpha" in layer.tensors:
            one = (
                one.float() * (layer.tensors["alpha"].float() / layer.tensors["down"].shape[0])
            ).to(one.dtype)
        if name != "alpha":
            yield (
                f"{prefix}.{layer.module}.{named[name]}",
                one.flatten() if name == "magnitude" else one,
            )


def split(name: str, numbered: Mapping[str, str]) -> tuple[str, str]:
    """The module that a key is for, and what of it the tensor is."""
    if found := NUMBERED.fullmatch(name):
        place = f"{found[1]}:{found[2]}"
        return numbered.get(place, place), found[3]
    if found := XLABS.fullmatch(name):
        stream = {"1": "img", "2": "txt"}[found[4]]
        return f"double_blocks.{found[2]}.{stream}_attn.{found[3]}", found[5]
    found = KEY.fullmatch(name.replace(".processor.", "."))
    if found is None:
        return NORM.sub(r"\1", name), "value"
    path = re.sub(r"\bto_out$", "to_out.0", found["module"])
    if found["low"]:
        return path, "bias" if found["of"] == "bias" else NAMES.get(found["low"], found["low"])
    what = found["other"] or ("alpha" if found["alpha"] else "magnitude")
    return path, NAMES.get(what, what)


def _in_parts(file: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The file with what x-labs call the queries, keys and values of a single block as the layers that diffusers has
    for these: in FLUX they are the first rows of a larger layer, which they leave alone."""
    made: dict[str, Tensor] = {}
    for name in file:
        found = XLABS.fullmatch(name)
        if found is None or found[1] == "double":
            made[name] = file[name]
        elif found[3] == "proj":
            made[f"single_blocks.{found[2]}.linear2.lora_{found[5]}.weight"] = file[name]
        else:
            pieces = file[name].chunk(3) if found[5] == "up" else (file[name],) * 3
            path = f"single_transformer_blocks.{found[2]}.attn"
            made |= {
                f"{path}.to_{one}.lora_{found[5]}.weight": part
                for one, part in zip("qkv", pieces, strict=True)
            }
    return made


def _meant(path: str, modules: Mapping[str, Modules]) -> Iterator[tuple[str, str]]:
    """The parts and modules of ours that a name in a file may stand for."""
    flat = path.replace(".", "_")
    for part, known in modules.items():
        for prefix in PREFIXES[part]:
            if not flat.startswith(prefix):
                continue
            rest = path[len(prefix) :]
            for one in (rest, f"text_model.{rest}", re.sub(r"^text_model[._]", "", rest)):
                if found := known.find(one):
                    yield part, found


def _numbered(known: Tables) -> dict[str, str]:
    """cloneofsimo's files count the layers of U-Net and tower in the order of diffusers' modules, the middle last."""
    found: dict[str, str] = {}
    layers = [f"attn1.{one}" for one in ("to_q", "to_k", "to_v", "to_out.0")]
    layers += ["ff.net.0.proj", *(one.replace("1", "2", 1) for one in layers)]
    names = [f"{stem}.{layer}" for stem in transformer_blocks(known) for layer in layers]
    found |= {f"unet:{i}": f"unet.{name}" for i, name in enumerate(names)}
    for i in range(64):
        for j, name in enumerate(("k_proj", "v_proj", "q_proj", "out_proj")):
            found[f"text_encoder:{4 * i + j}"] = (
                f"text_encoder.text_model.encoder.layers.{i}.self_attn.{name}"
            )
    return found


def _refusal(where: str, lost: Sequence[str], known: Tables) -> str:
    """Why an adapter is not for this model."""
    if not lost:
        return f"{where} holds no adapter: it has no tensors."
    flat = "\n".join(name.replace(".", "_") for name in lost)
    family = next((title for pattern, title in STRANGERS.items() if re.search(pattern, flat)), "")
    shown = ", ".join(name[:100] for name in lost[:3]) + (
        f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    )
    why = (
        f"they look like those of {family}" if family else "no family that is known has such names"
    )
    return f"{where}: {shown} belong to no layer of this model ({', '.join(known) or 'no part'}): {why}."
