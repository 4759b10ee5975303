"""The denoiser function of a guided run: guidance calls networks and combines their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from safelight.diffusion.blend import (
    WeightedCondition,
    blend,
    calls_under,
    require_positive_weights,
)
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

ConditionFor = Callable[[str, Condition], Condition]
"""The condition for a network, by its name, that means the same as one of the main network."""


def same_condition(network: str, condition: Condition) -> Condition:
    """The condition itself, for networks with the conditions of the main one."""
    return condition


def guided(
    process: Process,
    networks: Mapping[str, Network],
    guidance: Guidance,
    condition: Condition,
    negative: Negative,
    condition_for: ConditionFor = same_condition,
    one_batch: bool = True,
    weighted: Sequence[WeightedCondition] = (),
) -> Denoise:
    """The denoiser function of one run.

    ``condition`` and those that ``negative`` returns are for as many samples as the latents hold,
    and prepared for the network ``main``; ``condition_for`` gives those of the other networks.
    At each level every network is called once, on one batch of all calls; without ``one_batch``
    once for each call, which is slower and takes less memory, with the same answers. If there are
    ``weighted`` conditions, ``condition`` stands for all of them: guidance sees the blend of their
    answers. Raises BadInput if guidance needs a network that is not here, or blocks left out that
    it cannot leave out, and unless the weights sum to more than 0 everywhere.
    """
    found: dict[NetworkVariant, Network] = {}

    def network_of(variant: NetworkVariant) -> Network:
        if variant not in found:
            found[variant] = _network(networks, variant)
        return found[variant]

    rule = guidance.begin(network_of)
    require_positive_weights(weighted)

    def denoise(noisy: Latents, level: NoiseLevel) -> Estimate:
        expanded = {
            call: calls_under(call, weighted)
            if weighted and call.condition is condition
            else [call]
            for call in rule.calls(condition, negative, level)
        }
        answers: dict[ModelCall, Estimate] = {}
        for batch in _batches([call for calls in expanded.values() for call in calls], one_batch):
            variant = batch[0].network
            conditions = [
                _with_scalars(condition_for(variant.name, call.condition), call.scalars, noisy)
                for call in batch
            ]
            estimates = _answers(process, network_of(variant), conditions, noisy, level)
            answers |= zip(batch, estimates, strict=True)
        combined = [
            blend([answers[call] for call in calls], weighted)
            if len(calls) > 1
            else answers[calls[0]]
            for calls in expanded.values()
        ]
        return rule.combine(combined, noisy, level)

    return denoise


def _network(networks: Mapping[str, Network], variant: NetworkVariant) -> Network:
    if variant.name not in networks:
        known = ", ".join(sorted(networks))
        raise BadInput(
            f"this guidance needs a network {variant.name!r}, the model has {known}: load a "
            f"{variant.name} model as well."
        )
    network = networks[variant.name]
    if not variant.skip_blocks and not variant.self_only_blocks:
        return network
    if not isinstance(network, Denoiser):
        raise BadInput(
            f"{type(network).__name__} cannot leave out blocks: choose another guidance."
        )
    return network.variant(variant.skip_blocks, variant.self_only_blocks)


def _batches(calls: Sequence[ModelCall], one_batch: bool) -> list[list[ModelCall]]:
    """The calls that are made together, each list of one network."""
    if not one_batch:
        return [[call] for call in calls]
    variants = dict.fromkeys(call.network for call in calls)
    return [[call for call in calls if call.network == variant] for variant in variants]


def _with_scalars(condition: Condition, scalars: Mapping[str, float], noisy: Latents) -> Condition:
    """The condition with further scalars, for every sample of ``noisy``."""
    if not scalars:
        return condition
    further = {
        name: torch.full((len(noisy),), float(value), device=noisy.device)
        for name, value in scalars.items()
    }
    return replace(condition, scalars={**condition.scalars, **further})


def _answers(
    process: Process,
    network: Network,
    conditions: Sequence[Condition],
    noisy: Latents,
    level: NoiseLevel,
) -> list[Estimate]:
    """The estimate of the same latents under each of the conditions, in one batch."""
    count = len(conditions)

    def repeated(value: Tensor) -> Tensor:
        per_sample = value.ndim > 0 and len(value) == len(noisy)
        return torch.cat([value] * count) if count > 1 and per_sample else value

    def part(value: Tensor | None, index: int) -> Tensor | None:
        return None if value is None else value.chunk(count)[index]

    levels = NoiseLevel(**{name: repeated(value) for name, value in vars(level).items()})
    batch = process.denoise(network, repeated(noisy), levels, stack(conditions))
    return [
        Estimate(clean, part(batch.noise, i), part(batch.variance, i))
        for i, clean in enumerate(batch.clean.chunk(count))
    ]
