"""Spacings: the times that a sampler visits, ``steps + 1`` of them in float64.

They fall strictly and end in 0. The first is ``begin``, or as near below it as the spacing has one:
make the noisy latents at the level of ``times[0]``. All raise BadInput for steps outside 1 to
10,000 and for a ``begin`` outside (0, 1]. One file for each subject; every public dataclass is a
kind.
"""
