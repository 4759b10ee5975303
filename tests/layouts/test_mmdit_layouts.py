"""Stable Diffusion 3 in the layouts of others: real lists, recordings, the peer library, and there
and back."""

from dataclasses import replace

import pytest
import torch

from recorded import Recording, error, real_shapes, shapes_of
from safelight.denoisers.mmdit.config import Config
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.guided import guided
from safelight.diffusion.noise import RecordedNoise
from safelight.diffusion.prediction import Flow
from safelight.diffusion.process import Process
from safelight.diffusion.samplers.dpmpp import DPMpp2M
from safelight.diffusion.samplers.euler import Euler
from safelight.diffusion.schedule import Linear
from safelight.diffusion.spacing.shifted import ShiftedTwice
from safelight.diffusion.trajectory import image_to_image_start
from safelight.errors import BadInput
from safelight.layouts.mmdit import diffusers as diffusers_mmdit
from safelight.layouts.mmdit import original as mmdit
from safelight.types.diffusion import NoiseLevel
from safelight.types.networks import Condition, Tokens

(ORIGINAL,), (DIFFUSERS,) = mmdit.LAYOUTS, diffusers_mmdit.LAYOUTS
PREFIX = "model.diffusion_model."
REAL = {
    "sd3-medium.mmdit": (ORIGINAL, 2_084_951_104),
    "sd3.5-medium.mmdit": (ORIGINAL, 2_469_663_936),
    "sd3.5-large.mmdit": (ORIGINAL, 8_146_280_768),
    "sd3-medium.transformer.diffusers": (DIFFUSERS, 2_084_951_104),
}
NONE = RecordedNoise([])
FAMILIES = ("sd3", "sd35-medium", "sd35-large")


def bare(file):
    return {
        name.removeprefix(PREFIX): one
        for name, one in file.items()
        if not name.startswith("first_stage_model.")
    }


def loaded(layout, file, said=None):
    """The network of a file, and the file as it is written again."""
    config = layout.config(shapes_of(file), said or {})
    network, table = config.build(), layout.table(config)
    ours = dict(table.to_ours(file, network.state_dict(), "it"))
    network.load_state_dict(ours)
    return network.eval(), dict(table.to_theirs(network.state_dict()))


@pytest.mark.parametrize("name", REAL)
def test_a_real_list_fits_with_nothing_missing_or_left_over(name):
    layout, parameters = REAL[name]
    shapes = {key.removeprefix(PREFIX): shape for key, shape in real_shapes(name).items()}
    assert [one for one in (ORIGINAL, DIFFUSERS) if one.recognises(shapes)] == [layout]
    config = layout.config(shapes, {})
    with torch.device("meta"):
        network = config.build()
    file = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    table = layout.table(config)
    ours = dict(table.to_ours(file, network.state_dict(), name))
    assert ours.keys() == network.state_dict().keys()
    assert shapes_of(dict(table.to_theirs(ours))) == shapes
    assert sum(one.numel() for one in network.state_dict().values()) == parameters


def test_what_makes_the_sizes_differ_is_read_from_the_names():
    def config(name):
        return ORIGINAL.config(
            {key.removeprefix(PREFIX): shape for key, shape in real_shapes(name).items()}, {}
        )

    medium = config("sd3.5-medium.mmdit")
    assert (medium.heads, medium.side, medium.qk_norm, medium.dual) == (
        24,
        384,
        True,
        tuple(range(13)),
    )
    assert config("sd3-medium.mmdit") == replace(medium, side=192, qk_norm=False, dual=())
    large = config("sd3.5-large.mmdit")
    assert (large.depth, large.width, large.heads, large.side, large.dual) == (
        38,
        2432,
        38,
        192,
        (),
    )


class Family:
    """A recorded checkpoint, its conditions and its guided waist."""

    def __init__(self, name):
        self.recording = Recording(name)
        self.file = bare(self.recording.weights("model.safetensors"))
        self.network, self.again = loaded(ORIGINAL, self.file)
        self.process = Process(Linear(), Flow())

    def condition(self, which=""):
        values = self.recording.inputs[f"{which}context"]
        tokens = Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))
        return self.network.prepare(Condition(tokens, vector=self.recording.inputs[f"{which}y"]))

    def waist(self):
        scale = 5.0 if self.recording.folders[0].name == "sd3" else 4.5
        negative = self.condition("uncond_")
        networks = {"main": self.network}
        return guided(
            self.process, networks, ClassifierFree(scale), self.condition(), lambda only: negative
        )


@pytest.fixture(params=FAMILIES)
def family(request):
    return Family(request.param)


@torch.no_grad()
def test_a_recorded_file_comes_back_to_the_bit_and_answers_as_the_original(family):
    assert family.again.keys() == family.file.keys()
    assert all(torch.equal(family.again[key], family.file[key]) for key in family.file)
    noisy, outputs = family.recording.inputs["x"], family.recording.outputs
    for name in (one for one in outputs if one.startswith("velocity.sigma")):
        time = torch.full((len(noisy),), 1000 * float(name.removeprefix("velocity.sigma")))
        assert error(family.network(noisy, time, family.condition()), outputs[name]) < 1e-4


@torch.no_grad()
def test_a_block_left_out_is_as_the_original_leaves_it_out():
    family = Family("sd35-medium")
    noisy = family.recording.inputs["x"]
    answer = family.network.variant((0,), ())(noisy, torch.full((1,), 750.0), family.condition())
    assert error(answer, family.recording.outputs["velocity.skip_layer0.sigma0.75"]) < 1e-4


@torch.no_grad()
def test_its_euler_trajectory_is_theirs(family):
    start, wanted = family.recording.inputs["noise"], family.recording.outputs["euler.latents"]
    times = ShiftedTwice()(10, Linear())
    torch.testing.assert_close(
        times.float(), family.recording.outputs["schedule.sigmas"], atol=1e-6, rtol=1e-6
    )
    steps = list(Euler()(family.waist(), start, times, Linear(), NONE))
    assert error(torch.stack([start, *(step.noisy for step in steps)]), wanted) < 1e-3
    clean = torch.stack([step.estimate.clean for step in steps])
    assert error(clean, family.recording.outputs["euler.denoised"]) < 1e-3


@torch.no_grad()
def test_pictures_begun_from_others_are_theirs(family):
    inputs, outputs = family.recording.inputs, family.recording.outputs
    times = ShiftedTwice()(10, Linear())
    start, left = image_to_image_start(
        inputs["x"], 0.6, times, Linear(), lambda shape, interval: inputs["noise"]
    )
    assert error(start, outputs["img2img.start"]) < 1e-5
    *_, last = Euler()(family.waist(), start, left, Linear(), NONE)
    assert error(last.noisy, outputs["img2img.result"]) < 1e-3


class InSigma:
    """A flow seen as if alpha were 1: their DPM-Solver++ counts its steps in log(sigma) alone."""

    def __call__(self, t):
        return NoiseLevel(1000 * t, torch.ones_like(t), t, torch.zeros_like(t), torch.ones_like(t))

    def when(self, half_logsnr):
        return torch.exp(-half_logsnr)


@torch.no_grad()
def test_their_dpm_solver_is_ours_where_alpha_is_not_counted(family):
    waist, flow = family.waist(), Linear()
    start, times = family.recording.inputs["noise"], ShiftedTwice()(10, flow)
    steps = DPMpp2M()(
        lambda noisy, level: waist(noisy, flow(level.sigma)), start, times, InSigma(), NONE
    )
    found = torch.stack([start, *(step.noisy for step in steps)])
    assert error(found, family.recording.outputs["dpmpp_2m.latents"]) < 1e-3


@torch.no_grad()
def test_a_folder_of_diffusers_answers_as_there():
    recording = Recording("diffusers-folders")
    file = recording.weights("sd3/transformer/diffusion_pytorch_model.safetensors")
    with pytest.raises(BadInput, match="say how many, as heads"):
        DIFFUSERS.config(shapes_of(file), {})
    network, again = loaded(DIFFUSERS, file, {"num_attention_heads": 3})
    assert again.keys() == file.keys()
    assert all(torch.equal(again[key], file[key]) for key in file)
    values = recording.outputs["sd3.prompt_embeds"]
    tokens = Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))
    told = Condition(tokens, vector=recording.outputs["sd3.pooled"])
    answer = network(recording.inputs["sd3.latents"], torch.full((2,), 600.0), told)
    assert error(answer, recording.outputs["sd3.transformer.t600"]) < 1e-4


@pytest.mark.parametrize("case", [{"qk_norm": False}, {}, {"dual": (0, 2)}])
@torch.no_grad()
def test_it_answers_as_diffusers_with_the_same_weights(case):
    peer = pytest.importorskip("diffusers")
    config = Config(16, 2, 128, 4, 4, 4.0, 24, 20, side=12, **case)
    torch.manual_seed(0)
    network = config.build().eval()
    for one in network.state_dict().values():
        one.add_(0.1 * torch.randn_like(one))
    theirs = peer.SD3Transformer2DModel.from_config(DIFFUSERS.describe(config)).eval()
    file = dict(DIFFUSERS.table(config).to_theirs(network.state_dict()))
    theirs.load_state_dict(file)
    assert DIFFUSERS.recognises(shapes_of(file))
    assert DIFFUSERS.config(shapes_of(file), DIFFUSERS.describe(config)) == config
    noisy, values, vector = torch.randn(2, 16, 10, 14), torch.randn(2, 5, 24), torch.randn(2, 20)
    time, residuals = torch.tensor([700.0, 31.5]), tuple(torch.randn(2, 35, 128) for _ in range(2))
    told = Condition(
        Tokens(values, torch.ones(2, 5, dtype=torch.bool)), vector=vector, residuals=residuals
    )
    wanted = theirs(noisy, values, vector, time, block_controlnet_hidden_states=residuals).sample
    assert error(network(noisy, time, told), wanted) < 1e-5
    wanted = theirs(noisy, values, vector, time, skip_layers=[1]).sample
    assert error(network.variant((1,), ())(noisy, time, replace(told, residuals=())), wanted) < 1e-5
