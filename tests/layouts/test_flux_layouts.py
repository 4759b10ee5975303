"""FLUX in the layouts of others: real lists of names, recordings, there and back, and the peer
library."""

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from recorded import Recording, error, real_shapes
from safelight.config import Slot
from safelight.denoisers.flux.config import Config
from safelight.diffusion.guidance.distilled import Distilled
from safelight.diffusion.guidance.none import Unguided
from safelight.diffusion.guided import guided
from safelight.diffusion.noise import SeededNoise
from safelight.diffusion.prediction import Flow
from safelight.diffusion.process import Process
from safelight.diffusion.samplers.euler import Euler
from safelight.diffusion.schedule import Linear
from safelight.diffusion.spacing.even import Uniform
from safelight.diffusion.spacing.shifted import ShiftedByTokens, ShiftedByTokensAndSteps
from safelight.errors import BadInput
from safelight.layouts.flux import diffusers as diffusers_flux
from safelight.layouts.flux import original as flux
from safelight.layouts.key_mapping import Layout
from safelight.types.networks import Condition, Tokens

REAL = {
    "flux1-dev.bfl": (flux, 11_901_408_320),
    "flux1-schnell.bfl": (flux, 11_891_178_560),
    "flux1-dev.transformer.diffusers": (diffusers_flux, 11_901_408_320),
    "flux2-dev.bfl": (flux, 32_223_281_152),
}


def only(module, shapes) -> Layout:
    (found,) = [one for one in module.LAYOUTS if one.recognises(shapes)]
    return found


@pytest.mark.parametrize("name", REAL)
def test_a_real_list_fits_with_nothing_missing_or_left_over(name):
    module, count = REAL[name]
    shapes = real_shapes(name)
    layout = only(module, shapes)
    config = layout.config(shapes, {})
    with torch.device("meta"):
        network = config.build()
    file = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    table = layout.table(config)
    ours = dict(table.to_ours(file, network.state_dict(), name))
    assert network.state_dict().keys() == ours.keys()
    assert {key: tuple(one.shape) for key, one in table.to_theirs(ours)} == shapes
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def loaded(recording, name, prefix=""):
    """The network of a recorded file, its configuration there and back, and the file."""
    file = {key.removeprefix(prefix): one for key, one in recording.weights(name).items()}
    return network_of(flux, file, {}), file


def network_of(module, file, said):
    shapes = {key: tuple(one.shape) for key, one in file.items()}
    layout = only(module, shapes)
    config = layout.config(shapes, said)
    slot = Slot("denoisers")
    assert slot.read(json.loads(json.dumps(slot.write(config)))) == config
    network, table = config.build(), layout.table(config)
    ours = dict(table.to_ours(file, network.state_dict(), "it"))
    network.load_state_dict(ours)
    again = dict(table.to_theirs(network.state_dict()))
    assert again.keys() == file.keys()
    assert all(torch.equal(again[key], file[key]) for key in file)
    return network.eval().requires_grad_(False)


def said_to(inputs, guidance=None, text="txt", **more) -> Condition:
    values = inputs[text]
    tokens = Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))
    scalars = {} if guidance is None else {"guidance": torch.full((len(values),), guidance)}
    return Condition(tokens, vector=inputs.get("vec"), scalars=scalars, **more)


def walked(network, condition, noise, spacing, guidance):
    """What six of Euler's steps reach, the start first."""
    process = Process(Linear(), Flow())
    denoise = guided(
        process, {"main": network}, guidance, network.prepare(condition), lambda only: condition
    )
    times = spacing(6, process.schedule)
    run = Euler()(denoise, noise, times, process.schedule, SeededNoise([0]))
    return torch.stack([noise, *(step.noisy for step in run)]), times


FAMILIES = {
    "flux-dev": ("flux1-dev.safetensors", "", 3.5, ShiftedByTokens(24)),
    "flux-schnell": ("flux1-schnell.safetensors", "", None, Uniform()),
    "flux-schnell-prefixed": (
        "flux1-schnell-prefixed.safetensors",
        "model.diffusion_model.",
        None,
        Uniform(),
    ),
    "flux-fill": ("flux1-fill-dev.safetensors", "", 30.0, ShiftedByTokens(24)),
    "flux-control": ("flux1-control.safetensors", "", 10.0, ShiftedByTokens(24)),
    "flux2": ("flux2-dev.safetensors", "", 4.0, ShiftedByTokensAndSteps(24)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_and_walks_as_the_original(family):
    name, prefix, guidance, spacing = FAMILIES[family]
    recording = Recording(family.removesuffix("-prefixed"))
    network, _ = loaded(recording, name, prefix)
    inputs, outputs = recording.inputs, recording.outputs
    assert network.config.axes == tuple(recording.facts["config"]["transformer"]["axes_dim"])
    more = {}
    if family == "flux-fill":
        mask = F.pixel_unshuffle(inputs["mask"], 8)
        more = {"channels": torch.cat([inputs["cond_latent"], mask], 1)}
    if family == "flux-control":
        more = {"channels": inputs["control"]}
    condition = said_to(inputs, guidance, "ctx" if family == "flux2" else "txt", **more)
    asked = {
        key: float(key.removeprefix("velocity.t"))
        for key in outputs
        if re.fullmatch(r"velocity\.t[\d.]+", key)
    }
    assert len(asked) > 2
    for key, time in asked.items():
        answer = network(
            inputs["latent"], torch.full((len(inputs["latent"]),), 1000 * time), condition
        )
        assert error(answer, outputs[key]) < 1e-4
    if guidance is not None:
        key = next(key for key in outputs if key.endswith("guidance1"))
        time = float(key.split(".guidance")[0].removeprefix("velocity.t"))
        unguided = network(
            inputs["latent"],
            torch.full((len(inputs["latent"]),), 1000 * time),
            replace(condition, scalars={}),
        )
        assert error(unguided, outputs[key]) < 1e-4
    condition = replace(condition, scalars={})
    guiding = Distilled(guidance) if guidance else Unguided()
    latents, times = walked(network, condition, inputs["noise"], spacing, guiding)
    torch.testing.assert_close(times.float(), outputs["schedule"], atol=1e-6, rtol=0)
    assert error(latents, outputs["euler.latents"]) < 1e-3


@pytest.mark.parametrize(("family", "given"), [("flux-dev", "kontext"), ("flux2", "reference")])
def test_references_stand_in_the_sequence(family, given):
    name, _, guidance, spacing = FAMILIES[family]
    recording = Recording(family)
    network, _ = loaded(recording, name)
    condition = said_to(
        recording.inputs,
        None,
        "ctx" if family == "flux2" else "txt",
        references=(recording.inputs[f"{given}_latent"],),
    )
    latents, _ = walked(network, condition, recording.inputs["noise"], spacing, Distilled(guidance))
    assert error(latents[-1], recording.outputs[f"{given}.result"]) < 1e-3


def test_a_folder_of_diffusers_answers_as_it_did():
    recording = Recording("diffusers-folders")
    folder = recording.file("flux/transformer")
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    file = {
        key: one.float()
        for shard in sorted(folder.glob("*.safetensors"))
        for key, one in load_file(shard).items()
    }
    network = network_of(diffusers_flux, file, said)
    described = only(diffusers_flux, {key: tuple(one.shape) for key, one in file.items()}).describe(
        network.config
    )
    assert {key: said[key] or described["in_channels"] for key in described} == dict(described)
    # packed latents of 2×3 patches
    outputs, packed = recording.outputs, recording.inputs["flux.packed_latents"]
    condition = said_to({"txt": outputs["flux.prompt_embeds"], "vec": outputs["flux.pooled"]}, 3.5)
    answer = network(network.unpack(packed, (2, 3)), torch.full((2,), 500.0), condition)
    assert error(network.pack(answer), outputs["flux.transformer.t0.5"]) < 1e-4


@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("generation", [1, 2])
def test_it_answers_as_diffusers_with_the_same_weights(generation, guidance):
    peer = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    axes = (4, 6, 6) if generation == 1 else (4, 4, 4, 4)
    small = (
        {"channels": 16, "patch": 2}
        if generation == 1
        else {"channels": 8, "patch": 1, "vector_width": 0, "mlp_ratio": 3.0}
    )
    small |= {"width": 32, "axes": axes, "double": 2, "single": 2, "text_width": 12}
    network = Config(
        **{"vector_width": 10} | small, guidance=guidance, generation=generation
    ).build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    (layout,) = diffusers_flux.LAYOUTS
    described = dict(layout.describe(network.config))
    kind = {1: peer.FluxTransformer2DModel, 2: peer.Flux2Transformer2DModel}[generation]
    theirs = kind.from_config(described).eval()
    assert described.pop("_class_name") == kind.__name__
    theirs.load_state_dict(dict(layout.table(network.config).to_theirs(network.state_dict())))
    noisy, words, vector = (
        torch.randn(2, small["channels"], 4, 6),
        torch.randn(2, 5, 12),
        torch.randn(2, 10),
    )
    packed = network.pack(noisy)
    grid = (4 // small["patch"], 6 // small["patch"])
    places = network.places(5, [grid], noisy.device)
    asked = {
        "hidden_states": packed,
        "encoder_hidden_states": words,
        "timestep": torch.full((2,), 0.7),
    }
    asked |= {
        "txt_ids": places[:5],
        "img_ids": places[5:],
        "guidance": torch.full((2,), 2.5) if guidance else None,
    }
    asked |= {"pooled_projections": vector} if generation == 1 else {}
    inputs = {"txt": words} | ({"vec": vector} if generation == 1 else {})
    with torch.no_grad():
        answer = network(noisy, torch.full((2,), 700.0), said_to(inputs, 2.5 if guidance else None))
        assert error(network.pack(answer), theirs(**asked).sample) < 1e-5


@pytest.mark.parametrize(("steps", "tokens"), [(4, 1024), (50, 4096), (28, 8192)])
def test_the_second_generation_shifts_by_tokens_and_steps(steps, tokens):
    wanted = Recording("flux2").outputs[f"schedule.n{steps}.tokens{tokens}"]
    times = ShiftedByTokensAndSteps(tokens)(steps, Linear())
    torch.testing.assert_close(times.float(), wanted, atol=1e-6, rtol=0)


def test_how_a_head_turns_can_be_said():
    network = Config(
        width=32, axes=(8, 4, 4), double=1, single=1, text_width=8, vector_width=5
    ).build()
    (layout,) = flux.LAYOUTS
    shapes = {
        key: tuple(one.shape)
        for key, one in layout.table(network.config).to_theirs(network.state_dict())
    }
    assert layout.config(shapes, {}).axes == (4, 6, 6)
    for said in ({"axes": "8,4,4"}, {"axes_dims_rope": [8, 4, 4]}):
        assert layout.config(shapes, said) == network.config
    with pytest.raises(
        BadInput, match="axes: wanted numbers of channels that make up the 16 of a head"
    ):
        layout.config(shapes, {"axes": "8,8,8"})


def test_a_stranger_with_blocks_of_the_same_names_is_not_taken_for_it():
    shapes = dict.fromkeys(
        ("img_in.weight", "final_layer.linear.weight", "double_blocks.0.img_mlp.2.weight"), (8, 8)
    )
    assert not flux.LAYOUTS[0].recognises(
        shapes | {"distilled_guidance_layer.in_proj.weight": (8, 8)}
    )
