"""Samplers: from noise to clean latents, as generators of ``Step``.

The ``noisy`` of the last step is the clean result. One file for each family; every public dataclass
is a kind, described by its ``info``. Samplers see noise levels only, so that one formula serves
every schedule. ``Step.index`` counts from 0; ``Step.estimate`` is the first estimate of the step.
"""
