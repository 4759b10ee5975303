"""LoRAs for FLUX only: control LoRAs and x-labs', against sums by hand and diffusers."""

from dataclasses import replace

import pytest
import torch

from recorded import difference
from safelight.adapters.lora import Merged
from safelight.attachments.lora_files import mappings_of, place_adapter
from safelight.denoisers.flux.config import Config
from safelight.errors import BadInput
from safelight.layouts.flux import diffusers as diffusers_flux
from safelight.layouts.flux import original as flux
from safelight.types.networks import Condition, Tokens

SMALL = Config(4, 0, 2, 32, (4, 6, 6), 2, 2, text_width=12, vector_width=9)
KNOWN = {"denoiser": mappings_of("denoiser", SMALL)}
(PLAIN,), (PEER,) = flux.LAYOUTS, diffusers_flux.LAYOUTS


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = SMALL.build().requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return network


def asked(channels=False):
    torch.manual_seed(1)
    told = Condition(
        Tokens(torch.randn(2, 5, 12), torch.ones(2, 5, dtype=torch.bool)), vector=torch.randn(2, 9)
    )
    told = replace(told, scalars={"guidance": torch.full((2,), 10.0)})
    noisy, time, picture = (
        torch.randn(2, 4, 8, 12),
        torch.tensor([300.0, 900.0]),
        torch.randn(2, 4, 8, 12),
    )
    return noisy, time, replace(told, channels=picture if channels else None)


def control_lora(layout, network):
    """A control LoRA by a layout's names: a wider first layer, biases and whole norms."""
    torch.manual_seed(2)
    made = {}
    for name, one in layout.table(network.config).to_theirs(network.state_dict()):
        path = name.removesuffix(".weight")
        if "norm" in name and one.dim() == 1 and "linear" not in name:
            made[name] = one + 0.3 * torch.randn_like(one)
        elif name.endswith(".weight"):
            inputs = 2 * one.shape[1] if path in ("img_in", "x_embedder") else one.shape[1]
            made |= {
                f"{path}.lora_A.weight": torch.randn(3, inputs) / 5,
                f"{path}.lora_B.weight": torch.randn(len(one), 3) / 5,
            }
            made[f"{path}.lora_B.bias"] = torch.randn(len(one)) / 5
    return made


def merged_by_hand(layout, network, file):
    """The wide network that a control LoRA stands for."""
    wide = replace(network.config, extra_channels=4).build()
    theirs = dict(layout.table(network.config).to_theirs(network.state_dict()))
    for name, one in theirs.items():
        path, _, last = name.rpartition(".")
        if name in file:
            theirs[name] = file[name]
        elif last == "bias":
            theirs[name] = one + file[f"{path}.lora_B.bias"]
        else:
            added = file[f"{path}.lora_B.weight"] @ file[f"{path}.lora_A.weight"]
            theirs[name] = torch.nn.functional.pad(one, (0, added.shape[1] - one.shape[1])) + added
    wide.load_state_dict(dict(layout.table(wide.config).to_ours(theirs, wide.state_dict(), "it")))
    return wide


@pytest.mark.parametrize("layout", [PLAIN, PEER], ids=["original", "diffusers"])
@torch.no_grad()
def test_a_control_lora_widens_the_network_and_gives_it_back_to_the_bit(network, layout):
    before, free = (
        {name: one.clone() for name, one in network.state_dict().items()},
        network(*asked()),
    )
    file = control_lora(layout, network)
    adapter = place_adapter(file, KNOWN, "control.safetensors")
    assert sum(len(layer.tensors) for layer in adapter.layers) == len(file)
    merged = Merged({"denoiser": network})
    merged.use({adapter: 1.0})
    assert network.config.extra_channels == 4
    assert "channels" in network.takes
    wide = merged_by_hand(layout, restored(before), file)
    assert difference(network(*asked(channels=True)), wide(*asked(channels=True))) < 1e-5
    assert not torch.allclose(network(*asked(channels=True)), network(*asked()), atol=1e-2)
    merged.clear()
    assert network.config == SMALL
    assert all(torch.equal(before[name], one) for name, one in network.state_dict().items())
    assert torch.equal(network(*asked()), free)
    with pytest.raises(BadInput, match=r"takes .*, got channels"):
        network(*asked(channels=True))


def restored(state):
    network = SMALL.build().requires_grad_(False)
    network.load_state_dict(state)
    return network


@torch.no_grad()
def test_a_control_lora_and_a_narrow_one_go_together_in_any_order(network):
    before = restored(network.state_dict())
    wide = place_adapter(control_lora(PLAIN, network), KNOWN, "control")
    narrow = place_adapter(
        {"img_in.lora_A.weight": torch.randn(2, 16), "img_in.lora_B.weight": torch.randn(32, 2)},
        KNOWN,
        "it",
    )
    merged, answers = Merged({"denoiser": network}), []
    for chosen in ({wide: 1.0, narrow: 0.5}, {narrow: 0.5, wide: 1.0}):
        merged.use(chosen)
        answers.append(network(*asked(channels=True)))
    torch.testing.assert_close(*answers)
    merged.use({narrow: 0.5})
    assert network.config == SMALL
    alone = Merged({"denoiser": before})
    alone.use({narrow: 0.5})
    assert torch.equal(network(*asked()), before(*asked()))
    odd = {"img_in.lora_A.weight": torch.randn(2, 30), "img_in.lora_B.weight": torch.randn(32, 2)}
    with pytest.raises(
        BadInput, match=r"img_in has down \(2, 30\) and .* a weight of shape \(32, 16\)"
    ):
        merged.use({place_adapter(odd, KNOWN, "odd"): 1.0})
    assert torch.equal(network(*asked()), before(*asked()))


@torch.no_grad()
def test_a_control_lora_does_what_the_peer_library_makes_of_it(network):
    peers, _ = pytest.importorskip("diffusers"), pytest.importorskip("peft")
    file = {f"transformer.{name}": one for name, one in control_lora(PEER, network).items()}
    transformer = peers.FluxTransformer2DModel.from_config(dict(PEER.describe(SMALL))).eval()
    transformer.load_state_dict(dict(PEER.table(SMALL).to_theirs(network.state_dict())))
    parts = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    pipe = peers.FluxControlPipeline(**dict.fromkeys(parts), transformer=transformer)
    pipe.load_lora_weights(dict(file))
    Merged({"denoiser": network}).use({place_adapter(file, KNOWN, "it"): 1.0})
    noisy, time, told = asked(channels=True)
    places = network.places(5, [(4, 6)], noisy.device)
    packed = torch.cat([network.pack(noisy), network.pack(told.channels)], dim=-1)
    (want,) = transformer(
        packed,
        told.tokens.values,
        told.vector,
        time / 1000,
        places[5:],
        places[:5],
        told.scalars["guidance"],
        return_dict=False,
    )
    assert difference(network.pack(network(noisy, time, told)), want) < 1e-5


def xlabs(prefix=""):
    torch.manual_seed(3)
    made = {}
    for block in range(2):
        layers = {
            f"double_blocks.{block}.processor.{one}_lora{n}": one
            for one in ("qkv", "proj")
            for n in (1, 2)
        }
        layers |= {f"single_blocks.{block}.processor.{one}_lora": one for one in ("qkv", "proj")}
        for path, one in layers.items():
            inputs = 32 * 5 if path.startswith("single") and one == "proj" else 32
            made[f"{prefix}{path}.down.weight"] = torch.randn(3, inputs) / 5
            made[f"{prefix}{path}.up.weight"] = torch.randn(32 * (3 if one == "qkv" else 1), 3) / 5
    return made


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
@torch.no_grad()
def test_x_labs_loras_are_read_wholly(network, prefix):
    before = {name: one.clone() for name, one in network.state_dict().items()}
    file = xlabs(prefix)
    merged = Merged({"denoiser": network})
    merged.use({place_adapter(file, KNOWN, "x-labs"): 0.8})
    made = {
        name.removeprefix(prefix): 0.8 * file[name] @ file[name.replace(".up.", ".down.")]
        for name in file
        if ".up." in name
    }
    now = network.state_dict()
    for block in range(2):
        double, single = f"double_blocks.{block}.processor", f"single_blocks.{block}.processor"
        wanted = {
            f"double_blocks.{block}.image.qkv": made[f"{double}.qkv_lora1.up.weight"],
            f"double_blocks.{block}.text.qkv": made[f"{double}.qkv_lora2.up.weight"],
            f"double_blocks.{block}.image.out": made[f"{double}.proj_lora1.up.weight"],
            f"double_blocks.{block}.text.out": made[f"{double}.proj_lora2.up.weight"],
            f"single_blocks.{block}.leave": made[f"{single}.proj_lora.up.weight"],
            f"single_blocks.{block}.enter": torch.cat(
                [made[f"{single}.qkv_lora.up.weight"], torch.zeros(128, 32)]
            ),
        }
        for name, one in wanted.items():
            torch.testing.assert_close(
                now[f"{name}.weight"] - before[f"{name}.weight"], one, atol=1e-6, rtol=1e-5
            )
    merged.clear()
    assert all(torch.equal(before[name], one) for name, one in network.state_dict().items())


@torch.no_grad()
def test_x_labs_loras_are_what_the_peer_library_converts_them_to(network):
    peer = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    theirs = place_adapter(peer._convert_xlabs_flux_lora_to_diffusers(xlabs()), KNOWN, "converted")
    merged = Merged({"denoiser": network})
    merged.use({theirs: 1.0})
    answer = network(*asked())
    merged.use({place_adapter(xlabs(), KNOWN, "x-labs"): 1.0})
    torch.testing.assert_close(network(*asked()), answer)
