"""A task and settings become pictures: the same for the same seed, as the recipe says, or a refusal
that helps."""

import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from making import tiny_model
from safelight import Settings, TextToImage
from safelight.card import Card
from safelight.config import Slot
from safelight.diffusion.guidance.classifier import Classifier
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.noise import SeededNoise
from safelight.diffusion.prediction import Noise
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import Linear, ScaledLinear
from safelight.errors import BadInput, Note
from safelight.model import LatentDiffusion
from safelight.pipeline import generate, recipe, resolve, steps
from safelight.settings import SPACING
from safelight.task import WeightedPrompts
from safelight.types.networks import Denoiser, Prompt

SQUARE = TextToImage("a red square")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def pixels(pictures):
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def assert_same(some, others, within=0):
    assert np.abs(pixels(some) - pixels(others)).max() <= within


def assert_differ(some, others):
    assert np.abs(pixels(some) - pixels(others)).max() > 8


class Counting(nn.Module, Denoiser):
    """A denoiser that counts its passes and the samples in them, and keeps what it saw first."""

    def __init__(self, denoiser):
        super().__init__()
        self.inner, self.batches, self.first, self.size_multiple = (
            denoiser,
            [],
            None,
            denoiser.size_multiple,
        )

    def prepare(self, condition):
        return self.inner.prepare(condition)

    def forward(self, noisy, time, condition):
        self.batches.append(len(noisy))
        self.first = noisy.clone() if self.first is None else self.first
        return self.inner(noisy, time, condition)


def passes(model, settings, task=SQUARE):
    counting = Counting(model.denoiser)
    generate(replace(model, denoiser=counting), task, settings)
    return counting.batches


def test_the_same_seed_is_the_same_picture_alone_and_among_others(model):
    three = generate(model, SQUARE, Settings(seed=7, count=3))
    assert_same(three, generate(model, SQUARE, Settings(seed=7, count=3)))
    assert_differ(three[:1], three[1:2])
    for i, picture in enumerate(three):
        alone = generate(model, SQUARE, Settings(seed=7 + i))
        assert len(alone) == 1
        assert_same([picture], alone, within=1)


def test_a_sampler_that_draws_noise_is_seeded_as_well(model):
    settings = Settings(seed=7, count=2, sampler="euler:eta=1")
    both = generate(model, SQUARE, settings)
    assert_same(both[1:], generate(model, SQUARE, replace(settings, seed=8, count=1)), within=1)
    assert_differ(both, generate(model, SQUARE, Settings(seed=7, count=2, sampler="euler")))


def test_steps_yields_every_step_and_returns_the_pictures(model):
    run, seen = steps(model, SQUARE, Settings(steps=4, seed=1)), []
    try:
        while True:
            seen.append(next(run))
    except StopIteration as end:
        drained = end.value
    assert [(step.index, step.total) for step in seen] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert seen[0].noisy.shape == (1, 4, 16, 16)
    assert float(seen[-1].level.sigma) == 0
    watched = []
    assert_same(drained, generate(model, SQUARE, Settings(steps=4, seed=1), watched.append))
    assert [step.index for step in watched] == [0, 1, 2, 3]
    assert drained[0].size == (32, 32)


def test_a_run_can_be_left_early(model):
    run = steps(model, SQUARE)
    next(run)
    run.close()
    assert not torch.is_inference_mode_enabled()


def test_the_request_goes_before_the_card_and_the_card_before_the_defaults():
    model = LatentDiffusion(card=Card(settings=Settings(steps=3, guidance=2.0, seed=5)))
    chosen = resolve(model, Settings(steps=9))
    assert (chosen.steps, chosen.guidance, chosen.seed) == (9, 2.0, 5)
    assert (chosen.sampler, chosen.spacing, chosen.count) == ("dpmpp2m", "uniform", 1)
    assert resolve(model).steps == 3
    assert (
        len(
            passes(
                replace(tiny_model(), card=replace(model.card, size=(32, 32))),
                Settings(guidance="none"),
            )
        )
        == 3
    )


@pytest.mark.parametrize("guidance", [1, 1.0, "1", "none", {"kind": "none"}])
def test_no_guidance_is_one_pass_a_step(model, guidance):
    assert passes(model, Settings(steps=2, guidance=guidance)) == [1, 1]


def test_guidance_and_the_negative_prompt_count(model):
    assert passes(model, Settings(steps=2, guidance=3.0, count=2)) == [4, 4]
    plain = generate(model, SQUARE, Settings(guidance=6.0))
    against = replace(SQUARE, negative="a blue circle")
    assert_differ(plain, generate(model, against, Settings(guidance=6.0)))
    assert_differ(plain, generate(model, SQUARE, Settings(guidance=1.0)))
    assert_same(
        generate(model, against, Settings(guidance=1)),
        generate(model, SQUARE, Settings(guidance=1)),
    )


def test_two_passes_in_less_memory_make_the_same_picture(model):
    split = Settings(steps=2, guidance="apg:scale=3", one_batch=False, seed=2)
    assert passes(model, split) == [1, 1, 1, 1]
    assert_same(
        generate(model, SQUARE, split),
        generate(model, SQUARE, replace(split, one_batch=True)),
        within=1,
    )


def test_a_weaker_model_hears_the_prompt_with_its_own_ears(model):
    """Beside a copy of itself autoguidance changes nothing; beside another model, whose words are
    others, it does."""
    asked = Settings(guidance="autoguidance:scale=3", seed=3)
    with pytest.raises(
        BadInput, match="needs a network 'weak', the model has main: load a weak model as well"
    ):
        generate(model, SQUARE, asked)
    plain = generate(model, SQUARE, replace(asked, guidance=1))
    assert_same(
        generate(replace(model, companions={"weak": model}), SQUARE, asked), plain, within=1
    )
    weak = tiny_model()
    with torch.no_grad():
        weak.conditioner.embedding.weight.mul_(-1)
    beside = replace(model, companions={"weak": weak})
    assert_differ(generate(beside, SQUARE, asked), plain)
    assert recipe(beside, SQUARE, asked)["companions"] == {
        "weak": {"name": "tiny", "hash": "", "licence": "CC0"}
    }
    noise = replace(weak, process=Process(ScaledLinear(), Noise()))
    with pytest.raises(BadInput, match="the weak model must have the process of 'tiny'"):
        generate(replace(model, companions={"weak": noise}), SQUARE, asked)


def test_blocks_that_the_network_lacks_are_refused_before_the_first_step(model):
    with pytest.raises(BadInput, match="this transformer has the blocks 0 to 0, not 1"):
        next(
            steps(
                model,
                SQUARE,
                Settings(guidance="interval:of=skip-layers,blocks=[1],low=0.1,high=0.2"),
            )
        )
    with pytest.raises(BadInput, match="Counting cannot leave out blocks"):
        passes(model, Settings(guidance="perturbed-attention:blocks=[0]"))
    one = Settings(guidance="perturbed-attention:blocks=[0],strength=5,of=none")
    assert_differ(generate(model, SQUARE, one), generate(model, SQUARE, Settings(guidance=1)))


def test_a_classifier_given_in_python_leads_the_picture(model):
    def bright(noisy, level):
        return 40 * noisy[:, 0].mean(dim=(1, 2))

    def first(guidance):
        *_, last = steps(model, SQUARE, Settings(steps=3, guidance=guidance, seed=1))
        return last.noisy[:, 0].mean()

    led = Classifier(bright, scale=2.0, of=ClassifierFree(3.0))
    assert first(led) > first(3.0) + 0.1
    how = recipe(model, SQUARE, Settings(guidance=led))["settings"]["guidance"]
    assert how["log_probability"] == "function bright"
    assert how["of"] == {"kind": "classifier-free", "scale": 3.0}


@dataclass(frozen=True)
class Sides:
    """A task of two prompts, each on its own side."""

    left: str
    right: str

    def start(self, model, noise, count):
        start = SQUARE.start(model, noise, count)
        where = torch.zeros(start.latents.shape[-1])
        where[: len(where) // 2] = 1
        prompts = [[Prompt(text)] * count for text in (self.left, self.right)]
        return replace(
            start,
            weighted_prompts=[
                WeightedPrompts(prompts[0], region=where),
                WeightedPrompts(prompts[1], region=1 - where),
            ],
        )


def test_shares_of_a_task_are_heard_where_they_hold(model):
    def made(task):
        *_, last = steps(model, task, Settings(steps=1, guidance=5.0, count=2, sampler="euler"))
        return last.noisy

    red, blue = made(TextToImage("a red square")), made(TextToImage("a blue circle"))
    both = made(Sides("a red square", "a blue circle"))
    torch.testing.assert_close(both[..., :8], red[..., :8], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[..., 8:], blue[..., 8:], rtol=1e-4, atol=1e-4)
    assert (red - blue).abs().max() > 0.1


def test_the_prompt_counts_and_may_be_empty(model):
    square, nothing = (
        generate(model, TextToImage(text), Settings(guidance=8.0)) for text in ("a red square", "")
    )
    assert_differ(square, nothing)
    assert_same(nothing, generate(model, TextToImage(), Settings(guidance=8.0)))
    assert_same(nothing, generate(model, TextToImage(), Settings(guidance=1.0)), within=1)


def test_a_prompt_of_a_megabyte_is_cut_in_no_time(model):
    began = time.perf_counter()
    with pytest.warns(
        Note,
        match=r"this model reads 14 tokens of a prompt; cut off is: 'square a red .*"
        r" … \(1039\d+ characters\)",
    ):
        long = generate(model, TextToImage("a red square " * 80_000), Settings(steps=1))
    assert time.perf_counter() - began < 5
    with pytest.warns(Note, match=r"\(476 characters\)"):
        shorter = generate(model, TextToImage("a red square " * 40), Settings(steps=1))
    assert_same(long, shorter)


def test_a_recipe_makes_its_picture_again(model):
    task = TextToImage("a blue circle", negative="red", width=40, height=24)
    settings = Settings(
        steps=3, sampler="euler:eta=0.5", spacing="shifted:shift=2", guidance=2.5, seed=4, count=2
    )
    pictures = generate(model, task, settings)
    for index, picture in enumerate(pictures):
        how = recipe(model, task, settings, index)
        said = {name: value for name, value in how["task"].items() if name != "kind"}
        assert TextToImage(**said) == Slot("tasks").read(how["task"]) == task
        again = Settings(**how["settings"])
        assert (again.seed, again.count) == (4 + index, 1)
        assert_same(generate(model, TextToImage(**said), again), [picture], within=1)
    alone = recipe(model, task, replace(settings, count=1))
    assert_same(
        generate(model, task, Settings(**alone["settings"])),
        generate(model, task, replace(settings, count=1)),
    )
    assert alone["model"] == {"name": "tiny", "hash": "", "licence": "CC0"}
    assert picture.size == (40, 24)


@pytest.mark.parametrize(
    ("schedule", "prediction", "spacing", "least"),
    [
        (Linear(), None, "uniform", 1.0),
        (Linear(), None, "leading:table=10", 0.5),
        (Linear(), None, {"kind": "karras", "sigma_max": 1.0}, 0.5),
        (ScaledLinear(), Noise(), "leading", 0.5),
    ],
)
def test_noise_is_scaled_to_where_the_steps_begin(model, schedule, prediction, spacing, least):
    process = Process(schedule, prediction or model.process.prediction)
    counting = Counting(model.denoiser)
    asked = Settings(steps=2, spacing=spacing, guidance=1, seed=3)
    generate(replace(model, process=process, denoiser=counting), SQUARE, asked)
    times = SPACING.read(spacing)(2, schedule)
    level = schedule(times[0])
    deviation = float((level.alpha**2 + level.sigma**2).sqrt())
    pure = SeededNoise([3])((1, 4, 16, 16))
    assert least <= float(times[0]) <= 1
    torch.testing.assert_close(counting.first, pure * deviation, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("width", "height"), [(33, 32), (32, 31), (1, 1)])
def test_a_size_that_cannot_be_made_is_refused_with_the_nearest(model, width, height):
    with pytest.raises(
        BadInput, match=rf"multiples of 8, got {width}×{height}; the nearest is \d+×\d+"
    ):
        generate(model, TextToImage("x", width=width, height=height))


def test_a_size_that_the_denoiser_cannot_cut_is_refused(model):
    with pytest.raises(BadInput, match="multiples of 8, got 36×32; the nearest is 32×32"):
        generate(model, TextToImage("x", width=36, height=32))


@pytest.mark.parametrize("part", ["autoencoder", "conditioner", "denoiser", "process"])
def test_a_part_that_is_missing_is_named(model, part):
    with pytest.raises(
        BadInput, match=f"the model 'tiny' has no {part}; name a file that holds it as well"
    ):
        generate(replace(model, **{part: None}), SQUARE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Settings(steps=0), "steps: wanted a whole number from 1 to 10,000, got 0"),
        (lambda: Settings(steps=10**9), "got 1,000,000,000"),
        (lambda: Settings(count=0), "count"),
        (lambda: Settings(seed=-1), "seed"),
        (lambda: TextToImage("x", width=99999999), "width: wanted 1 to 8192 pixels"),
        (lambda: TextToImage("x", height=0), "height"),
    ],
)
def test_what_no_model_could_do_is_refused_at_once(make, message):
    with pytest.raises(BadInput, match=message):
        make()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(sampler="eular"), "did you mean 'euler'"),
        (Settings(spacing="kharras"), "did you mean 'karras'"),
        (Settings(guidance="clasifier-free"), "did you mean 'classifier-free'"),
        (Settings(sampler="euler:eat=1"), "did you mean 'eta'"),
        (Settings(guidance="nan"), "scale"),
    ],
)
def test_names_that_are_not_known_are_refused_with_the_nearest(model, settings, message):
    with pytest.raises(BadInput, match=message):
        generate(model, SQUARE, settings)
