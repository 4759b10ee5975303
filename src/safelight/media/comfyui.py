"""What a graph of ComfyUI does: the words and numbers of the sampler that begins, by the links that lead to it."""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any

Inputs = Mapping[str, Any]
"""Of a node: words and numbers by name, and links ``[node, output]``."""

Nodes = Mapping[str, Inputs]

SEEDS = ("seed", "noise_seed", "noise")  # one of these beside latents makes a node a sampler
LATENTS = ("latent_image", "latent", "samples", "pixels", "image")
BEGINNINGS = {
    "positive_prompt": ("positive", "conditioning", "cond1"),
    "negative_prompt": ("negative",),
}
MOST = 2000  # nodes
TEXTS = ("text", "text_g", "text_l", "clip_l", "t5xxl", "prompt", "string", "value")
MODELS = ("ckpt_name", "unet_name")
NUMBERS = {  # ours, and theirs in the order in which they are believed
    "seed": ("seed", "noise_seed"),
    "steps": ("steps",),
    "cfg_scale": ("guidance", "cfg", "cfg_conds"),  # FLUX hears its guidance, beside a scale of 1
    "sampler": ("sampler_name",),
    "scheduler": ("scheduler",),
    "denoise": ("denoise",),
}


def facts(graph: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]] | None:
    """What the first of its samplers does, in the words of other programs, and its LoRAs with their scales.

    None if there is no sampler in it, or more than anyone draws.
    """
    nodes = {
        key: one["inputs"] for key, one in graph.items() if isinstance(one, dict) and _is_node(one)
    }
    samplers = {
        key
        for key, one in nodes.items()
        if "latent_image" in one and any(seed in one for seed in SEEDS)
    }
    if not samplers or len(nodes) > MOST:
        return None
    first = min(
        sorted(samplers), key=lambda key: sum(one in samplers for one, _ in _upstream(nodes, [key]))
    )
    near = [inputs for _, inputs in _upstream(nodes, [first], (*LATENTS, "model"))]
    every = [inputs for _, inputs in _upstream(nodes, [first], LATENTS)]
    said: dict[str, Any] = {"model": _first(every, MODELS, str)}
    said |= {name: _first(near, theirs, str | int | float) for name, theirs in NUMBERS.items()}
    said |= {name: _words(nodes, near, sides) for name, sides in BEGINNINGS.items()}
    latents = [one for _, one in _upstream(nodes, _links(nodes[first], ("latent_image",)))]
    said |= next(
        ({side: one[side] for side in ("width", "height")} for one in latents if _is_sized(one)), {}
    )
    loras = {
        one["lora_name"]: one.get("strength_model")
        for one in every
        if isinstance(one.get("lora_name"), str)
    }
    passes = {"passes": len(samplers)} if len(samplers) > 1 else {}
    return said | passes, {
        name: scale if isinstance(scale, int | float) else 1.0 for name, scale in loras.items()
    }


def _upstream(
    nodes: Nodes, starts: Collection[str], but: Collection[str] = ()
) -> Iterator[tuple[str, Inputs]]:
    """The nodes that lead to ``starts``, these and the nearest first, not by way of inputs named in ``but``."""
    rest, seen = deque(starts), set(starts)
    while rest:
        key = rest.popleft()
        if key in nodes:
            yield key, nodes[key]
            new = [one for one in _links(nodes[key], nodes[key].keys() - but) if one not in seen]
            seen.update(new)
            rest.extend(dict.fromkeys(new))


def _links(inputs: Inputs, names: Collection[str]) -> list[str]:
    """The nodes that these inputs come from, in the order of ``inputs``."""
    links = [
        one
        for name, one in inputs.items()
        if name in names and isinstance(one, list) and len(one) == 2
    ]
    return [str(one[0]) for one in links]


def _words(nodes: Nodes, near: Collection[Inputs], sides: Collection[str]) -> str:
    """The texts behind the first of the sampler's nodes with such a side; where a node has two, they go on apart."""
    begin = next((found for inputs in near if (found := _links(inputs, sides))), [])
    other = {one for names in BEGINNINGS.values() for one in names} - {*sides}
    texts = [
        inputs[name]
        for _, inputs in _upstream(nodes, begin, (*other, *LATENTS))
        for name in TEXTS
        if isinstance(inputs.get(name), str)
    ]
    return "\n".join(dict.fromkeys(text.strip() for text in texts)).strip()


def _first(nodes: Collection[Inputs], names: Collection[str], kind: Any) -> Any:
    found = (
        inputs[name] for name in names for inputs in nodes if isinstance(inputs.get(name), kind)
    )
    return next(found, None)


def _is_node(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("inputs"), dict)


def _is_sized(inputs: Inputs) -> bool:
    return all(type(inputs.get(side)) is int for side in ("width", "height"))
