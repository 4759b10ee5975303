"""Samplers that are other samplers under the names and with the defaults that people know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from safelight.diffusion.trajectory import require_eta
from safelight.types.diffusion import Denoise, NoiseSource, Run, Sampler, SamplerInfo, Schedule
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class _Alias(Sampler):
    """A sampler with the option ``eta`` that runs another one."""

    eta: float = 1.0

    def __post_init__(self) -> None:
        require_eta(self.eta)

    def sampler(self) -> Sampler:
        """The sampler that runs."""
        raise NotImplementedError

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        return self.sampler()(denoise, noisy, times, schedule, noise)


@dataclass(frozen=True)
class DDIM(_Alias):
    """Euler as variance-preserving models know it (arXiv 2010.02502, eq. 12 and 16)."""

    info: ClassVar = SamplerInfo("DDIM", "1", "1", "arXiv 2010.02502", "with eta", renoises=True)

    eta: float = 0.0

    def sampler(self) -> Sampler:
        from safelight.diffusion.samplers.euler import Euler

        return Euler(self.eta)


@dataclass(frozen=True)
class EulerAncestral(_Alias):
    """Euler with fresh noise at every step (k-diffusion); with ``eta`` 1 the sampling of DDPM."""

    info: ClassVar = SamplerInfo(
        "Euler ancestral", "1", "1", "arXiv 2006.11239", "always", renoises=True
    )

    def sampler(self) -> Sampler:
        from safelight.diffusion.samplers.euler import Euler

        return Euler(self.eta)


@dataclass(frozen=True)
class DPM2Ancestral(_Alias):
    """DPM2 with fresh noise at every step (k-diffusion)."""

    info: ClassVar = SamplerInfo(
        "DPM2 ancestral", "1", "2", "arXiv 2206.00927", "always", renoises=True
    )
    kind: ClassVar = "dpm2-ancestral"

    def sampler(self) -> Sampler:
        from safelight.diffusion.samplers.heun import DPM2

        return DPM2(self.eta)


@dataclass(frozen=True)
class DPMpp2S(_Alias):
    """DPM-Solver++(2S) (arXiv 2211.01095, algorithm 1); with ``eta`` 1, 2S ancestral
    (k-diffusion)."""

    info: ClassVar = SamplerInfo("DPM-Solver++ 2S", "2", "2", "arXiv 2211.01095", "with eta")

    eta: float = 0.0

    def sampler(self) -> Sampler:
        from safelight.diffusion.samplers.single import Single

        return Single(2, "clean", self.eta)


@dataclass(frozen=True)
class DPMpp2MSDE(_Alias):
    """DPM-Solver++(2M) of the reverse SDE (k-diffusion, after arXiv 2211.01095, section 5)."""

    info: ClassVar = SamplerInfo(
        "DPM-Solver++ 2M SDE", "1", "1", "arXiv 2211.01095", "always", brownian=True
    )
    kind: ClassVar = "dpmpp2m-sde"

    rule: Literal["midpoint", "heun"] = "midpoint"

    def sampler(self) -> Sampler:
        from safelight.diffusion.samplers.dpmpp import DPMpp2M

        return DPMpp2M(self.eta, self.rule)


@dataclass(frozen=True)
class DPMpp3MSDE(_Alias):
    """DPM-Solver++(3M) of the reverse SDE (k-diffusion)."""

    info: ClassVar = SamplerInfo(
        "DPM-Solver++ 3M SDE", "1", "1", "arXiv 2211.01095", "always", brownian=True
    )
    kind: ClassVar = "dpmpp3m-sde"

    def sampler(self) -> Sampler:
        from safelight.diffusion.samplers.dpmpp import DPMpp3M

        return DPMpp3M(self.eta)
