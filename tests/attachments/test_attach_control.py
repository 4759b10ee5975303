"""Control of transformers as a person names it: a file, a picture, what it shows, how strong."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from attaching import with_control
from making import tiny_model
from recorded import shaken
from safelight.autoencoders.kl.config import Config as KL
from safelight.denoisers.control.flux.config import Config as Flux
from safelight.denoisers.control.mmdit.config import Config as Joint
from safelight.denoisers.flux import config as flux_config
from safelight.denoisers.mmdit import config as mmdit_config
from safelight.errors import BadInput
from safelight.layouts.flux_control import diffusers as diffusers_flux_control
from safelight.layouts.mmdit_control import diffusers as diffusers_mmdit_control
from safelight.layouts.mmdit_control import original as mmdit_control
from safelight.media.pictures import read_picture, to_bytes
from safelight.model import LatentDiffusion
from safelight.nn.control import Controlled
from safelight.nn.patchify import patchify
from safelight.pipeline import generate
from safelight.settings import Settings
from safelight.tasks.text_to_image import TextToImage
from safelight.types.networks import Condition

SD3 = mmdit_config.Config(
    4, width=64, depth=3, heads=1, text_width=12, vector_width=9, side=8, qk_norm=False
)
FLUX = flux_config.Config(
    4, width=32, axes=(4, 6, 6), double=2, single=2, text_width=12, vector_width=9
)
NOISY, TIME = (
    torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0)),
    torch.tensor([500.0]),
)
GIVEN = Condition(vector=torch.ones(1, 9))


def model_of(config):
    autoencoder = shaken(KL(width=8, multipliers=(1, 2), blocks=1, groups=4, quant=False).build())
    autoencoder.scale.mean[:], autoencoder.scale.deviation[:] = 0.0609, 1 / 1.5305
    return LatentDiffusion(autoencoder, None, shaken(config.build()))


@pytest.fixture
def shown(tmp_path):
    picture = Image.new("RGBA", (24, 16), (40, 90, 200, 255))
    ImageDraw.Draw(picture).ellipse((6, 2, 18, 12), fill=(250, 200, 10, 0))
    picture.save(tmp_path / "map.png")
    return tmp_path / "map.png"


def written(branch, layout, path):
    """A branch as others keep it: the folder of one part, or one file."""
    tensors = {
        name: one.contiguous()
        for name, one in layout.table(branch.config).to_theirs(branch.state_dict())
    }
    if layout.describe is None:
        save_file(tensors, path)
        return path
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps(dict(layout.describe(branch.config))), encoding="utf-8"
    )
    save_file(tensors, path / "diffusion_pytorch_model.safetensors")
    return path


CASES = {
    "instantx": (
        SD3,
        Joint(SD3, pooled=False, shift=0.0609 * 1.5305),
        diffusers_mmdit_control,
        "",
        "",
    ),
    "inpainting": (SD3, Joint(SD3, pooled=False, mask=True), diffusers_mmdit_control, "", ""),
    "edges": (
        SD3,
        Joint(SD3, words=False, enters=False, typed=True),
        mmdit_control,
        ":canny",
        "canny",
    ),
    "union": (FLUX, Flux(FLUX, modes=8), diffusers_flux_control, ":7", "7"),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_named_picture_is_seen_as_by_hand(name, shown, tmp_path):
    network, config, all_layouts, said, mode = CASES[name]
    model, branch = model_of(network), shaken(config.build())
    file = written(branch, all_layouts.LAYOUTS[0], tmp_path / "control")
    held = with_control(model, f"{file}={shown}{said}:0.6", 24, 16)
    assert held.card.adapters == {"control=map.png": 0.6}
    assert held.denoiser.scale == 0.6
    assert not any(one.requires_grad for one in held.denoiser.branch.parameters())
    picture = read_picture(shown, "it", transparent=branch.hint_channels == 4)
    hint = to_bytes(picture, picture.mode)[None] / 255
    encode = model.autoencoder.encode
    by_hand = Controlled(
        model.denoiser, branch, hint, 0.6, encode=lambda images: encode(images).mode(), mode=mode
    )
    for one, other in zip(held.denoiser.hint_features, by_hand.hint_features, strict=True):
        torch.testing.assert_close(one, other)
    if name != "union":  # which wants a text
        answer = held.denoiser(NOISY, TIME, GIVEN)
        torch.testing.assert_close(answer, by_hand(NOISY, TIME, GIVEN))
        assert not torch.allclose(answer, model.denoiser(NOISY, TIME, GIVEN), atol=1e-2)


def test_instantx_saw_latents_without_the_shift_of_the_autoencoder(shown, tmp_path):
    """As diffusers' pipeline makes them: the raw mean times the scaling factor."""
    network, config, all_layouts, *_ = CASES["instantx"]
    model, branch = model_of(network), config.build()
    branch.hint.weight.data[:], branch.hint.bias.data[:] = torch.eye(64)[:, :16], 0
    held = with_control(
        model, f"{written(branch, all_layouts.LAYOUTS[0], tmp_path / 'control')}={shown}", 24, 16
    )
    standard = model.autoencoder.encode(to_bytes(read_picture(shown))[None] / 127.5 - 1).mean
    raw = standard / 1.5305 + 0.0609
    torch.testing.assert_close(held.denoiser.hint_features[0][..., :16], patchify(1.5305 * raw, 2))


def test_a_picture_is_made_under_control_twice_over(shown, tmp_path):
    model = tiny_model()
    config = replace(FLUX, channels=4, text_width=16, vector_width=16)
    model = replace(model, denoiser=shaken(config.build()))
    assert model.autoencoder.factor == 2
    union = written(
        shaken(Flux(config, modes=8).build()), diffusers_flux_control.LAYOUTS[0], tmp_path / "union"
    )
    plain = written(
        shaken(Flux(config).build()), diffusers_flux_control.LAYOUTS[0], tmp_path / "plain"
    )
    once = with_control(model, f"{union}={shown}:pose:0.5", 16, 16)
    twice = with_control(once, f"{plain}={shown}:0.5", 16, 16)
    assert twice.card.adapters == {"union=map.png": 0.5, "plain=map.png": 0.5}
    task, settings = TextToImage("a red square", width=16, height=16), Settings(steps=2, seed=0)
    made = [generate(one, task, settings)[0].tobytes() for one in (model, once, twice)]
    assert len(set(made)) == 3


def lora(columns=32, **more):
    torch.manual_seed(5)
    return {
        "img_in.lora_A.weight": torch.randn(2, columns),
        "img_in.lora_B.weight": torch.randn(32, 2),
        **more,
    }


@torch.no_grad()
def test_a_control_lora_and_a_model_that_sees_are_shown_the_picture(shown, tmp_path):
    save_file(lora(), tmp_path / "canny-lora.safetensors")
    model, before = model_of(FLUX), model_of(FLUX).denoiser(NOISY, TIME, GIVEN)
    held = with_control(model, f"{tmp_path / 'canny-lora.safetensors'}={shown}:0.8", 24, 16)
    assert held.card.adapters == {"canny-lora.safetensors": 0.8}
    picture = model.autoencoder.encode(to_bytes(read_picture(shown))[None] / 127.5 - 1).mode()
    answer = held.denoiser(NOISY, TIME, GIVEN)
    torch.testing.assert_close(
        answer, model.denoiser(NOISY, TIME, replace(GIVEN, channels=picture))
    )
    assert not torch.allclose(answer, before, atol=1e-2)
    assert torch.equal(
        held.denoiser.variant((), ())(NOISY, TIME, held.denoiser.prepare(GIVEN)), answer
    )
    by_itself = with_control(replace(model, denoiser=held.denoiser.denoiser), f"={shown}", 24, 16)
    assert torch.equal(by_itself.denoiser(NOISY, TIME, GIVEN), answer)
    union = written(
        shaken(Flux(FLUX).build()), diffusers_flux_control.LAYOUTS[0], tmp_path / "plain"
    )
    both = with_control(held, f"{union}={shown}:0.5", 24, 16).denoiser(NOISY, TIME, GIVEN)
    assert not torch.allclose(both, answer, atol=1e-2)
    with pytest.raises(BadInput, match="one for latents of 8×12, not 8×8: give that size"):
        held.denoiser(NOISY[..., :8], TIME, GIVEN)


def test_a_lora_that_shows_nothing_is_refused_with_nothing_changed(shown, tmp_path):
    model = model_of(FLUX)
    before = {name: one.clone() for name, one in model.denoiser.state_dict().items()}
    for columns, message in (
        (16, "is a LoRA without control: merge it with --lora"),
        (24, "takes no picture itself"),
    ):
        save_file(lora(columns), tmp_path / "it.safetensors")
        with pytest.raises(BadInput, match=message):
            with_control(model, f"{tmp_path / 'it.safetensors'}={shown}", 24, 16)
    with pytest.raises(BadInput, match="takes no picture itself: name the file"):
        with_control(model, f"={shown}", 24, 16)
    assert all(torch.equal(before[name], one) for name, one in model.denoiser.state_dict().items())


def test_what_does_not_fit_is_refused_before_anything(shown, tmp_path):
    model = model_of(SD3)
    union = written(
        Flux(FLUX, modes=8).build(), diffusers_flux_control.LAYOUTS[0], tmp_path / "union"
    )
    small = written(Joint(SD3).build(), diffusers_mmdit_control.LAYOUTS[0], tmp_path / "sd3")
    for one, given, message in (
        (model, f"{union}={shown}:canny", "for a FLUX of generation 1, .* not for MMDiT"),
        (model_of(FLUX), f"{union}={shown}", "say which this is, one of canny"),
        (model_of(FLUX), f"{union}={shown}:sketch", "wanted one of canny, .*; got 'sketch'"),
        (replace(model, autoencoder=None), f"{small}={shown}", "add the model's autoencoder"),
    ):
        with pytest.raises(BadInput, match=message):
            with_control(one, given, 24, 16)
