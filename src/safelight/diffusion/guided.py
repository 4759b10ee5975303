"""The waist of one guided run: guidance asks, the networks answer, guidance combines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from safelight.diffusion.blend import Part, blend, require_say, spread
from safelight.diffusion.condition import stack
from safelight.diffusion.process import Process
from safelight.errors import BadInput
from safelight.types.diffusion import (
    Denoise,
    Estimate,
    Guidance,
    ModelCall,
    Negative,
    NetworkVariant,
    NoiseLevel,
)
from safelight.types.networks import Condition, Denoiser, Network
from safelight.types.tensors import Latents

Told = Callable[[str, Condition], Condition]
"""What a network, by its name, is told in place of a condition that was prepared for the main
one."""


def told_the_same(network: str, condition: Condition) -> Condition:
    """For networks that hear conditions as the main one does."""
    return condition


def guided(
    process: Process,
    networks: Mapping[str, Network],
    guidance: Guidance,
    condition: Condition,
    negative: Negative,
    told: Told = told_the_same,
    one_batch: bool = True,
    parts: Sequence[Part] = (),
) -> Denoise:
    """The waist of one run: every network passes once a level, over all that guidance asks of it in
    one batch.

    ``condition`` and what ``negative`` makes are as long as the latents, and prepared by the caller
    for the network ``main``; ``told`` gives them as the others hear them. Without ``one_batch``
    each question is a pass of its own: slower, in less memory, the same answers. If there are
    ``parts``, ``condition`` stands for all of them: guidance sees the blend of their answers.
    Raises BadInput if guidance asks for a network that is not here, or that cannot leave out what
    it wants left out, and for weights that leave a place without a say.
    """
    found: dict[NetworkVariant, Network] = {}

    def find(by: NetworkVariant) -> Network:
        if by not in found:
            found[by] = _found(networks, by)
        return found[by]

    rule = guidance.begin(find)
    require_say(parts)

    def denoise(noisy: Latents, level: NoiseLevel) -> Estimate:
        asked = rule.calls(condition, negative, level)
        passed = {q: spread(q, parts) if parts and q.condition is condition else [q] for q in asked}
        answers: dict[ModelCall, Estimate] = {}
        for batch in _batches([one for each in passed.values() for one in each], one_batch):
            by = batch[0].network
            conditions = [_heard(told(by.name, one.condition), one.scalars, noisy) for one in batch]
            answers |= zip(
                batch, _answers(process, find(by), conditions, noisy, level), strict=True
            )
        one = [
            blend([answers[q] for q in each], parts) if len(each) > 1 else answers[each[0]]
            for each in passed.values()
        ]
        return rule.combine(one, noisy, level)

    return denoise


def _found(networks: Mapping[str, Network], by: NetworkVariant) -> Network:
    if by.name not in networks:
        known = ", ".join(sorted(networks))
        raise BadInput(
            f"this guidance asks a network {by.name!r}, the model has {known}: put one beside it."
        )
    network = networks[by.name]
    if not by.skip_blocks and not by.self_only_blocks:
        return network
    if not isinstance(network, Denoiser):
        raise BadInput(
            f"this guidance leaves out blocks, which {type(network).__name__} cannot: choose another one."
        )
    return network.variant(by.skip_blocks, by.self_only_blocks)


def _batches(questions: Sequence[ModelCall], one_batch: bool) -> list[list[ModelCall]]:
    """The questions that pass together, each list of one pass."""
    if not one_batch:
        return [[question] for question in questions]
    passes = dict.fromkeys(question.network for question in questions)
    return [[question for question in questions if question.network == by] for by in passes]


def _heard(condition: Condition, scalars: Mapping[str, float], noisy: Latents) -> Condition:
    """The condition with further scalars, for every sample of ``noisy``."""
    if not scalars:
        return condition
    more = {
        name: torch.full((len(noisy),), float(value), device=noisy.device)
        for name, value in scalars.items()
    }
    return replace(condition, scalars={**condition.scalars, **more})


def _answers(
    process: Process,
    network: Network,
    conditions: Sequence[Condition],
    noisy: Latents,
    level: NoiseLevel,
) -> list[Estimate]:
    count = len(conditions)

    def copies(value: Tensor) -> Tensor:
        return (
            torch.cat([value] * count)
            if count > 1 and value.ndim and len(value) == len(noisy)
            else value
        )

    def part(value: Tensor | None, index: int) -> Tensor | None:
        return None if value is None else value.chunk(count)[index]

    levels = NoiseLevel(**{name: copies(value) for name, value in vars(level).items()})
    whole = process.denoise(network, copies(noisy), levels, stack(conditions))
    cleans = whole.clean.chunk(count)
    return [
        Estimate(clean, part(whole.noise, i), part(whole.variance, i))
        for i, clean in enumerate(cleans)
    ]
