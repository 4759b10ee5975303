"""The one body: a task becomes steps, the last step becomes pictures."""

import warnings
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import asdict, replace
from math import prod
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from safelight import __version__
from safelight.conditioners import text_readers
from safelight.config import kind_of
from safelight.diffusion.blend import Part
from safelight.diffusion.compatibility import require_compatible
from safelight.diffusion.guided import guided
from safelight.diffusion.noise import BrownianNoise, SeededNoise
from safelight.errors import BadInput, Note
from safelight.media.pictures import to_pictures
from safelight.model import CompleteModel, LatentDiffusion
from safelight.prompting.prompts import prompt_at, split_prompt
from safelight.settings import DEFAULTS, GUIDANCE, SAMPLER, SPACING, Settings
from safelight.task import Share, Start, Task
from safelight.types.diffusion import Denoise, Estimate, Guidance, Negative, NoiseLevel, Step
from safelight.types.networks import Condition, Conditioner, Prompt
from safelight.types.tensors import Latents


def generate(
    model: LatentDiffusion,
    task: Task,
    settings: Settings | None = None,
    watch: Callable[[Step], None] | None = None,
) -> list[Image.Image]:
    """The pictures of a task. ``watch`` is shown every step. Raises BadInput for what cannot be done."""
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
    """The same as a generator of steps, for previews, progress and cancelling; it returns the pictures.

    Picture i is seeded with ``seed + i``: it comes out the same alone or in any batch.
    """
    chosen = resolve(model, settings)
    assert chosen.steps is not None
    assert chosen.seed is not None
    assert chosen.count is not None
    whole = model.complete()
    sampler, spacing = SAMPLER.read(chosen.sampler), SPACING.read(chosen.spacing)
    guidance = GUIDANCE.read(chosen.guidance)
    require_compatible(sampler, whole.process.prediction, guidance)
    seeds = [chosen.seed + i for i in range(chosen.count)]
    noise = SeededNoise(seeds)
    start = _told_more(whole, task.start(whole, noise, chosen.count), chosen.emphasis)
    schedule = whole.process.schedule
    spacing = spacing.for_tokens(
        prod(side // whole.denoiser.size_multiple for side in start.latents.shape[2:])
    )
    times = spacing(chosen.steps, schedule, start.begin)
    waist = _Waist(whole, guidance, start, bool(chosen.one_batch), len(times) - 1)
    latents = start.latents.to(_device(whole))
    if start.begin == 1:
        latents = latents * _spread(schedule(times[0]))
    source = BrownianNoise(seeds) if sampler.info.brownian else noise
    for step in sampler(start.wrap(waist), latents, times, schedule, source):
        latents, waist.step = step.noisy, step.index + 1
        yield step
    return start.finish(_decoded(whole, latents))


def resolve(model: LatentDiffusion, settings: Settings | None = None) -> Settings:
    """Settings in which nothing is left open: the request's, else the card's, else the defaults."""
    return (settings or Settings()).over(model.card.settings.over(DEFAULTS))


def recipe(
    model: LatentDiffusion, task: Task, settings: Settings, index: int = 0
) -> dict[str, Any]:
    """How picture ``index`` of a request was made, as JSON: enough to make it again alone."""
    chosen = resolve(model, settings)
    assert chosen.seed is not None
    return {
        "safelight": __version__,
        "model": _named(model),
        **(
            {"beside": {name: _named(other) for name, other in model.companions.items()}}
            if model.companions
            else {}
        ),
        "task": {"kind": kind_of(task), **asdict(task)},  # type: ignore[call-overload]
        "settings": {
            **asdict(chosen),
            "sampler": SAMPLER.write(SAMPLER.read(chosen.sampler)),
            "spacing": SPACING.write(SPACING.read(chosen.spacing)),
            "guidance": GUIDANCE.write(GUIDANCE.read(chosen.guidance)),
            "seed": chosen.seed + index,
            "count": 1,
        },
    }


def _named(model: LatentDiffusion) -> dict[str, Any]:
    card = model.card
    adapters = {"adapters": dict(card.adapters)} if card.adapters else {}
    named = ("fingerprint", "files", "hints")  # of what other programs wrote
    foreign = {} if card.hash else {one: card.origin[one] for one in named if one in card.origin}
    return {"name": card.name, "hash": card.hash, **foreign, "licence": card.licence, **adapters}


def _told_more(whole: CompleteModel, start: Start, emphasis: str | None) -> Start:
    """The start with what every prompt is told beside its text: how large the picture is, what brackets do.

    BadInput if brackets shall mean something and the model's conditioner does not read them.
    """
    more: dict[str, Any] = {}
    if start.latents.ndim == 4:
        more["picture_size"] = tuple(
            side * whole.autoencoder.factor for side in start.latents.shape[-2:]
        )
    if emphasis not in (None, "none"):
        if not any(one.reads_weights for one in text_readers(whole.conditioner)):
            raise BadInput(
                f"emphasis: the model {whole.card.name!r} reads brackets as letters; leave emphasis out."
            )
        more["emphasis"] = emphasis
    told = _reworded(start, lambda prompt: replace(prompt, given={**more, **prompt.given}))
    against = [
        replace(prompt, given={"negative": True, **prompt.given}) for prompt in told.negatives
    ]
    return replace(_composed(told), negatives=against)


def _composed(start: Start) -> Start:
    """The start with a share for each of the prompts that its texts compose. All pictures have the same texts."""
    if start.shares or len({prompt.text for prompt in start.prompts}) != 1:
        return start
    parts = [split_prompt(prompt) for prompt in start.prompts]
    if len(parts[0]) == 1:
        return start
    shares = [
        Share([prompt for prompt, _ in each], each[0][1]) for each in zip(*parts, strict=True)
    ]
    return replace(start, prompts=shares[0].prompts, shares=shares)


def _reworded(start: Start, change: Callable[[Prompt], Prompt]) -> Start:
    """The start with every prompt in it changed."""
    shares = [
        replace(share, prompts=[change(one) for one in share.prompts]) for share in start.shares
    ]
    prompts, negatives = (
        [change(one) for one in each] for each in (start.prompts, start.negatives)
    )
    return replace(start, prompts=prompts, negatives=negatives, shares=shares)


class _Waist:
    """The waist of a whole run. Where prompts change with the ``step``, each wording has its own, made when its step
    comes, and guidance begins anew in each."""

    def __init__(
        self, whole: CompleteModel, guidance: Guidance, start: Start, one_batch: bool, steps: int
    ) -> None:
        self.whole, self.guidance, self.start, self.one_batch = whole, guidance, start, one_batch
        self.step, self.steps = 0, steps
        self.made: dict[tuple[str, ...], Denoise] = {}
        self.current()

    def __call__(self, noisy: Latents, level: NoiseLevel) -> Estimate:
        return self.current()(noisy, level)

    def current(self) -> Denoise:
        """The waist of the step that is at hand."""
        step = min(self.step, self.steps - 1)
        start = _reworded(self.start, lambda prompt: prompt_at(prompt, step, self.steps))
        prompts = [start.prompts, start.negatives, *(share.prompts for share in start.shares)]
        wording = tuple(prompt.text for each in prompts for prompt in each)
        if wording not in self.made:
            self.made[wording] = _waist(self.whole, self.guidance, start, self.one_batch)
        return self.made[wording]


def _waist(whole: CompleteModel, guidance: Guidance, start: Start, one_batch: bool) -> Denoise:
    """The guided waist of a request."""
    told = _Told(whole)
    prompts = [start.prompts, start.negatives, *(share.prompts for share in start.shares)]
    _say_unread(whole.conditioner, [one for each in prompts for one in each])

    def heard(prompts: Sequence[Prompt]) -> Condition:
        return told.say(lambda conditioner: conditioner(prompts))

    parts = [Part(heard(share.prompts), share.weight, share.where) for share in start.shares]
    condition = parts[0].condition if parts else heard(start.prompts)
    networks = {
        "main": whole.denoiser,
        **{name: other.denoiser for name, other in whole.companions.items()},
    }
    negative = _negative(told, start.prompts, start.negatives)
    return guided(whole.process, networks, guidance, condition, negative, told, one_batch, parts)


def _say_unread(conditioner: Conditioner, prompts: Sequence[Prompt]) -> None:
    """Say aloud which words are lost, where a prompt is longer than what is read of it."""
    readers = text_readers(conditioner)
    for prompt in {prompt.text: prompt for prompt in prompts}.values():
        for sentence in (sentence for reader in readers for sentence in reader.truncated(prompt)):
            warnings.warn(sentence, Note, stacklevel=2)


class _Told:
    """What was said, as each network is told it: made by its own conditioner and prepared by itself, once."""

    def __init__(self, whole: CompleteModel) -> None:
        self.whole = whole
        self.said: dict[Condition, Callable[[Conditioner], Condition]] = {}
        self.made: dict[tuple[str, Condition], Condition] = {}

    def say(self, make: Callable[[Conditioner], Condition]) -> Condition:
        """The condition that ``make`` makes of a conditioner, for the main network."""
        condition = self.whole.denoiser.prepare(make(self.whole.conditioner))
        self.said[condition] = make
        return condition

    def __call__(self, network: str, condition: Condition) -> Condition:
        if network == "main":
            return condition
        key = (network, condition)
        if key not in self.made:
            model = self.whole.companions[network]
            self.made[key] = model.denoiser.prepare(self.said[condition](model.conditioner))
        return self.made[key]


def _negative(told: _Told, prompts: Sequence[Prompt], negatives: Sequence[Prompt]) -> Negative:
    """What guidance points away from, made and prepared once for each set of names that it asks for."""
    made: dict[frozenset[str] | None, Condition] = {}

    def negative(only: Collection[str] | None) -> Condition:
        key = None if only is None else frozenset(only)
        if key not in made:
            said = any(prompt.text for prompt in negatives) and only is None
            made[key] = told.say(
                lambda one: one(negatives) if said else one.null_condition(prompts, only)
            )
        return made[key]

    return negative


def _decoded(model: CompleteModel, latents: Latents) -> list[Image.Image]:
    """Pictures one by one: memory stays flat, and a picture's bits do not depend on its batch."""
    return [to_pictures(model.autoencoder.decode(one[None]))[0] for one in latents]


def _spread(level: NoiseLevel) -> Tensor:
    """The deviation of latents at ``level``: clean ones have unit variance, and a spacing may begin below t = 1."""
    return (level.alpha**2 + level.sigma**2).sqrt()


def _device(model: CompleteModel) -> torch.device:
    parts = (model.denoiser, model.autoencoder)  # a denoiser under control is no module itself
    return next(
        (next(one.parameters()).device for one in parts if isinstance(one, nn.Module)),
        torch.device("cpu"),
    )
