"""Whole guided runs: the same bits alone, in any batch, in threads and again; and what others make
of the same."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from safelight.config import Slot
from safelight.diffusion.guided import guided
from safelight.diffusion.ideal import IdealGaussian
from safelight.diffusion.prediction import Clean, Flow, noise_of
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import Linear
from safelight.types.networks import Condition, Denoiser

SLOT = Slot("diffusion.guidance")
KINDS = [kind for kind in SLOT.kinds() if kind != "classifier"]
KINDS += [
    "rescale:of=apg,scale=5",
    "interval:of=cfg-zero,high=0.9",
    "threshold:quantile=0.8,bound=0.5",
]
MEANS = torch.linspace(-1, 1, 8)
NOISE = torch.randn(8, 4, 6, 7, generator=torch.Generator().manual_seed(3))
TIMES = torch.linspace(1, 0, 8, dtype=torch.float64)


class Known(Denoiser):
    """Networks that know their data: each sample is Gaussian about the mean that its condition
    says."""

    size_multiple = 1
    scalar_names = ("guidance",)

    def __init__(self, schedule, deviation=0.5):
        self.schedule, self.deviation = schedule, deviation

    def __call__(self, noisy, time, condition):
        mean = condition.vector[:, :, None, None].expand_as(noisy)
        level = self.schedule(time.to(torch.float64)[0] / 1000)
        return IdealGaussian(mean, torch.tensor(self.deviation))(noisy, level).clean

    def variant(self, skip_blocks, self_only_blocks):
        return Known(self.schedule, 0.9)


def walk(rule, samples):
    """The end of a run of first-order steps over these samples."""
    process = Process(Linear(), Clean())
    networks = {"main": Known(process.schedule), "weak": Known(process.schedule, 1.5)}
    yes, no = (Condition(vector=mean[:, None]) for mean in (MEANS[samples], 0 * MEANS[samples]))
    waist, noisy = guided(process, networks, rule, yes, lambda only: no), NOISE[samples]
    for here, there in TIMES.unfold(0, 2, 1):
        level, after = process.schedule(here), process.schedule(there)
        estimate = waist(noisy, level)
        noisy = after.alpha * estimate.clean + after.sigma * noise_of(estimate, noisy, level)
    return noisy


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_has_the_same_bits_alone_and_in_any_batch(kind):
    rule = SLOT.read(kind)
    eight = walk(rule, slice(0, 8))
    assert eight.isfinite().all()
    parts = torch.cat([walk(rule, slice(0, 3)), walk(rule, slice(3, 8))])
    alone = torch.cat([walk(rule, slice(i, i + 1)) for i in range(8)])
    assert torch.equal(eight, parts)
    assert torch.equal(eight, alone)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", ["apg", "cfg-zero:zero=2", "interval:of=apg,high=0.9"])
def test_one_rule_serves_many_runs_at_once(kind):
    rule = SLOT.read(kind)
    wanted = [walk(rule, slice(i, i + 1)) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: walk(rule, slice(i % 8, i % 8 + 1)), range(16)))
    assert all(torch.equal(one, wanted[i % 8]) for i, one in enumerate(found))


def test_guidances_differ():
    """Each does something: no two of the kinds end in the same latents, but for those that are
    equal here."""
    plain = {"none", "distilled"}  # this network makes nothing of the scale
    ends = {kind: walk(SLOT.read(kind), slice(0, 8)) for kind in KINDS if kind not in plain}
    ends["none"] = walk(SLOT.read("none"), slice(0, 8))
    for one in ends:
        for other in ends:
            assert one == other or not torch.allclose(ends[one], ends[other], atol=1e-4), (
                one,
                other,
            )


CLEAN = Clean()
YES, NO, WEAK = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def combined(kind, *answers, space=CLEAN, t=0.4):
    """What a rule makes of answers, in the space in which they are given."""
    rule = SLOT.read(kind).begin(lambda by: None)
    level = Linear()(torch.tensor(t, dtype=torch.float64))
    noisy = 0.5 * NO.flip(0)
    made = rule.combine(
        [space.to_estimate(answer, noisy, level) for answer in answers], noisy, level
    )
    return space.target(made.clean, noise_of(made, noisy, level), level)


@pytest.fixture
def guiders():
    return pytest.importorskip("diffusers.guiders")


def test_as_in_diffusers_classifier_free_and_rescaled(guiders):
    """Theirs rescales in whatever space the network answers; ours in a named one: the same where
    they are the same."""
    theirs = guiders.ClassifierFreeGuidance(guidance_scale=4.0)
    torch.testing.assert_close(
        combined("classifier-free:scale=4", YES, NO), theirs.forward(YES, NO).pred
    )
    theirs = guiders.ClassifierFreeGuidance(guidance_scale=4.0, guidance_rescale=0.7)
    for space, name in ((Clean(), "clean"), (Flow(), "flow")):
        found = combined(f"rescale:phi=0.7,scale=4,space={name}", YES, NO, space=space)
        torch.testing.assert_close(found, theirs.forward(YES, NO).pred, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("eta", "threshold", "momentum"), [(1.0, 0.0, 0.0), (0.0, 5.0, 0.0), (0.3, 6.0, -0.5)]
)
def test_as_in_diffusers_adaptive_projected(guiders, eta, threshold, momentum):
    """Theirs starts at the negative unless asked for the paper's form, whose scale is ours less 1;
    and it works in the space of the network's answers, ours in the paper's, which is clean: so they
    are compared there."""
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

    memory = MomentumBuffer(momentum)
    rule = SLOT.read(f"apg:scale=5,eta={eta},threshold={threshold},momentum={momentum}").begin(
        lambda by: None
    )
    level = Linear()(torch.tensor(0.4))
    for no in (NO, WEAK, NO):
        theirs = normalized_guidance(
            YES, no, 4.0, memory, eta, threshold, use_original_formulation=True
        )
        ours = rule.combine(
            [Clean().to_estimate(YES, YES, level), Clean().to_estimate(no, YES, level)], YES, level
        ).clean
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_as_in_diffusers_cfg_zero(guiders):
    """Theirs takes the network's answers for velocities; ours converts to them."""
    theirs = guiders.ClassifierFreeZeroStarGuidance(guidance_scale=4.0, zero_init_steps=0)
    theirs._step = 1
    found = combined("cfg-zero:scale=4,zero=0", YES, NO, space=Flow())
    torch.testing.assert_close(found, theirs.forward(YES, NO).pred, rtol=1e-4, atol=1e-5)


def test_as_in_diffusers_skip_layers_and_perturbed_attention(guiders):
    """Theirs counts the levels in steps; without classifier-free guidance it starts from the
    weakened answer unless asked for the paper's form."""
    options = {
        "guidance_scale": 4.0,
        "skip_layer_guidance_scale": 2.5,
        "skip_layer_guidance_layers": [1],
    }
    theirs = guiders.SkipLayerGuidance(
        **options, skip_layer_guidance_start=0.0, skip_layer_guidance_stop=1.0
    )
    theirs._step, theirs._num_inference_steps = 5, 10
    for kind in ("skip-layers", "perturbed-attention"):
        found = combined(f"{kind}:scale=4,strength=2.5", YES, NO, WEAK)
        torch.testing.assert_close(found, theirs.forward(YES, NO, WEAK).pred)
    options = {**options, "guidance_scale": 0.0, "use_original_formulation": True}
    theirs = guiders.SkipLayerGuidance(
        **options, skip_layer_guidance_start=0.0, skip_layer_guidance_stop=1.0
    )
    theirs._step, theirs._num_inference_steps = 5, 10
    torch.testing.assert_close(
        combined("skip-layers:of=none,strength=2.5", YES, WEAK),
        theirs.forward(YES, None, WEAK).pred,
    )


def test_as_in_diffusers_thresholded():
    """Theirs bounds s from above as well (by the bound, which leaves a plain cut unless it is
    raised)."""
    schedulers = pytest.importorskip("diffusers.schedulers")
    theirs = schedulers.DDIMScheduler(
        thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=100.0
    )
    guided = NO + 4 * (YES - NO)
    found = combined("threshold:scale=4,quantile=0.9,bound=1", YES, NO)
    torch.testing.assert_close(found, theirs._threshold_sample(guided), rtol=1e-4, atol=1e-5)
