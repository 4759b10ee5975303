"""What a ComfyUI graph does: the texts and numbers of the sampler that runs first."""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any

Inputs = Mapping[str, Any]
"""The inputs of a node: values by name, and links ``[node, output]``."""

Nodes = Mapping[str, Inputs]

SEEDS = ("seed", "noise_seed", "noise")  # one of these and latents make a node a sampler
LATENTS = ("latent_image", "latent", "samples", "pixels", "image")
PROMPT_INPUTS = {
    "positive_prompt": ("positive", "conditioning", "cond1"),
    "negative_prompt": ("negative",),
}
MAX_NODES = 2000
TEXTS = ("text", "text_g", "text_l", "clip_l", "t5xxl", "prompt", "string", "value")
MODELS = ("ckpt_name", "unet_name")
NUMBERS = {  # ours, and theirs: the first that is there counts
    "seed": ("seed", "noise_seed"),
    "steps": ("steps",),
    "cfg_scale": ("guidance", "cfg", "cfg_conds"),  # FLUX takes its guidance as input, at cfg 1
    "sampler": ("sampler_name",),
    "scheduler": ("scheduler",),
    "denoise": ("denoise",),
}


def facts(graph: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]] | None:
    """What the first sampler of a graph does, under the keys of other programs, and its LoRAs.

    LoRAs are given by name with their scale.
    None if it holds no sampler, or more nodes than anyone draws.
    """
    nodes = {key: node["inputs"] for key, node in graph.items() if _is_node(node)}
    samplers = {key for key, inputs in nodes.items() if _is_sampler(inputs)}
    if not samplers or len(nodes) > MAX_NODES:
        return None
    first = min(sorted(samplers), key=lambda key: _samplers_before(nodes, samplers, key))
    nearest = [inputs for _, inputs in _upstream(nodes, [first], (*LATENTS, "model"))]
    leading = [inputs for _, inputs in _upstream(nodes, [first], LATENTS)]
    result: dict[str, Any] = {"model": _first(leading, MODELS, str)}
    result |= {name: _first(nearest, keys, str | int | float) for name, keys in NUMBERS.items()}
    result |= {name: _text(nodes, nearest, inputs) for name, inputs in PROMPT_INPUTS.items()}
    latents = [inputs for _, inputs in _upstream(nodes, _links(nodes[first], ("latent_image",)))]
    if sized := next((inputs for inputs in latents if _is_sized(inputs)), None):
        result |= {"width": sized["width"], "height": sized["height"]}
    if len(samplers) > 1:
        result["passes"] = len(samplers)
    return result, _loras(leading)


def _loras(nodes: Collection[Inputs]) -> dict[str, float]:
    scales = {
        inputs["lora_name"]: inputs.get("strength_model")
        for inputs in nodes
        if isinstance(inputs.get("lora_name"), str)
    }
    return {
        name: scale if isinstance(scale, int | float) else 1.0 for name, scale in scales.items()
    }


def _samplers_before(nodes: Nodes, samplers: Collection[str], key: str) -> int:
    """How many samplers lead to this one, itself included."""
    return sum(upstream in samplers for upstream, _ in _upstream(nodes, [key]))


def _upstream(
    nodes: Nodes, starts: Collection[str], excluded: Collection[str] = ()
) -> Iterator[tuple[str, Inputs]]:
    """The nodes that lead to ``starts``, these and the nearest first.

    Inputs named in ``excluded`` are not followed.
    """
    queue, seen = deque(starts), set(starts)
    while queue:
        key = queue.popleft()
        if key in nodes:
            yield key, nodes[key]
            links = _links(nodes[key], nodes[key].keys() - excluded)
            new = [link for link in links if link not in seen]
            seen.update(new)
            queue.extend(dict.fromkeys(new))


def _links(inputs: Inputs, names: Collection[str]) -> list[str]:
    """The nodes that these inputs come from, in the order of ``inputs``."""
    return [
        str(value[0])
        for name, value in inputs.items()
        if name in names and isinstance(value, list) and len(value) == 2
    ]


def _text(nodes: Nodes, nearest: Collection[Inputs], names: Collection[str]) -> str:
    """The texts behind the first of the nearest nodes that has one of these inputs.

    Links of the other prompt are not followed, where a node takes the positive and the negative
    one.
    """
    start = next((links for inputs in nearest if (links := _links(inputs, names))), [])
    other = {name for inputs in PROMPT_INPUTS.values() for name in inputs} - {*names}
    texts = [
        inputs[name]
        for _, inputs in _upstream(nodes, start, (*other, *LATENTS))
        for name in TEXTS
        if isinstance(inputs.get(name), str)
    ]
    return "\n".join(dict.fromkeys(text.strip() for text in texts)).strip()


def _first(nodes: Collection[Inputs], names: Collection[str], kind: Any) -> Any:
    """The first value of this type: names in their order, and for each the nodes in theirs."""
    values = (
        inputs[name] for name in names for inputs in nodes if isinstance(inputs.get(name), kind)
    )
    return next(values, None)


def _is_node(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("inputs"), dict)


def _is_sampler(inputs: Inputs) -> bool:
    return "latent_image" in inputs and any(seed in inputs for seed in SEEDS)


def _is_sized(inputs: Inputs) -> bool:
    return all(type(inputs.get(side)) is int for side in ("width", "height"))
