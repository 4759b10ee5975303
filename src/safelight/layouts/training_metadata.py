"""What single files keep beside their weights of how a network was taught: the table of its
schedule, and the marks by which Stable Diffusion XL's heirs are known (``v_pred`` and ``ztsnr``,
``edm_mean`` and ``edm_std``, ``edm_vpred.…``)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from safelight.layouts.config_values import checked
from safelight.weights.files import Weights

if TYPE_CHECKING:
    from torch import Tensor

    from safelight.diffusion.process import Process
    from safelight.types.diffusion import Schedule

SIGMAS = ("edm_vpred.sigma_max", "edm_vpred.sigma_min")
SIGMA_MIN = 0.002  # that of CosXL; ours comes from the spacing
LATENTS = ("edm_mean", "edm_std")
NAMES = ("v_pred", "ztsnr", *SIGMAS, *LATENTS)
"""Names that tell a family by being there; the first two hold nothing."""
MEANS = ("model_ema.", "ema.")
"""Before the names of running means of weights."""
LONGEST = 100_000  # numbers of a table


@dataclass(frozen=True)
class TrainingMetadata:
    """``names``: which of ``NAMES`` there are. ``table``: alpha² at every step of the training.
    ``sigma_max``: its largest noise. ``scale`` of the latents, where it was measured in training;
    ``mean`` and ``spread`` of each of their channels. ``means``: whether running means of the
    weights lie beside the last ones."""

    names: tuple[str, ...] = ()
    table: tuple[float, ...] = ()
    sigma_max: float = 0.0
    scale: float | None = None
    mean: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    means: bool = False

    def schedule(self, usual: "Schedule") -> "Schedule | None":
        """What a family usually has, as the file corrects it; None if its table is of no schedule
        that is known."""
        import torch

        from safelight.diffusion.schedule import EDM
        from safelight.layouts import schedulers

        if isinstance(usual, EDM):
            return replace(usual, sigma_max=self.sigma_max) if self.sigma_max else usual
        return (
            schedulers.of_table(torch.tensor(self.table), usual) if len(self.table) > 1 else usual
        )


def read(weights: Weights, where: str) -> TrainingMetadata:
    """The marks of a file; BadInput for a scale that is none."""

    def values(name: str) -> tuple[float, ...]:
        few = name in weights and prod(weights.shapes[name]) <= LONGEST
        return tuple(weights[name].double().flatten().tolist()) if few else ()

    def table() -> tuple[float, ...]:
        betas = values("betas") if "alphas_cumprod" not in weights else ()
        if not betas:
            return values("alphas_cumprod")
        import torch

        return tuple(torch.tensor([1 - beta for beta in betas]).cumprod(0).tolist())

    scale = values("scale_factor")[:1]
    return TrainingMetadata(
        names=tuple(name for name in NAMES if name in weights),
        table=table(),
        sigma_max=next(iter(values(SIGMAS[0])), 0.0),
        scale=checked({"scale": scale[0]}, where)["scale"] if scale else None,
        mean=values(LATENTS[0]),
        spread=values(LATENTS[1]),
        means=any(name.startswith(MEANS) for name in weights),
    )


def write(names: Sequence[str], process: "Process") -> dict[str, "Tensor"]:
    """The marks of these ``names`` for a model of this process."""
    import torch

    from safelight.diffusion.schedule import EDM

    made = process.schedule
    sigmas = {SIGMAS[0]: made.sigma_max, SIGMAS[1]: SIGMA_MIN} if isinstance(made, EDM) else {}
    return {
        name: torch.tensor(sigmas[name]) if name in sigmas else torch.empty(0) for name in names
    }
