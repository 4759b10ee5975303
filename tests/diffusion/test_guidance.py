"""Guidance: what it asks, what it makes of the answers, and what passes through the networks."""

import math

import pytest
import torch

from safelight.diffusion.blend import WeightedCondition
from safelight.diffusion.guidance.apg import APG
from safelight.diffusion.guidance.autoguidance import Autoguidance
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.guidance.interval import Interval
from safelight.diffusion.guidance.none import Unguided
from safelight.diffusion.guidance.perturbed_attention import PerturbedAttention
from safelight.diffusion.guidance.skip_layers import SkipLayers
from safelight.diffusion.guidance.two_scale import TwoScale
from safelight.diffusion.guided import guided
from safelight.diffusion.prediction import Clean, Flow
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import Linear, ScaledLinear
from safelight.errors import BadInput
from safelight.types.diffusion import Estimate, Guidance, ModelCall, NetworkVariant
from safelight.types.networks import Condition, Denoiser

PROCESS = Process(Linear(), Flow())
NOISY = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
YES = Condition(vector=torch.tensor([[1.0], [2.0]], dtype=torch.float64))
NO = Condition(vector=torch.tensor([[-0.5], [0.25]], dtype=torch.float64))


class Recorder:
    """A network that is nonlinear in all it hears, and keeps the batch sizes."""

    def __init__(self):
        self.batches = []

    def __call__(self, noisy, time, condition):
        self.batches.append(len(noisy))
        return torch.tanh(noisy * condition.vector[:, :, None]) + time[:, None, None] / 1000


def negative(only):
    assert only is None
    return NO


def at(t, schedule=PROCESS.schedule):
    return schedule(torch.tensor(t, dtype=torch.float64))


def run(guidance, level=None, process=PROCESS):
    network = Recorder()
    estimate = guided(process, {"main": network}, guidance, YES, negative)(NOISY, level or at(0.5))
    return estimate.clean, network.batches


def alone(condition, level=None, process=PROCESS):
    return process.denoise(Recorder(), NOISY, level or at(0.5), condition).clean


def test_unguided_is_the_network():
    clean, batches = run(Unguided())
    assert torch.equal(clean, alone(YES))
    assert batches == [2]
    assert Unguided.kind == "none"


def test_scale_one_is_no_guidance_and_one_pass():
    clean, batches = run(ClassifierFree(1.0))
    assert torch.equal(clean, alone(YES))
    assert batches == [2]


@pytest.mark.parametrize("scale", [-1.0, 0.0, 4.0])
def test_one_batch_of_two_equals_two_passes(scale):
    clean, batches = run(ClassifierFree(scale))
    torch.testing.assert_close(
        clean, (1 - scale) * alone(NO) + scale * alone(YES), rtol=1e-13, atol=1e-13
    )
    assert batches == [4]


@pytest.mark.parametrize(
    "rule", [ClassifierFree(4.0), Interval(ClassifierFree(3.0)), APG(5.0), TwoScale()]
)
def test_two_passes_in_less_memory_give_the_same(rule):
    answers, batches = [], []
    for one_batch in (True, False):
        network = Recorder()
        waist = guided(PROCESS, {"main": network}, rule, YES, lambda only: NO, one_batch=one_batch)
        answers.append(waist(NOISY, at(0.5)).clean)
        batches.append(network.batches)
    assert torch.equal(*answers)
    assert batches == [[sum(batches[1])], [2] * len(batches[1])]
    assert len(batches[1]) > 1


def test_each_sample_keeps_a_level_of_its_own():
    level = at([[[0.2]], [[0.7]]])
    clean, _ = run(ClassifierFree(3.0), level)
    torch.testing.assert_close(
        clean, 3 * alone(YES, level) - 2 * alone(NO, level), rtol=1e-13, atol=1e-13
    )


def test_guidance_is_the_same_in_the_space_of_the_answers():
    level = at(0.3)
    answer = 4 * Recorder()(NOISY, level.time.expand(2), YES) - 3 * Recorder()(
        NOISY, level.time.expand(2), NO
    )
    torch.testing.assert_close(
        run(ClassifierFree(4.0), level)[0], Flow().to_estimate(answer, NOISY, level).clean
    )


@pytest.mark.parametrize(
    ("t", "inside"), [(0.1, False), (0.2, True), (0.5, True), (0.8, True), (0.81, False)]
)
def test_interval_guides_within(t, inside):
    clean, batches = run(Interval(ClassifierFree(4.0), low=0.2, high=0.8), at(t))
    wanted = run(ClassifierFree(4.0) if inside else Unguided(), at(t))
    assert torch.equal(clean, wanted[0])
    assert batches == wanted[1] == [4 if inside else 2]


def test_interval_means_the_same_noise_on_every_schedule():
    schedule = ScaledLinear()
    for t, guide in [(0.31, True), (0.29, False)]:
        level = at(
            float(schedule.when(torch.tensor(math.log((1 - t) / t), dtype=torch.float64))), schedule
        )
        assert run(Interval(low=0.3, high=0.9), level, Process(schedule, Clean()))[1] == [
            4 if guide else 2
        ]


class Both(Guidance):
    """A rule over two networks that keeps what it was answered."""

    def calls(self, condition, negative, level):
        weak = ModelCall(condition, NetworkVariant("weak"))
        return ModelCall(condition), weak, ModelCall(negative(None))

    def combine(self, answers, noisy, level):
        return Estimate(torch.stack([answer.clean for answer in answers]))


def test_networks_pass_once_each_and_answers_keep_their_order():
    main, weak = Recorder(), Recorder()
    networks = {"main": main, "weak": lambda noisy, time, condition: -weak(noisy, time, condition)}
    estimate = guided(PROCESS, networks, Both(), YES, negative)(NOISY, at(0.5))
    denied = PROCESS.denoise(networks["weak"], NOISY, at(0.5), YES).clean
    assert main.batches == [4]
    assert torch.equal(estimate.clean, torch.stack([alone(YES), denied, alone(NO)]))


def test_another_network_is_told_in_its_own_words():
    heard = {name: Recorder() for name in ("main", "weak")}

    def told(name, condition):
        assert condition is YES or name == "main"
        return Condition(vector=-2 * YES.vector) if name == "weak" else condition

    found = guided(PROCESS, heard, Both(), YES, negative, told)(NOISY, at(0.5)).clean
    assert torch.equal(found[1], alone(Condition(vector=-2 * YES.vector)))
    assert torch.equal(found[0], alone(YES))


def test_weighted_conditions_are_blended_before_they_are_guided():
    """Composed diffusion: nothing + Σ scale · weight · (one - nothing), weights that sum to one."""
    other = Condition(vector=torch.tensor([[0.3], [-1.0]], dtype=torch.float64))
    parts = [WeightedCondition(YES, 3.0), WeightedCondition(other, 1.0)]
    network = Recorder()
    found = guided(PROCESS, {"main": network}, ClassifierFree(4.0), YES, negative, weighted=parts)(
        NOISY, at(0.5)
    ).clean
    no = alone(NO)
    torch.testing.assert_close(found, no + 3.0 * (alone(YES) - no) + 1.0 * (alone(other) - no))
    assert network.batches == [6]


def test_each_region_follows_its_own_condition():
    left = torch.tensor([1.0, 1, 0, 0])
    parts = [WeightedCondition(YES, region=left), WeightedCondition(NO, 5.0, region=1 - left)]
    found = guided(PROCESS, {"main": Recorder()}, Unguided(), YES, negative, weighted=parts)(
        NOISY, at(0.5)
    ).clean
    assert torch.equal(found[..., :2], alone(YES)[..., :2])
    assert torch.equal(found[..., 2:], alone(NO)[..., 2:])
    soft = [
        WeightedCondition(YES, region=torch.tensor(0.25)),
        WeightedCondition(NO, region=torch.tensor(0.75)),
    ]
    found = guided(PROCESS, {"main": Recorder()}, Unguided(), YES, negative, weighted=soft)(
        NOISY, at(0.5)
    ).clean
    torch.testing.assert_close(found, 0.25 * alone(YES) + 0.75 * alone(NO))


def test_what_an_answer_carries_is_blended_with_it():
    process = Process(Linear(), Learned())
    parts = [WeightedCondition(YES), WeightedCondition(NO)]
    found = guided(process, {"main": Recorder()}, Unguided(), YES, negative, weighted=parts)(
        NOISY, at(0.5)
    )
    torch.testing.assert_close(found.noise, found.clean + 1)
    torch.testing.assert_close(found.variance, found.clean + 2)


class Parted(Recorder, Denoiser):
    """A network that can leave blocks out: then it answers with their numbers."""

    size_multiple = 1

    def variant(self, skip_blocks, self_only_blocks):
        answer = sum(skip_blocks) + 10 * sum(self_only_blocks)
        return lambda noisy, time, condition: torch.full_like(noisy, answer)


@pytest.mark.parametrize(("rule", "answered"), [(SkipLayers, 3), (PerturbedAttention, 30)])
def test_a_part_of_a_network_answers_for_itself(rule, answered):
    network = Parted()
    waist = guided(PROCESS, {"main": network}, rule(blocks=(1, 2), strength=0.5), YES, negative)
    part = PROCESS.prediction.to_estimate(torch.full_like(NOISY, answered), NOISY, at(0.5)).clean
    wanted = run(ClassifierFree(4.0))[0] + 0.5 * (alone(YES) - part)
    torch.testing.assert_close(waist(NOISY, at(0.5)).clean, wanted)
    assert network.batches == [4]


class Learned:
    """A prediction whose answers carry noise and variance."""

    needs_signal = False
    learns_variance = True

    def scale_input(self, noisy, level):
        return noisy

    def target(self, clean, noise, level):
        return clean

    def to_estimate(self, answer, noisy, level):
        return Estimate(answer, noise=answer + 1, variance=answer + 2)


def test_what_an_answer_carries_is_split_with_it():
    process = Process(Linear(), Learned())
    estimate = guided(process, {"main": Recorder()}, ClassifierFree(2.0), YES, negative)(
        NOISY, at(0.5)
    )
    assert estimate.noise is None
    torch.testing.assert_close(estimate.variance, alone(YES, process=process) + 2)
    plain = guided(process, {"main": Recorder()}, Unguided(), YES, negative)(NOISY, at(0.5))
    assert torch.equal(plain.noise, plain.clean + 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassifierFree(math.nan), "scale must be a number, got nan"),
        (lambda: Interval(ClassifierFree(math.inf)), "scale must be a number, got inf"),
        (lambda: Interval(low=0.8, high=0.8), r"must rise within 0 to 1, got \(0.8, 0.8\)"),
        (lambda: Interval(low=-0.1), "must rise within 0 to 1"),
        (lambda: Interval(high=1.1), "must rise within 0 to 1"),
        (
            lambda: guided(PROCESS, {"main": Recorder()}, Both(), YES, negative)(NOISY, at(0.5)),
            "network 'weak'",
        ),
        (
            lambda: guided(PROCESS, {"main": Recorder()}, Autoguidance(), YES, negative),
            "network 'weak', .* has main",
        ),
        (
            lambda: guided(PROCESS, {"main": Recorder()}, Interval(SkipLayers()), YES, negative),
            "Recorder cannot leave out blocks",
        ),
        (
            lambda: guided(PROCESS, {"main": Recorder()}, PerturbedAttention(), YES, negative),
            "Recorder cannot leave out blocks",
        ),
        (lambda: WeightedCondition(YES, math.nan), "a weight must be a number, got nan"),
        (
            lambda: guided(
                PROCESS,
                {},
                Unguided(),
                YES,
                negative,
                weighted=[WeightedCondition(YES), WeightedCondition(NO, -1.0)],
            ),
            "weights must sum to more than 0 at every place, got 0.0",
        ),
        (
            lambda: guided(
                PROCESS,
                {},
                Unguided(),
                YES,
                negative,
                weighted=[WeightedCondition(YES, region=torch.eye(2))],
            ),
            "weights must sum to more than 0 at every place",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BadInput, match=message):
        make()
