"""The pipeline: a task is sampled step by step, and its last step is decoded to pictures."""

import warnings
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import asdict, replace
from math import prod
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from safelight import __version__
from safelight.conditioners import text_readers
from safelight.config import kind_of
from safelight.diffusion.blend import WeightedCondition
from safelight.diffusion.compatibility import require_compatible
from safelight.diffusion.guided import guided
from safelight.diffusion.noise import BrownianNoise, SeededNoise
from safelight.errors import BadInput, Note
from safelight.media.output import Output
from safelight.model import CompleteModel, LatentDiffusion
from safelight.prompting.prompts import prompt_at, split_prompt
from safelight.settings import DEFAULTS, GUIDANCE, SAMPLER, SPACING, Settings
from safelight.task import Start, Task, WeightedPrompts
from safelight.types.diffusion import Denoise, Estimate, Guidance, Negative, NoiseLevel, Step
from safelight.types.networks import Condition, Conditioner, Prompt
from safelight.types.tensors import Latents


def generate(
    model: LatentDiffusion,
    task: Task,
    settings: Settings | None = None,
    watch: Callable[[Step], None] | None = None,
) -> list[Image.Image]:
    """The pictures of a task. ``watch`` is called with every step.

    Raises BadInput for what cannot be done.
    """
    run = steps(model, task, settings)
    while True:
        try:
            step = next(run)
        except StopIteration as end:
            pictures: list[Image.Image] = end.value
            return pictures
        if watch:
            watch(step)


@torch.inference_mode()
def steps(
    model: LatentDiffusion, task: Task, settings: Settings | None = None
) -> Generator[Step, None, list[Image.Image]]:
    """A generator of the steps of a task, for previews, progress and cancelling.

    It returns the pictures. Picture i is seeded with ``seed + i``, so that it comes out the same
    alone or in any batch.
    """
    resolved = resolve(model, settings)
    assert resolved.steps is not None
    assert resolved.seed is not None
    assert resolved.count is not None
    parts = model.complete()
    schedule = parts.process.schedule
    sampler, guidance = SAMPLER.read(resolved.sampler), GUIDANCE.read(resolved.guidance)
    require_compatible(sampler, parts.process.prediction, guidance)

    seeds = [resolved.seed + i for i in range(resolved.count)]
    noise = SeededNoise(seeds)
    start = task.start(parts, noise, resolved.count)
    start = _with_details(start, parts, resolved.emphasis)
    start = _with_composed_prompts(start)

    tokens = prod(side // parts.denoiser.size_multiple for side in start.latents.shape[2:])
    spacing = SPACING.read(resolved.spacing).for_tokens(tokens)
    times = spacing(resolved.steps, schedule, start.begin)
    latents = start.latents.to(_device(parts))
    if start.begin == 1:
        latents = latents * _deviation(schedule(times[0]))

    denoiser = _ScheduledDenoiser(parts, guidance, start, bool(resolved.one_batch), len(times) - 1)
    source = BrownianNoise(seeds) if sampler.info.brownian else noise
    for step in sampler(start.wrap(denoiser), latents, times, schedule, source):
        latents, denoiser.step = step.noisy, step.index + 1
        yield step
    return start.finish([output.to_medium() for output in decode(parts, latents)])


def decode(model: CompleteModel, latents: Latents) -> Iterator[Output]:
    """The decoded samples, one by one.

    Memory stays the same for any number, and the bits of a sample do not depend on its batch.
    """
    for sample in latents:
        yield Output(model.autoencoder.decode(sample[None])[0])


def resolve(model: LatentDiffusion, settings: Settings | None = None) -> Settings:
    """Settings without open fields: those of the request, of the model's card, or the defaults."""
    return (settings or Settings()).over(model.card.settings.over(DEFAULTS))


def recipe(
    model: LatentDiffusion, task: Task, settings: Settings, index: int = 0
) -> dict[str, Any]:
    """How picture ``index`` of a request was made, as JSON: enough to make it again alone."""
    resolved = resolve(model, settings)
    assert resolved.seed is not None
    companions = {name: _reference(other) for name, other in model.companions.items()}
    return {
        "safelight": __version__,
        "model": _reference(model),
        **({"companions": companions} if companions else {}),
        "task": {"kind": kind_of(task), **asdict(task)},  # type: ignore[call-overload]
        "settings": {
            **asdict(resolved),
            "sampler": SAMPLER.write(SAMPLER.read(resolved.sampler)),
            "spacing": SPACING.write(SPACING.read(resolved.spacing)),
            "guidance": GUIDANCE.write(GUIDANCE.read(resolved.guidance)),
            "seed": resolved.seed + index,
            "count": 1,
        },
    }


def _reference(model: LatentDiffusion) -> dict[str, Any]:
    """What identifies a model in a recipe."""
    card = model.card
    adapters = {"adapters": dict(card.adapters)} if card.adapters else {}
    # A model from files of other programs has no hash of its own.
    keys = () if card.hash else ("fingerprint", "files", "hints")
    foreign = {key: card.origin[key] for key in keys if key in card.origin}
    return {"name": card.name, "hash": card.hash, **foreign, "licence": card.licence, **adapters}


def _with_details(start: Start, model: CompleteModel, emphasis: str | None) -> Start:
    """The start with what conditioners read of a prompt besides its text.

    That is the size of the picture, what brackets do, and whether the prompt is a negative one.
    BadInput if brackets shall mean something and the model's conditioner does not read them.
    """
    details: dict[str, Any] = {}
    if start.latents.ndim == 4:
        factor = model.autoencoder.factor
        details["picture_size"] = tuple(side * factor for side in start.latents.shape[-2:])
    if emphasis not in (None, "none"):
        if not any(reader.reads_weights for reader in text_readers(model.conditioner)):
            raise BadInput(
                f"emphasis: the model {model.card.name!r} reads brackets as letters; leave "
                "emphasis out."
            )
        details["emphasis"] = emphasis
    start = _with_prompts(start, lambda prompt: _with_given(prompt, details))
    negatives = [_with_given(prompt, {"negative": True}) for prompt in start.negatives]
    return replace(start, negatives=negatives)


def _with_given(prompt: Prompt, details: dict[str, Any]) -> Prompt:
    """The prompt with further details; its own are kept."""
    return replace(prompt, given={**details, **prompt.given})


def _with_composed_prompts(start: Start) -> Start:
    """The start with the prompts that ``AND`` separates, if there are several.

    All pictures must have the same text.
    """
    if start.weighted_prompts or len({prompt.text for prompt in start.prompts}) != 1:
        return start
    split = [split_prompt(prompt) for prompt in start.prompts]
    if len(split[0]) == 1:
        return start
    weighted = [
        WeightedPrompts([prompt for prompt, _ in column], column[0][1])
        for column in zip(*split, strict=True)
    ]
    return replace(start, prompts=weighted[0].prompts, weighted_prompts=weighted)


def _with_prompts(start: Start, change: Callable[[Prompt], Prompt]) -> Start:
    """The start with every prompt in it changed."""
    return replace(
        start,
        prompts=[change(prompt) for prompt in start.prompts],
        negatives=[change(prompt) for prompt in start.negatives],
        weighted_prompts=[
            replace(weighted, prompts=[change(prompt) for prompt in weighted.prompts])
            for weighted in start.weighted_prompts
        ],
    )


def _all_prompts(start: Start) -> list[Prompt]:
    """Every prompt of a start."""
    weighted = [prompt for each in start.weighted_prompts for prompt in each.prompts]
    return [*start.prompts, *start.negatives, *weighted]


class _ScheduledDenoiser:
    """The denoiser function of a run whose prompts may change with the ``step``.

    Each set of texts has a guided denoiser of its own, made when its first step comes.
    """

    def __init__(
        self, model: CompleteModel, guidance: Guidance, start: Start, one_batch: bool, steps: int
    ) -> None:
        self.model, self.guidance, self.start, self.one_batch = model, guidance, start, one_batch
        self.step, self.steps = 0, steps
        self._denoisers: dict[tuple[str, ...], Denoise] = {}
        self._current()  # what cannot be done is refused before the first step

    def __call__(self, noisy: Latents, level: NoiseLevel) -> Estimate:
        return self._current()(noisy, level)

    def _current(self) -> Denoise:
        step = min(self.step, self.steps - 1)
        start = _with_prompts(self.start, lambda prompt: prompt_at(prompt, step, self.steps))
        texts = tuple(prompt.text for prompt in _all_prompts(start))
        if texts not in self._denoisers:
            self._denoisers[texts] = _guided(self.model, self.guidance, start, self.one_batch)
        return self._denoisers[texts]


def _guided(model: CompleteModel, guidance: Guidance, start: Start, one_batch: bool) -> Denoise:
    """The guided denoiser function for the prompts of a start."""
    _warn_of_truncation(model.conditioner, _all_prompts(start))
    conditions = _Conditions(model)
    weighted = [
        WeightedCondition(conditions.of(part.prompts), part.weight, part.region)
        for part in start.weighted_prompts
    ]
    condition = weighted[0].condition if weighted else conditions.of(start.prompts)
    companions = {name: other.denoiser for name, other in model.companions.items()}
    return guided(
        model.process,
        {"main": model.denoiser, **companions},
        guidance,
        condition,
        conditions.negative(start.prompts, start.negatives),
        conditions.for_network,
        one_batch,
        weighted,
    )


class _Conditions:
    """The conditions of a run for the model and its companions.

    Each network has conditions by its own conditioner, prepared by itself, made once.
    """

    def __init__(self, model: CompleteModel) -> None:
        self.model = model
        self._makers: dict[Condition, Callable[[Conditioner], Condition]] = {}
        self._of_companions: dict[tuple[str, Condition], Condition] = {}

    def of(self, prompts: Sequence[Prompt]) -> Condition:
        """The main network's condition for prompts."""
        return self._make(lambda conditioner: conditioner(prompts))

    def negative(self, prompts: Sequence[Prompt], negatives: Sequence[Prompt]) -> Negative:
        """What guidance moves away from: the negative prompts if there are any, else nothing."""
        made: dict[frozenset[str] | None, Condition] = {}

        def negative(only: Collection[str] | None) -> Condition:
            key = None if only is None else frozenset(only)
            if key not in made:
                if only is None and any(prompt.text for prompt in negatives):
                    made[key] = self.of(negatives)
                else:
                    made[key] = self._make(
                        lambda conditioner: conditioner.null_condition(prompts, only)
                    )
            return made[key]

        return negative

    def for_network(self, network: str, condition: Condition) -> Condition:
        """What a condition of the main network is for the network of that name."""
        if network == "main":
            return condition
        key = (network, condition)
        if key not in self._of_companions:
            companion = self.model.companions[network]
            made = self._makers[condition](companion.conditioner)
            self._of_companions[key] = companion.denoiser.prepare(made)
        return self._of_companions[key]

    def _make(self, maker: Callable[[Conditioner], Condition]) -> Condition:
        condition = self.model.denoiser.prepare(maker(self.model.conditioner))
        self._makers[condition] = maker
        return condition


def _warn_of_truncation(conditioner: Conditioner, prompts: Sequence[Prompt]) -> None:
    """Warn of the ends of prompts that are cut off because a prompt is too long."""
    readers = text_readers(conditioner)
    for prompt in {prompt.text: prompt for prompt in prompts}.values():
        for reader in readers:
            for sentence in reader.truncated(prompt):
                warnings.warn(sentence, Note, stacklevel=2)


def _deviation(level: NoiseLevel) -> Tensor:
    """The standard deviation of noisy latents at ``level``, as clean ones have unit variance."""
    return (level.alpha**2 + level.sigma**2).sqrt()


def _device(model: CompleteModel) -> torch.device:
    parts = (model.denoiser, model.autoencoder)  # a denoiser under control is no module itself
    return next(
        (next(part.parameters()).device for part in parts if isinstance(part, nn.Module)),
        torch.device("cpu"),
    )
