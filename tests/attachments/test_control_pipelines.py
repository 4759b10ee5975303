"""Control as in diffusers' whole pipelines: how the picture is preprocessed and used."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from test_transformer_controls import FLUX, FLUXES, JOINT, THEIRS, given, peer_of, shaken, whole

from recorded import difference
from safelight.autoencoders.kl.config import Config as KL
from safelight.layouts.autoencoder import diffusers as diffusers_autoencoder
from safelight.layouts.flux import diffusers as diffusers_flux
from safelight.layouts.mmdit import diffusers as diffusers_mmdit
from safelight.nn.control import Controlled
from safelight.types.networks import Condition, Tokens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]  # the peer library warns of itself
SCALE, SHIFT = 1.5305, 0.0609
PICTURE = Image.fromarray((np.random.default_rng(0).random((64, 96, 3)) * 255).astype("uint8"))
MASK = Image.new("L", PICTURE.size)
ImageDraw.Draw(MASK).rectangle((20, 10, 60, 50), fill=255)


def planes(picture):
    return torch.from_numpy(np.array(picture)).reshape(64, 96, -1).permute(2, 0, 1)[None] / 255


@pytest.fixture(scope="module")
def autoencoders():
    """Ours and diffusers' with the same weights; theirs samples, with hardly any deviation."""
    diffusers = pytest.importorskip("diffusers")
    ours = shaken(
        KL(width=8, multipliers=(1, 2, 2, 2), blocks=1, groups=4, quant=False).build()
    ).requires_grad_(False)
    ours.encoder.leave.weight[4:], ours.encoder.leave.bias[4:] = 0, -60
    ours.scale.mean[:], ours.scale.deviation[:] = SHIFT, 1 / SCALE
    layout = diffusers_autoencoder.LAYOUTS[0]
    said = {
        name: one for name, one in layout.describe(ours.config).items() if name != "_class_name"
    }
    theirs = diffusers.AutoencoderKL(**said | {"scaling_factor": SCALE, "shift_factor": SHIFT})
    theirs.load_state_dict(dict(layout.table(ours.config).to_theirs(ours.state_dict())))
    return ours, theirs


class Heard:
    """What a transformer of a pipeline is told and answers, call by call."""

    def __init__(self, transformer):
        self.calls, self.forward, transformer.forward = [], transformer.forward, self

    def __call__(self, **told):
        answer = self.forward(**told)
        self.calls.append((told, answer[0]))
        return answer


def run(pipe, **asked):
    """Three steps of a pipeline, and what its transformer was told and answered."""
    text, pooled, _ = given()
    heard = Heard(pipe.transformer)
    pipe.set_progress_bar_config(disable=True)
    pipe(
        prompt_embeds=text[:1],
        pooled_prompt_embeds=pooled[:1],
        control_image=PICTURE,
        controlnet_conditioning_scale=0.7,
        num_inference_steps=3,
        height=64,
        width=96,
        output_type="latent",
        **asked,
    )
    assert len(heard.calls) == 3
    return heard.calls


def condition(told, **scalars):
    text = told["encoder_hidden_states"]
    words = Tokens(text, torch.ones(text.shape[:2], dtype=torch.bool))
    return Condition(words, vector=told["pooled_projections"], scalars=scalars)


@pytest.mark.parametrize("name", JOINT)
@torch.no_grad()
def test_stable_diffusion_3(autoencoders, name):
    import diffusers

    config = JOINT[name]
    network, branch = shaken(whole(config).build()), shaken(config.build())
    transformer, control = (
        peer_of(diffusers_mmdit.LAYOUTS[0], network),
        peer_of(THEIRS[type(config)], branch),
    )
    if not config.enters:
        control.pos_embed = control._get_pos_embed_from_transformer(transformer)
    kind = diffusers.StableDiffusion3ControlNetPipeline
    if config.mask:
        kind = diffusers.pipelines.StableDiffusion3ControlNetInpaintingPipeline
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = kind(transformer, scheduler, autoencoders[1], *[None] * 6, control)
    text, pooled, _ = given()
    negative = {
        "negative_prompt_embeds": text[1:],
        "negative_pooled_prompt_embeds": pooled[1:],
        "guidance_scale": 4.0,
    }
    calls = run(pipe, **negative, **({"control_mask": MASK} if config.mask else {}))
    hint = torch.cat([planes(PICTURE), 1 - planes(MASK)], dim=1) if config.mask else planes(PICTURE)
    held = Controlled(
        network, branch, hint, 0.7, encode=lambda images: autoencoders[0].encode(images).mode()
    )
    for told, answer in calls:
        assert (
            difference(
                held(told["hidden_states"], told["timestep"].float(), condition(told)), answer
            )
            < 1e-5
        )


@pytest.mark.parametrize("name", FLUXES)
@torch.no_grad()
def test_flux(autoencoders, name):
    import diffusers

    config = FLUXES[name]
    network, branch = shaken(FLUX.build()), shaken(config.build())
    transformer, control = (
        peer_of(diffusers_flux.LAYOUTS[0], network),
        peer_of(THEIRS[type(config)], branch),
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = diffusers.FluxControlNetPipeline(
        scheduler, autoencoders[1], *[None] * 4, transformer, control
    )
    calls = run(pipe, guidance_scale=3.5, control_mode=2 if config.modes else None)
    mode, encode = "depth" if config.modes else "", autoencoders[0].encode
    held = Controlled(
        network,
        branch,
        planes(PICTURE),
        0.7,
        encode=lambda images: encode(images).mode(),
        mode=mode,
    )
    for told, answer in calls:
        noisy = network.unpack(told["hidden_states"], (4, 6))
        got = held(
            noisy, 1000 * told["timestep"].float(), condition(told, guidance=told["guidance"])
        )
        assert difference(network.pack(got), answer) < 1e-5
