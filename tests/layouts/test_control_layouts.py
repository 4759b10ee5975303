"""Control of U-Nets in the layouts of others: real lists, recordings, the peer library, and there
and back."""

import json
from dataclasses import replace

import pytest
import torch
from tests.recorded_unets import PEER, of_folder, tokens

from recorded import Recording, error, real_shapes, shaken, shapes_of
from safelight.denoisers.control.t2i.config import Config as T2I
from safelight.denoisers.control.unet.config import Config
from safelight.denoisers.unet.config import Config as UNetConfig
from safelight.denoisers.unet.config import Level, Norm
from safelight.errors import BadInput
from safelight.layouts.t2i_adapter import original as t2i_adapter
from safelight.layouts.unet_control import diffusers as diffusers_control
from safelight.layouts.unet_control import ldm as ldm_control
from safelight.nn.control import Controlled
from safelight.nn.embeddings import sinusoidal
from safelight.types.networks import Condition

LAYOUTS = (*ldm_control.LAYOUTS, *diffusers_control.LAYOUTS, *t2i_adapter.LAYOUTS)
LDM, THEIRS = ldm_control.LAYOUTS[0], diffusers_control.LAYOUTS[0]
REAL = {"real.ControlNet-v1-SD": LDM, "controlnet-canny-sd15.diffusers": THEIRS}


@pytest.mark.parametrize("name", REAL)
def test_a_real_list_fits_with_nothing_missing_or_left_over(name):
    shapes = real_shapes(name)
    assert [one for one in LAYOUTS if one.recognises(shapes)] == [REAL[name]]
    config = REAL[name].config(shapes, {})
    levels = (Level(320), Level(640), Level(1280), Level(1280, 0))
    assert config == Config(UNetConfig(levels=levels, text_width=768, linear=False))
    with torch.device("meta"):
        network = config.build()
    file = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    table = REAL[name].table(config)
    ours = dict(table.to_ours(file, network.state_dict(), name))
    assert ours.keys() == network.state_dict().keys()
    assert shapes_of(dict(table.to_theirs(ours))) == shapes
    assert sum(one.numel() for one in network.parameters()) == 361_279_120


def recorded():
    recording = Recording("diffusers-folders")
    said = json.loads(recording.file("controlnet/controlnet/config.json").read_text())
    file = recording.weights("controlnet/controlnet/diffusion_pytorch_model.safetensors")
    config = THEIRS.config(shapes_of(file), said)
    assert THEIRS.config(shapes_of(file), THEIRS.describe(config)) == config
    branch, table = config.build(), THEIRS.table(config)
    ours = dict(table.to_ours(file, branch.state_dict(), "the folder"))
    branch.load_state_dict(ours)
    again = dict(table.to_theirs(ours))
    assert again.keys() == file.keys()
    assert all(torch.equal(again[name], file[name]) for name in file)
    return branch


@torch.no_grad()
def test_the_recorded_folder_gives_what_it_gave():
    network, recording = of_folder("controlnet")
    branch, inputs, outputs = recorded(), recording.inputs, recording.outputs
    noisy, time, hint = inputs["controlnet.x"], torch.ones(2), inputs["controlnet.control_image"]
    given = Condition(tokens(outputs["controlnet.text"]))
    residuals = branch(noisy, time, given, branch.encode_hint(hint))
    for one, name in zip(residuals, ("down0", "down1", "down2", "down3", "mid"), strict=True):
        assert error(0.8 * one, outputs[f"controlnet.controlnet.{name}"]) < 1e-4
    answer = Controlled(network, branch, hint, 0.8)(noisy, time, given)
    assert error(answer, outputs["controlnet.unet_with_control"]) < 1e-4


SMALL = UNetConfig(levels=(Level(32, 1, 2), Level(64, 2, 4)), middle=2, text_width=24, norm=Norm(8))
LARGE = replace(SMALL, levels=(Level(32, 0, 2), Level(64, 2, 4)), vector_width=20 + 6 * 8)
ALL_FOUR = replace(
    SMALL, levels=tuple(Level(width, int(width != 96), 2) for width in (32, 64, 64, 96)), middle=1
)


def peer_of(config):
    """Our U-Net of this shape, and the peer library's with the same weights."""
    diffusers = pytest.importorskip("diffusers")
    network = shaken(config.build())
    said = dict(PEER.describe(config)) | (
        {"addition_time_embed_dim": 8} if config.vector_width else {}
    )
    said.pop("_class_name")
    peer = diffusers.UNet2DConditionModel(**said)
    peer.load_state_dict(dict(PEER.table(config).to_theirs(network.state_dict())))
    return network, peer


def told(config):
    """A condition, in our words and theirs."""
    torch.manual_seed(1)
    text, ours, theirs = torch.randn(2, 5, 24), {}, {}
    if config.vector_width:
        sizes, pooled = torch.rand(2, 6) * 9, torch.randn(2, 20)
        ours = {"vector": torch.cat([pooled, sinusoidal(sizes.flatten(), 8).reshape(2, -1)], dim=1)}
        theirs = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    return Condition(tokens(text), **ours), {"encoder_hidden_states": text, **theirs}


@pytest.mark.parametrize("config", [SMALL, LARGE], ids=["sd", "sdxl"])
@torch.no_grad()
def test_control_equals_the_peer_librarys_with_the_same_weights(config):
    diffusers = pytest.importorskip("diffusers")
    network, peer = peer_of(config)
    branch = shaken(Config(config, hints=(8, 8, 12, 16)).build().copy(network))
    said = dict(THEIRS.describe(branch.config)) | (
        {"addition_time_embed_dim": 8} if config.vector_width else {}
    )
    said.pop("_class_name")
    control = diffusers.ControlNetModel(**said)
    control.load_state_dict(dict(THEIRS.table(branch.config).to_theirs(branch.state_dict())))
    noisy, time, hint = (
        torch.randn(2, 4, 4, 6),
        torch.tensor([3.0, 801.0]),
        torch.rand(2, 3, 32, 48),
    )
    ours, theirs = told(config)
    down, middle = control(
        noisy, time, controlnet_cond=hint, conditioning_scale=0.7, return_dict=False, **theirs
    )
    want = peer(
        noisy,
        time,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
        **theirs,
    ).sample
    controlled = Controlled(network, branch, hint, 0.7)
    assert error(controlled(noisy, time, ours), want) < 1e-5
    prepared = controlled.prepare(ours)
    assert torch.equal(controlled(noisy, time, prepared), controlled(noisy, time, ours))
    assert controlled.prepare(prepared) is prepared


@pytest.mark.parametrize("kind", ["full", "light", "xl"])
@torch.no_grad()
def test_an_adapter_equals_the_peer_librarys_with_the_same_weights(kind):
    diffusers = pytest.importorskip("diffusers")
    unet = LARGE if kind == "xl" else ALL_FOUR
    widths = {"full": (32, 64, 64, 96), "light": (32, 64, 64), "xl": (32, 64)}[kind]
    left = 1 + 3 * len(unet.levels)
    if kind == "light":
        unet = replace(unet, levels=(*unet.levels[:3], Level(64, 0, 2)))
    config = T2I(3, widths, 2, 16 if kind == "xl" else 8, kind, ahead=left)
    branch, (network, peer) = shaken(config.build()), peer_of(unet)
    layout = t2i_adapter.LAYOUTS[1]
    said = dict(layout.describe(config))
    said.pop("_class_name")
    adapter = diffusers.T2IAdapter(**said)
    file = dict(layout.table(config).to_theirs(branch.state_dict()))
    assert [one for one in LAYOUTS if one.recognises(shapes_of(file))] == [layout]
    assert replace(layout.config(shapes_of(file), {}), ahead=left) == config
    adapter.load_state_dict(file)
    hint, noisy, time = (
        torch.rand(1, 3, 64, 128),
        torch.randn(2, 4, 8, 16),
        torch.tensor([3.0, 801.0]),
    )
    ours, theirs = told(unet)
    features = adapter(hint)
    for mine, other in zip(branch.encode_hint(hint), features, strict=True):
        assert error(mine, other) < 1e-5
    weighed = [0.6 * one for one in features]
    want = peer(noisy, time, down_intrablock_additional_residuals=weighed, **theirs).sample
    assert error(Controlled(network, branch, hint, 0.6)(noisy, time, ours), want) < 1e-5


@pytest.mark.parametrize("kind", ["full", "light"])
def test_an_adapter_of_its_authors_comes_back_to_the_bit(kind):
    config = T2I(widths=(32, 64, 64), form=kind)
    state, layout = config.build().state_dict(), t2i_adapter.LAYOUTS[0]
    file = dict(layout.table(config).to_theirs(state))
    assert [one for one in LAYOUTS if one.recognises(shapes_of(file))] == [layout]
    assert layout.config(shapes_of(file), {}) == config
    again = dict(layout.table(config).to_ours(file, state, "it"))
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert again.keys() == state.keys()


def test_a_folder_that_wants_another_network_is_refused():
    with pytest.raises(BadInput, match="controlnet_conditioning_channel_order is 'bgr'"):
        THEIRS.config(
            real_shapes("controlnet-canny-sd15.diffusers"),
            {"controlnet_conditioning_channel_order": "bgr"},
        )
