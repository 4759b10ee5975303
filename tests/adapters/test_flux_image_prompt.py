"""FLUX's image prompts: equal to the peer library with the same weights, and refused to a U-Net."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.image_prompts import adapter_file, small_model
from recorded import difference, error
from safelight.attachments.image_prompts import with_image_prompt
from safelight.checkpoints.assembly import build_part
from safelight.checkpoints.parts import find_parts
from safelight.denoisers.flux.config import Config
from safelight.errors import BadInput
from safelight.layouts.flux import diffusers as diffusers_flux
from safelight.layouts.text_families import joined
from safelight.model import LatentDiffusion
from safelight.nn.text_models import clip, t5
from safelight.types.networks import Prompt

SHAPE = Config(width=32, axes=(4, 6, 6), double=2, single=1, text_width=24, vector_width=16)


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = SHAPE.build().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    towers = [clip.Config(width=16, depth=1, heads=2, hidden=16), t5.Config(24, 1, 2, 12, 16)]
    return LatentDiffusion(denoiser=network, conditioner=joined("flux", towers).build().eval())


@pytest.fixture
def file(tmp_path):
    """An image prompt in x-labs' names, with random weights."""
    weights = {"ip_adapter_proj_model.proj.weight": torch.randn(4 * 24, 10) / 3}
    weights |= {"ip_adapter_proj_model.proj.bias": torch.randn(4 * 24)}
    weights |= {
        "ip_adapter_proj_model.norm.weight": torch.rand(24),
        "ip_adapter_proj_model.norm.bias": torch.randn(24),
    }
    for number in range(SHAPE.double):
        for one in "kv":
            name = f"double_blocks.{number}.processor.ip_adapter_double_stream_{one}_proj"
            weights |= {f"{name}.weight": torch.randn(32, 24) / 5, f"{name}.bias": torch.randn(32)}
    save_file(weights, tmp_path / "ip_adapter.safetensors")
    return tmp_path / "ip_adapter.safetensors"


def peer(model, file):
    diffusers = pytest.importorskip("diffusers")
    said = dict(diffusers_flux.LAYOUTS[0].describe(SHAPE))
    said.pop("_class_name")
    made = diffusers.FluxTransformer2DModel(**said).eval()
    made.load_state_dict(
        dict(diffusers_flux.LAYOUTS[0].table(SHAPE).to_theirs(model.denoiser.state_dict()))
    )
    parts = {"image_proj": {}, "ip_adapter": {}}
    for name, one in load_file(file).items():
        part = "image_proj" if name.startswith("ip_adapter_proj_model") else "ip_adapter"
        rest = name.partition(".")[2].replace("processor.ip_adapter_double_stream_", "")
        parts[part][rest.replace("k_proj", "to_k_ip").replace("v_proj", "to_v_ip")] = one
    made._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)
    return made


@torch.no_grad()
def test_it_equals_the_peer_library_with_the_same_weights(model, file):
    other = peer(model, file)
    noisy, vectors = torch.randn(2, 16, 6, 8), torch.randn(2, 10)
    time = torch.tensor([300.0, 801.0])
    prompts = [
        Prompt(text, {"image_vector": vectors[row]}) for row, text in enumerate(("a fox", "an owl"))
    ]
    told = model.conditioner(prompts)
    packed = model.denoiser.pack(noisy)
    places = model.denoiser.places(told.tokens.values.shape[1], [(3, 4)], noisy.device)
    answers = []
    for scale in (1.0, 0.6):
        for processor in other.attn_processors.values():
            if "IPAdapter" in type(processor).__name__:
                processor.scale = [scale]
        want = other(
            hidden_states=packed,
            encoder_hidden_states=told.tokens.values,
            pooled_projections=told.vector,
            timestep=time / 1000,
            img_ids=places[-12:],
            txt_ids=places[:-12],
            guidance=torch.ones(2),
            joint_attention_kwargs={"ip_adapter_image_embeds": [vectors[:, None]]},
        ).sample
        adapted = with_image_prompt(model, file, scale)
        answers.append(model.denoiser(noisy, time, adapted.conditioner(prompts)))
        assert error(answers[-1], model.denoiser.unpack(want, (3, 4))) < 1e-5
    plain = model.denoiser(noisy, time, told)
    assert difference(answers[0], plain) > 0.01
    silent = with_image_prompt(model, file, 0.0)
    assert error(model.denoiser(noisy, time, silent.conditioner(prompts)), plain) < 1e-6


def test_its_file_comes_back_to_the_bit_and_is_for_no_u_net(model, file, tmp_path):
    (piece,) = find_parts([file], {})[0]
    assert piece.layout.name == "x-labs"
    again = dict(piece.layout.table(piece.config).to_theirs(build_part(piece).state_dict()))
    weights = load_file(file)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in again)
    with pytest.raises(
        BadInput, match=r"2 attentions of widths 32 and a text 24 wide; this one has 11 attentions"
    ):
        with_image_prompt(small_model(), file)
    with pytest.raises(
        BadInput, match=r"11 attentions of widths 32, 64 .* this one has 2 attentions"
    ):
        with_image_prompt(model, adapter_file("single", tmp_path))
