"""Each guidance against its closed form, its limits, and the space of its paper."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from safelight.config import Slot
from safelight.diffusion.blend import WeightedCondition
from safelight.diffusion.guidance.apg import APG
from safelight.diffusion.guidance.autoguidance import Autoguidance
from safelight.diffusion.guidance.cfg_plus_plus import CFGPlusPlus
from safelight.diffusion.guidance.cfg_zero import CFGZero
from safelight.diffusion.guidance.channels import Channels
from safelight.diffusion.guidance.classifier import Classifier
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.guidance.distilled import Distilled
from safelight.diffusion.guidance.interval import Interval
from safelight.diffusion.guidance.rescale import Rescale
from safelight.diffusion.guidance.skip_layers import SkipLayers
from safelight.diffusion.guidance.threshold import Threshold
from safelight.diffusion.guidance.two_scale import TwoScale
from safelight.diffusion.guided import guided
from safelight.diffusion.ideal import IdealGaussian
from safelight.diffusion.prediction import SPACES, from_space, noise_of, to_space
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import Cosine, Linear, ScaledLinear
from safelight.errors import BadInput
from safelight.types.diffusion import Estimate, NetworkVariant
from safelight.types.networks import Condition, Denoiser

DRAW = torch.Generator().manual_seed(0)
NOISY, YES, NO, OTHER = (
    torch.randn(3, 4, 5, 6, generator=DRAW, dtype=torch.float64) for _ in range(4)
)
SCHEDULES = [Linear(), ScaledLinear(), Cosine()]


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def at(t, schedule=SCHEDULES[0]):
    return schedule(number(t))


def nothing(only):
    return Condition()


def combine(rule, *cleans, level=None, noisy=NOISY):
    """What a rule, begun for one run, makes of answers."""
    rule = rule.begin(lambda by: None)
    return rule.combine([Estimate(clean) for clean in cleans], noisy, level or at(0.4))


def cfg(scale, yes=YES, no=NO):
    return no + scale * (yes - no)


def norm(latents):
    return latents.flatten(1).norm(dim=1)


def deviation(latents):
    return latents.flatten(1).std(dim=1)


def walk(waist, times, schedule=SCHEDULES[0], noisy=NOISY):
    """The latents after each deterministic first-order step."""
    for here, there in pairwise(times):
        level, after = at(here, schedule), at(there, schedule)
        estimate = waist(noisy, level)
        noisy = after.alpha * estimate.clean + after.sigma * noise_of(estimate, noisy, level)
        yield noisy


def gaussian(condition, noisy, level):
    """The posterior mean of a Gaussian whose mean and deviation the condition's vector holds."""
    mean, spread = (value[:, None, None, None] for value in condition.vector.unbind(1))
    return IdealGaussian(mean, spread)(noisy, level)


class Telling:
    """A network that answers as the Gaussian of its condition, in a prediction's own space."""

    def __init__(self, process, level):
        self.process, self.level, self.asked = process, level, 0

    def __call__(self, noisy, time, condition):
        self.asked += 1
        estimate = gaussian(condition, noisy, self.level)
        return self.process.prediction.target(
            estimate.clean, noise_of(estimate, noisy, self.level), self.level
        )


def about(mean, spread):
    return Condition(vector=number([[mean, spread]]).expand(len(NOISY), 2))


def run(rule, process, level, yes, no, weak=None):
    """The waist's answer where network and weak network are exact for Gaussians."""
    networks = {"main": Telling(process, level), "weak": Telling(process, level)}
    told = (
        (lambda name, condition: weak if name == "weak" else condition)
        if weak
        else lambda name, condition: condition
    )
    return guided(process, networks, rule, yes, lambda only: no, told)(NOISY, level).clean


@pytest.mark.parametrize("prediction", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: type(one).__name__)
def test_two_gaussians_of_one_spread_are_guided_to_the_gaussian_beyond(schedule, prediction):
    if prediction.needs_signal:
        schedule = ScaledLinear()
    level, process = at(0.6, schedule), Process(schedule, prediction)
    beyond = IdealGaussian(number(-1 + 3 * (0.5 + 1)), number(0.7))(NOISY, level).clean
    yes, no = about(0.5, 0.7), about(-1.0, 0.7)
    torch.testing.assert_close(run(ClassifierFree(3.0), process, level, yes, no), beyond)
    torch.testing.assert_close(run(Autoguidance(3.0), process, level, yes, no, weak=no), beyond)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
def test_the_guided_score_is_that_of_the_tilted_gaussian(t):
    """p1^w · p0^(1-w) of two noisy Gaussians is a Gaussian: precisions and their means add up."""
    schedule, w = ScaledLinear(), 2.5
    level = at(t, schedule)
    variances = [level.alpha**2 * spread**2 + level.sigma**2 for spread in (0.7, 1.3)]
    precision = w / variances[0] + (1 - w) / variances[1]
    pulled = w * level.alpha * 0.5 / variances[0] + (1 - w) * level.alpha * -1.0 / variances[1]
    score = pulled - precision * NOISY
    for rule, weak in ((ClassifierFree(w), None), (Autoguidance(w), about(-1.0, 1.3))):
        found = run(
            rule, Process(schedule, SPACES["noise"]), level, about(0.5, 0.7), about(-1.0, 1.3), weak
        )
        torch.testing.assert_close(found, (NOISY + level.sigma**2 * score) / level.alpha)


def test_a_guided_run_ends_in_the_gaussian_beyond():
    ends = []
    beyond = IdealGaussian(number(2.0), number(0.7))
    for waist in (beyond, lambda noisy, level: run_at(ClassifierFree(2.0), noisy, level)):
        *_, last = walk(waist, [1, 0.9, 0.6, 0.3, 0.1, 0])
        ends.append(last)
    torch.testing.assert_close(*ends)


def run_at(rule, noisy, level):
    process = Process(Linear(), SPACES["flow"])
    network = {"main": Telling(process, level)}
    return guided(process, network, rule, about(0.5, 0.7), lambda only: about(-1.0, 0.7))(
        noisy, level
    )


@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("prediction", ["clean", "v", "flow", "noise"])
def test_affine_rules_are_the_same_in_the_space_of_the_answers(prediction, t):
    schedule = ScaledLinear() if prediction == "noise" else Cosine()
    level, space = at(t, schedule), SPACES[prediction]
    answers = [
        space.target(clean, noise_of(Estimate(clean), NOISY, level), level)
        for clean in (YES, NO, OTHER)
    ]
    rules = [
        (ClassifierFree(3.5), (3.5, -2.5)),
        (Autoguidance(1.7), (1.7, -0.7)),
        (TwoScale(text=5.0, picture=1.5), (5.0, 1.5 - 5.0, -0.5)),
        (SkipLayers(ClassifierFree(3.0), strength=2.0), (3.0 + 2, -2.0, -2.0)),
    ]
    for rule, weights in rules:
        assert math.isclose(sum(weights), 1)
        given = answers[: len(weights)]
        in_space = space.to_estimate(
            sum(w * a for w, a in zip(weights, given, strict=True)), NOISY, level
        ).clean
        read_first = combine(
            rule, *(space.to_estimate(a, NOISY, level).clean for a in given), level=level
        ).clean
        torch.testing.assert_close(read_first, in_space, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: type(one).__name__)
def test_spaces_are_left_as_they_were_entered(space, schedule):
    level = at(0.7, schedule)
    back = from_space(
        space, to_space(space, Estimate(YES), NOISY, level), NOISY, level, fallback=NO
    )
    torch.testing.assert_close(back, YES)


def test_a_noise_that_tells_nothing_is_not_read():
    level = at(1.0)
    assert torch.equal(from_space("noise", YES, NOISY, level, fallback=NO), NO)
    torch.testing.assert_close(
        combine(Rescale(space="noise", phi=1.0), YES, NO, level=level).clean, cfg(4)
    )


@pytest.mark.parametrize("space", SPACES)
def test_rescaling_gives_back_the_spread_of_the_conditional_answer(space):
    level = at(0.6, Cosine())
    rule = Rescale(ClassifierFree(7.0), phi=1.0, space=space)
    wanted, wide, found = (
        deviation(to_space(space, Estimate(clean), NOISY, level))
        for clean in (YES, cfg(7), combine(rule, YES, NO, level=level).clean)
    )
    torch.testing.assert_close(found, wanted)
    part = combine(replace(rule, phi=0.7), YES, NO, level=level).clean
    torch.testing.assert_close(
        deviation(to_space(space, Estimate(part), NOISY, level)),
        0.7 * wanted + 0.3 * wide,
        rtol=1e-9,
        atol=1e-9,
    )
    assert torch.equal(combine(replace(rule, phi=0.0), YES, NO, level=level).clean, cfg(7))


def test_rescaling_one_answer_leaves_it():
    outside = Rescale(Interval(ClassifierFree(7.0), low=0.5), phi=1.0)
    assert torch.equal(combine(outside, YES, level=at(0.3)).clean, YES)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 1.0])
def test_thresholding_cuts_and_scales_each_sample_for_itself(quantile):
    guided = cfg(4.0)
    rule = Threshold(ClassifierFree(4.0), quantile=quantile, bound=1.0)
    found = combine(rule, YES, NO).clean
    for sample, cut in zip(guided, found, strict=True):
        s = sample.abs().flatten().quantile(quantile)
        assert s > 1
        torch.testing.assert_close(cut, sample.clamp(-s, s) / s)
    torch.testing.assert_close(found.abs().amax(dim=(1, 2, 3)), torch.ones(3, dtype=torch.float64))
    assert torch.equal(combine(replace(rule, bound=1e3), YES, NO).clean, guided)


def test_apg_with_all_of_it_and_no_memory_is_classifier_free():
    torch.testing.assert_close(
        combine(APG(5.0, eta=1, threshold=0, momentum=0), YES, NO).clean, cfg(5)
    )
    torch.testing.assert_close(
        combine(APG(5.0, eta=1, threshold=1e9, momentum=0), YES, NO).clean, cfg(5)
    )
    assert torch.equal(combine(APG(1.0), YES).clean, YES)


def test_apg_projects_cuts_and_remembers():
    moved = combine(APG(5.0, eta=0, threshold=0, momentum=0), YES, NO).clean - YES
    torch.testing.assert_close(
        (moved * YES).sum(dim=(1, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0
    )
    along = (YES - NO) - moved / 4
    torch.testing.assert_close(
        along / YES,
        ((YES - NO) * YES).sum((1, 2, 3), True) / norm(YES)[:, None, None, None] ** 2 + 0 * YES,
    )
    cut = combine(APG(5.0, eta=1, threshold=2.0, momentum=0), YES, NO).clean - YES
    torch.testing.assert_close(norm(cut), torch.full((3,), 8.0, dtype=torch.float64))
    rule = APG(3.0, eta=1, threshold=0, momentum=-0.5)
    running, total = rule.begin(lambda by: None), 0
    for no in (NO, OTHER, NOISY):
        total = (YES - no) - 0.5 * total
        found = running.combine([Estimate(YES), Estimate(no)], NOISY, at(0.5)).clean
        torch.testing.assert_close(found, YES + 2 * total)
    assert torch.equal(combine(rule, YES, NO).clean, YES + 2 * (YES - NO)), (
        "a new run remembers nothing"
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: type(one).__name__)
def test_cfg_zero_scales_the_negative_in_velocity_space(schedule):
    level, flow = at(0.6, schedule), SPACES["flow"]

    def clean(velocity):
        return flow.to_estimate(velocity, NOISY, level).clean

    parallel = combine(CFGZero(6.0, zero=0), clean(YES), clean(0.3 * YES), level=level).clean
    torch.testing.assert_close(parallel, clean(YES), rtol=1e-8, atol=1e-8)
    factor = (YES * NO).sum((1, 2, 3), True) / (NO * NO).sum((1, 2, 3), True)
    found = combine(CFGZero(6.0, zero=0), clean(YES), clean(NO), level=level).clean
    torch.testing.assert_close(found, clean(cfg(6.0, YES, factor * NO)), rtol=1e-8, atol=1e-8)


def test_cfg_zero_stands_still_and_asks_nothing_at_first():
    process = Process(Linear(), SPACES["flow"])
    network = Telling(process, at(0.5))
    waist = guided(
        process,
        {"main": network},
        CFGZero(3.0, zero=2),
        about(0.5, 1.0),
        lambda only: about(0.0, 1.0),
    )
    steps = list(walk(waist, [1, 0.75, 0.5, 0.25, 0]))
    torch.testing.assert_close(steps[1], NOISY)
    assert not torch.allclose(steps[2], NOISY)
    assert network.asked == 2


def test_cfg_plus_plus_renoises_with_the_noise_of_the_negative():
    level, after = at(0.8), at(0.6)
    (last,) = walk(lambda noisy, level: combine(CFGPlusPlus(0.6), YES, NO, level=level), [0.8, 0.6])
    noise = (NOISY - level.alpha * NO) / level.sigma
    torch.testing.assert_close(last, after.alpha * cfg(0.6) + after.sigma * noise)
    assert torch.equal(combine(CFGPlusPlus(0.0), YES, NO).clean, NO)


@pytest.mark.parametrize("rule", [ClassifierFree(4.0), CFGPlusPlus(0.6)])
def test_only_the_first_channels_are_guided(rule):
    found, whole = combine(Channels(rule, first=3), YES, NO), combine(rule, YES, NO)
    assert torch.equal(found.clean[:, :3], whole.clean[:, :3])
    assert torch.equal(found.clean[:, 3:], YES[:, 3:])
    if whole.noise is not None:
        assert torch.equal(found.noise[:, :3], whole.noise[:, :3])
        assert torch.equal(found.noise[:, 3:], noise_of(Estimate(YES), NOISY, at(0.4))[:, 3:])
    assert torch.equal(combine(Channels(rule, first=9), YES, NO).clean, whole.clean)


@pytest.mark.parametrize("t", [0.2, 0.7])
def test_a_classifier_turns_the_data_into_the_class(t):
    """Data N(m, s²) and a class seen through x + N(0, r²) = y: guided by log p(y | noisy), exactly
    p(x | y)."""
    m, s, r, y = -0.5, 0.8, 0.6, 1.2
    prior, level = IdealGaussian(number(m), number(s)), at(t)

    def log_probability(noisy, level):
        left = (s * level.sigma) ** 2 / (
            level.alpha**2 * s**2 + level.sigma**2
        )  # the variance of x given noisy
        return -((y - prior(noisy, level).clean) ** 2).flatten(1).sum(1) / (2 * (r**2 + left))

    spread = (s**-2 + r**-2) ** -0.5
    wanted = IdealGaussian(number((m / s**2 + y / r**2) * spread**2), number(spread))(
        NOISY, level
    ).clean
    with torch.inference_mode():
        found = combine(Classifier(log_probability), prior(NOISY, level).clean, level=level).clean
    torch.testing.assert_close(found, wanted)
    assert torch.equal(combine(Classifier(log_probability), YES, level=at(1.0)).clean, YES)


def test_two_scales_ask_for_the_picture_alone():
    asked = []

    def negative(only):
        asked.append(only)
        return Condition()

    assert len(TwoScale().calls(Condition(), negative, at(0.5))) == 3
    assert asked == [{"text"}, None]
    torch.testing.assert_close(combine(TwoScale(3.0, 3.0), YES, OTHER, NO).clean, cfg(3))
    torch.testing.assert_close(combine(TwoScale(1.0, 1.0), YES, OTHER, NO).clean, YES)


class Distillate(Denoiser):
    """A network that takes two scalars, keeps what it is called with, and answers the noisy
    latents."""

    size_multiple = 1
    scalar_names = ("guidance", "second")

    def __init__(self):
        self.calls = []

    def __call__(self, noisy, time, condition):
        self.calls.append((len(noisy), condition.scalars))
        return noisy


def test_a_distilled_network_takes_the_scale_in_one_pass():
    network = Distillate()
    condition = Condition(vector=torch.zeros(3, 1), scalars={"second": torch.ones(3)})
    guided(
        Process(Linear(), SPACES["clean"]), {"main": network}, Distilled(2.5), condition, nothing
    )(NOISY, at(0.5))
    ((count, scalars),) = network.calls
    assert count == 3
    assert scalars["guidance"].tolist() == [2.5] * 3
    assert scalars["second"].tolist() == [1] * 3
    parts = [
        WeightedCondition(condition),
        WeightedCondition(Condition(vector=torch.ones(3, 1), scalars=condition.scalars)),
    ]
    process = Process(Linear(), SPACES["clean"])
    guided(process, {"main": network}, Distilled(2.5), condition, nothing, weighted=parts)(
        NOISY, at(0.5)
    )
    assert network.calls[1][1]["guidance"].tolist() == [2.5] * 6


def test_a_scale_that_the_network_does_not_take_is_refused_when_the_run_is_made():
    process, condition = Process(Linear(), SPACES["clean"]), Condition(vector=torch.zeros(3, 1))
    with pytest.raises(
        BadInput,
        match="needs a network that takes the scalar 'guidance', this one takes no scalars",
    ):
        guided(
            process,
            {"main": lambda noisy, time, condition: noisy},
            Interval(Distilled(2.5)),
            condition,
            nothing,
        )


def test_weakened_networks_are_asked_within_their_levels_only():
    rule = SkipLayers(ClassifierFree(3.0), blocks=(0, 2), strength=2.0, low=0.3, high=0.6)
    rule = rule.begin(lambda by: None)
    inside, outside = (rule.calls(Condition(), nothing, at(t)) for t in (0.5, 0.7))
    assert [question.network for question in inside] == [
        NetworkVariant(),
        NetworkVariant(),
        NetworkVariant(skip_blocks=(0, 2)),
    ]
    assert [question.network for question in outside] == [NetworkVariant(), NetworkVariant()]
    assert torch.equal(combine(rule, YES, NO, level=at(0.7)).clean, cfg(3))
    torch.testing.assert_close(
        combine(rule, YES, NO, OTHER, level=at(0.5)).clean, cfg(3) + 2 * (YES - OTHER)
    )
    silent = SkipLayers(CFGZero(zero=1)).begin(lambda by: None)
    assert silent.calls(Condition(), nothing, at(0.9)) == ()
    assert torch.equal(
        silent.combine([], NOISY, at(0.9)).clean,
        SPACES["flow"].to_estimate(0 * NOISY, NOISY, at(0.9)).clean,
    )


@pytest.mark.parametrize(
    "kind", [k for k in Slot("diffusion.guidance").kinds() if k not in ("classifier", "cfg-zero")]
)
def test_the_conditional_answer_gives_the_variance_and_comes_first(kind):
    rule = Slot("diffusion.guidance").read(kind).begin(lambda variant: Distillate())
    condition = Condition()
    asked = rule.calls(condition, nothing, at(0.5))
    assert asked[0].condition is condition
    assert asked[0].network == NetworkVariant()
    answers = [Estimate(clean, variance=clean) for clean in (YES, NO, OTHER)[: len(asked)]]
    assert rule.combine(answers, NOISY, at(0.5)).variance is YES


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rescale(phi=1.1), "phi must be from 0 to 1, got 1.1"),
        (lambda: Threshold(quantile=0.0), "quantile must be above 0"),
        (lambda: Threshold(bound=math.nan), "bound must be above 0, got nan"),
        (lambda: APG(momentum=1.0), "momentum must be between -1 and 1, got 1.0"),
        (lambda: APG(threshold=-1.0), "threshold must be 0 or more"),
        (lambda: APG(eta=math.inf), "eta must be a number, got inf"),
        (lambda: CFGZero(zero=-1), "zero must be 0 or more"),
        (lambda: CFGPlusPlus(1.5), "scale must be from 0 to 1, got 1.5"),
        (lambda: Channels(first=0), "first must be at least 1 channel, got 0"),
        (lambda: SkipLayers(blocks=()), "blocks must name some"),
        (lambda: SkipLayers(blocks=(-1,)), "blocks must name some"),
        (lambda: SkipLayers(strength=math.nan), "strength must be a number"),
        (lambda: SkipLayers(low=0.6, high=0.5), "must rise within 0 to 1"),
        (lambda: TwoScale(text=math.nan), "text must be a number"),
        (lambda: TwoScale(picture=math.inf), "picture must be a number"),
        (lambda: Distilled(math.nan), "scale must be a number"),
        (lambda: Autoguidance(math.nan), "scale must be a number"),
        (lambda: Classifier(len, math.nan), "scale must be a number"),
    ],
)
def test_options_that_cannot_work_are_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()
