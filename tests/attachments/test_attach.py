"""LoRA, embeddings and control, attached as on the command line, and what is refused."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from attaching import with_control, with_loras
from recorded import Recording, error
from safelight import checkpoints
from safelight.errors import BadInput, Note
from safelight.types.networks import Condition, Prompt, Tokens


def folder(name):
    return Recording("diffusers-folders").file(name)


@pytest.fixture
def model():
    made = checkpoints.read(folder("sd"))
    for part in (made.autoencoder, made.conditioner, made.denoiser):
        part.float().requires_grad_(False)
    return made


@torch.no_grad()
def test_control_by_a_picture_is_that_of_the_recording(model, tmp_path):
    """An 8-bit picture of the recorded hint gives the recorded residuals, except for rounding."""
    inputs, outputs = Recording("diffusers-folders").inputs, Recording("diffusers-folders").outputs
    hint = inputs["controlnet.control_image"]
    shown = Image.fromarray((hint[0] * 255).round().byte().permute(1, 2, 0).numpy())
    shown.save(tmp_path / "map.png")
    with pytest.warns(
        Note,
        match="controlnet/controlnet is left out: it controls by a picture",
    ):
        model = checkpoints.read(folder("controlnet"))
    for part in (model.autoencoder, model.conditioner, model.denoiser):
        part.float().requires_grad_(False)
    held = with_control(
        model, f"{folder('controlnet/controlnet')}={tmp_path / 'map.png'}:1.0", 48, 32
    )
    assert held.card.adapters == {"controlnet=map.png": 1.0}
    text = outputs["controlnet.text"]
    told = Condition(Tokens(text, torch.ones(text.shape[:2], dtype=torch.bool)))
    noisy, time = inputs["controlnet.x"], torch.full((2,), 500.0)
    plain, steered = (one.denoiser(noisy, time, told) for one in (model, held))
    finer = model.denoiser  # the same branch by hand, from the hint that was not rounded
    from safelight.checkpoints.assembly import build_part
    from safelight.checkpoints.parts import find_parts
    from safelight.nn.control import Controlled

    branch = (
        build_part(find_parts([folder("controlnet/controlnet")], {})[0][0])
        .float()
        .requires_grad_(False)
    )
    exact = Controlled(finer, branch, hint)(noisy, time, told)
    assert error(steered, exact) < 1e-2
    assert not torch.allclose(plain, steered, atol=1e-3)


def test_what_does_not_fit_is_refused_in_a_sentence(model, tmp_path):
    Image.new("RGB", (48, 32)).save(tmp_path / "map.png")
    unet, picture = folder("sd/unet"), tmp_path / "map.png"
    for given, message in (
        ("controlnet", "wanted FILE=PICTURE or FILE=PICTURE:KIND:SCALE, got 'controlnet'"),
        (f"{unet}={picture}", "holds denoiser; wanted a ControlNet or a T2I-adapter"),
        (f"{folder('controlnet/controlnet')}={tmp_path / 'none.png'}", r"none\.png"),
    ):
        with pytest.raises(BadInput, match=message):
            with_control(model, given)
    before = {name: one.clone() for name, one in model.denoiser.state_dict().items()}
    with pytest.raises(BadInput):
        with_loras(model, [str(folder("sd/unet") / "diffusion_pytorch_model.safetensors")])
    assert all(torch.equal(before[name], one) for name, one in model.denoiser.state_dict().items())
    assert with_loras(model, []) is model


def lora(tmp_path, name="a", **more):
    """A LoRA on one layer of the folder's U-Net, with what else its file shall hold."""
    spot = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    state = {f"{spot}.lora_A.weight": torch.randn(2, 8), f"{spot}.lora_B.weight": torch.randn(8, 2)}
    save_file({**state, **more}, tmp_path / f"{name}.safetensors")
    return str(tmp_path / f"{name}.safetensors")


def test_embeddings_in_a_lora_file_can_be_prompted(model, tmp_path):
    made = with_loras(model, [lora(tmp_path, **{"<fox>": torch.randn(16)}) + ":0.5"])
    assert made.card.adapters == {"a.safetensors": 0.5, "<fox>": 1.0}
    with torch.no_grad():
        one, two = (model.conditioner([Prompt(text)]).tokens.values for text in ("<fox>", "<box>"))
    assert not torch.equal(one, two)


def test_an_embedding_that_does_not_fit_leaves_the_model_unchanged(model, tmp_path):
    before = {name: one.clone() for name, one in model.denoiser.state_dict().items()}
    save_file({"emb_params": torch.randn(1, 7)}, tmp_path / "word.safetensors")
    with pytest.raises(BadInput, match="belongs to another model"):
        with_loras(model, [lora(tmp_path)], [str(tmp_path / "word.safetensors")])
    assert all(torch.equal(before[name], one) for name, one in model.denoiser.state_dict().items())


def test_ignored_lora_tensors_are_warned_of(model, tmp_path):
    more = {
        f"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_{one}.weight": torch.ones(2, 2)
        for one in ("up", "down")
    }
    with pytest.warns(
        Note,
        match="a.safetensors: 2 LoRA tensors target text encoders that this model does not have",
    ):
        with_loras(model, [lora(tmp_path, **more)])


def test_adapters_and_embeddings_are_named_on_the_card():
    base = Recording("sd1").file("model.safetensors")
    lora, word = (
        Recording("lora").file("sd1-kohya.safetensors"),
        Recording("lora").file("ti-a1111.pt"),
    )
    made = with_loras(checkpoints.read(base), [f"{lora}:0.5"], [str(word)])
    assert made.card.adapters["sd1-kohya.safetensors"] == 0.5
    assert len(made.card.adapters) == 2
