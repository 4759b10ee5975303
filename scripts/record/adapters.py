"""Record what the peer library answers with adapters merged into drawn weights:
tests/recorded/lora.

python scripts/record/adapters.py

The adapters are kept there: the same layers in kohya's names, in PEFT's and in diffusers' old
ones. They are merged by definition, weight + scale · alpha / rank · up · down, and diffusers and
transformers run the sum.
"""

from typing import Any

import peers
import torch
from flows import first_flux
from peers import File
from recording import DRAWN, RECORDED, record, weights
from safetensors.torch import load_file
from unets import pages, sdxl_towers, sdxl_words


def main() -> None:
    inputs = {"sd1.timestep": torch.tensor(481), "sdxl.timestep": torch.tensor(481)}
    inputs["textual_inversion.ids"] = pages(49408, 49407, (320, 49408, 49409, 2368), (49409, 539))
    with torch.no_grad():
        record(RECORDED / "lora", inputs, {**of_sd1(inputs), **of_sdxl(), **of_flux()})


def merged(weights: File, adapter: File, prefix: str, scale: float) -> File:
    """``weights`` and a kohya adapter's layers of ``prefix`` in them, each times scale · alpha /
    rank."""
    made, used = dict(weights), 0
    for name, weight in weights.items():
        layer = prefix + name.removesuffix(".weight").replace(".", "_")
        if f"{layer}.lora_up.weight" in adapter:
            up, down = (adapter[f"{layer}.lora_{way}.weight"].float() for way in ("up", "down"))
            alpha = adapter.get(f"{layer}.alpha", torch.tensor(len(down)))
            change = scale * alpha.float() / len(down) * (up.flatten(1) @ down.flatten(1))
            made[name], used = weight + change.reshape(weight.shape), used + 1
    assert used == sum(
        name.startswith(prefix) and name.endswith("lora_up.weight") for name in adapter
    )
    return made


def kept(name: str) -> File:
    return load_file(RECORDED / "lora" / f"{name}.safetensors")


def changed(network: Any, adapter: File, prefix: str, scale: float) -> Any:
    return peers.filled(network, merged(network.state_dict(), adapter, prefix, scale))


def of_sd1(inputs: File) -> File:
    whole, base = weights("sd1"), load_file(DRAWN / "sd1" / "inputs.safetensors")
    adapter, outputs = kept("sd1-kohya"), {}
    flat = {
        name
        for name, one in adapter.items()
        if name.endswith("down.weight") and one.dim() == 4 and one.shape[-1] == 3
    }
    assert len(flat) == 2
    flat = {name.partition(".")[0] for name in flat}
    without = {name: one for name, one in adapter.items() if name.partition(".")[0] not in flat}
    cases = {
        "1.0": (adapter, 1.0),
        "0.6": (adapter, 0.6),
        "unet_only": (adapter, 1.0),
        "no_conv3x3": (without, 1.0),
    }
    for case, (layers, scale) in cases.items():
        tower = peers.tower("sd1", peers.under(whole, "cond_stage_model.transformer."))
        if case != "unet_only":
            tower = changed(tower, layers, tower_prefix(tower, "lora_te_"), scale)
        network = changed(peers.unet("sd1", whole), layers, "lora_unet_", scale)
        text = outputs[f"sd1.{case}.text"] = tower(base["ids"]).last_hidden_state
        outputs[f"sd1.{case}.unet"] = network(base["x"], inputs["sd1.timestep"], text).sample
    tower = peers.tower("sd1", peers.under(whole, "cond_stage_model.transformer."))
    table = tower.get_input_embeddings()
    table.weight = torch.nn.Parameter(
        torch.cat([table.weight, kept("ti-diffusers")["<toy>"]]), requires_grad=False
    )
    return {
        **outputs,
        "textual_inversion.text": tower(inputs["textual_inversion.ids"]).last_hidden_state,
    }


def tower_prefix(tower: Any, prefix: str) -> str:
    """What is before a layer's name in an adapter: some versions of transformers leave out the
    first part."""
    return (
        prefix
        if any(name.startswith("text_model.") for name in tower.state_dict())
        else f"{prefix}text_model_"
    )


def of_sdxl() -> File:
    whole, base = weights("sdxl"), load_file(DRAWN / "sdxl" / "inputs.safetensors")
    adapter, outputs, prefix = kept("sdxl-kohya"), {}, "model.diffusion_model."
    for scale in (1.0, 0.6):
        towers = sdxl_towers(whole)
        towers = [
            changed(tower, adapter, tower_prefix(tower, f"lora_te{number}_"), scale)
            for number, tower in enumerate(towers, 1)
        ]
        body = merged(peers.under(whole, prefix), adapter, "lora_unet_", scale)
        network = peers.unet("sdxl", {prefix + name: one for name, one in body.items()})
        said, asked = sdxl_words(towers, base, "")
        answer = network(base["x"], 481, said["crossattn"], added_cond_kwargs=asked).sample
        told = {"crossattn": said["crossattn"], "vector": said["vector"], "unet": answer}
        outputs |= {f"sdxl.{scale}.{name}": one for name, one in told.items()}
    return outputs


def of_flux() -> File:
    whole, base = (
        weights("flux-dev", "flux1-dev.safetensors"),
        load_file(DRAWN / "flux-dev" / "inputs.safetensors"),
    )
    outputs = {}
    for scale in (1.0, 0.6):
        network = peers.flux(merged(whole, kept("flux-kohya"), "lora_unet_", scale), 2)
        outputs[f"flux.{scale}.velocity"] = first_flux(network, base)(base["latent"], 0.5, 3.5)
    return outputs


if __name__ == "__main__":
    main()
