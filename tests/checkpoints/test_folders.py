"""Whole pipelines of diffusers from its folders: the same conditions, steps and pictures."""

import pytest
import torch
from einops import rearrange

from recorded import Recording, error
from safelight import checkpoints
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.guidance.distilled import Distilled
from safelight.diffusion.guided import guided
from safelight.diffusion.noise import RecordedNoise
from safelight.diffusion.spacing.shifted import ShiftedByTokens
from safelight.settings import SAMPLER, SPACING
from safelight.types.networks import Condition, Prompt, Tokens

SIZES = {"sd": {}, "sdxl": {"original_size": (40, 48), "crop": (0, 4), "target_size": (32, 48)}}
PROMPTS = ("a photo of a cat", "An  odd dog, 3 birds!")


@pytest.fixture
def model(name):
    made = checkpoints.read(Recording("diffusers-folders").file(name))
    for part in (made.autoencoder, made.conditioner, made.denoiser):
        part.float().eval().requires_grad_(False)
    return made


@pytest.mark.parametrize("name", SIZES)
def test_prompts_become_what_they_became(model, name):
    outputs = Recording("diffusers-folders").outputs
    told = model.conditioner([Prompt(text, SIZES[name]) for text in PROMPTS])
    tokens = outputs["sd.text" if name == "sd" else f"{name}.prompt_embeds"]
    assert error(told.tokens.values[:, : tokens.shape[1]], tokens) < 1e-4
    if name != "sd":
        pooled = outputs[f"{name}.pooled"]
        assert error(told.vector[:, : pooled.shape[1]], pooled) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "scale"), [("sd", 7.5), ("sdxl", 5.0), ("sd3", 4.0), ("flux", 3.5)]
)
def test_the_steps_equal_the_recorded_ones(model, name, scale):
    """From the prompts, or from the recorded states where the pipeline's chunks are shorter."""
    inputs, outputs = Recording("diffusers-folders").inputs, Recording("diffusers-folders").outputs
    network, process, settings = model.denoiser, model.process, model.card.settings
    spacing, start = SPACING.read(settings.spacing), inputs.get(f"{name}.latents")
    if name in ("sd", "sdxl"):
        told = model.conditioner([Prompt(text, SIZES[name]) for text in PROMPTS])
        negative = model.conditioner([Prompt("blurry", SIZES[name]) for _ in PROMPTS])
    else:
        told = Condition(words(outputs[f"{name}.prompt_embeds"]), vector=outputs[f"{name}.pooled"])
    guidance = ClassifierFree(scale)
    if name == "sd3":
        negative = Condition(
            words(outputs["sd3.negative_prompt_embeds"]), vector=outputs["sd3.negative_pooled"]
        )
    if name == "flux":
        start, negative = unpacked(inputs["flux.packed_latents"]), told
        guidance, spacing = Distilled(scale=scale), ShiftedByTokens(tokens=6)
    told, negative = network.prepare(told), network.prepare(negative)
    denoise = guided(process, {"main": network}, guidance, told, lambda only: negative)
    times = spacing(4, process.schedule)
    *_, last = SAMPLER.read(settings.sampler)(
        denoise, start, times, process.schedule, RecordedNoise([])
    )
    want = outputs["flux.packed_latents" if name == "flux" else f"{name}.latents"][-1]
    assert error(last.noisy, unpacked(want) if name == "flux" else want) < 1e-3
    pictures = model.autoencoder.decode(last.noisy).clamp(-1, 1).permute(0, 2, 3, 1)
    assert error(pictures / 2 + 0.5, outputs[f"{name}.images"]) < 1e-3


def words(values):
    return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))


def unpacked(packed):
    return rearrange(packed, "b (h w) (c p q) -> b c (h p) (w q)", h=2, w=3, p=2, q=2)
