"""What single files keep beside their weights of how a network was taught: the table of its schedule, and the marks by
which Stable Diffusion XL's heirs are known (``v_pred`` and ``ztsnr``, ``edm_mean`` and ``edm_std``, ``edm_vpred.…``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safelight.checkpoints.weights import Weights
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import EDM, LinearBeta, ScaledLinear

SIGMAS = ("edm_vpred.sigma_max", "edm_vpred.sigma_min")
LATENTS = ("edm_mean", "edm_std")
NAMES = ("v_pred", "ztsnr", *SIGMAS, *LATENTS)
"""Names that tell a family by being there; the first two hold nothing."""


@dataclass(frozen=True)
class Marks:
    """``names``: which of ``NAMES`` there are. ``betas``: first, middle and last of the table that the network was
    trained with. ``sigma_max``: its largest noise. ``scale`` of the latents, where it was measured in training;
    ``mean`` and ``spread`` of each of their channels.
    """

    names: tuple[str, ...] = ()
    betas: tuple[float, ...] = ()
    sigma_max: float = 0.0
    scale: float | None = None
    mean: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    def process(self, usual: Process) -> Process:
        """What a family usually is, as the file corrects it; less than 1 % is the rounding of half precision."""
        made = usual.schedule
        if isinstance(made, EDM) and self.sigma_max:
            return replace(usual, schedule=replace(made, sigma_max=self.sigma_max))
        if not isinstance(made, ScaledLinear | LinearBeta) or not self.betas:
            return usual
        first, middle, last = (float(f"{one:.3g}") for one in self.betas)
        if not 0 < first < last < 1 or max(abs(first / made.beta_start - 1), abs(last / made.beta_end - 1)) < 0.01:
            return usual
        scaled = abs(middle - (first**0.5 + last**0.5) ** 2 / 4) < abs(middle - (first + last) / 2)
        kind = ScaledLinear if scaled else LinearBeta
        return replace(usual, schedule=kind(made.steps, first, last, made.zero_terminal))


def read(weights: Weights) -> Marks:
    """The marks of a file."""

    def values(name: str) -> tuple[float, ...]:
        return tuple(weights[name].double().flatten().tolist()) if name in weights else ()

    betas = values("betas")
    return Marks(
        names=tuple(name for name in NAMES if name in weights),
        betas=(betas[0], betas[(len(betas) - 1) // 2], betas[-1]) if len(betas) > 2 else (),
        sigma_max=next(iter(values(SIGMAS[0])), 0.0),
        scale=next(iter(values("scale_factor")), None),
        mean=values(LATENTS[0]),
        spread=values(LATENTS[1]),
    )


def write(names: Sequence[str], process: Process, usual: Process) -> dict[str, Tensor]:
    """The marks of these ``names`` for a model of this process, and the table of one that is not its family's."""
    made, table = process.schedule, dict[str, Tensor]()
    if isinstance(made, ScaledLinear | LinearBeta) and made != usual.schedule:
        root = 0.5 if isinstance(made, ScaledLinear) else 1.0
        ends = (made.beta_start**root, made.beta_end**root)
        table["betas"] = torch.linspace(*ends, made.steps, dtype=torch.float64).pow(1 / root).float()
    sigmas = (made.sigma_max, 0.002) if isinstance(made, EDM) else ()
    known = dict(zip(SIGMAS, map(torch.tensor, sigmas), strict=False))
    return table | {name: known.get(name, torch.empty(0)) for name in names}
