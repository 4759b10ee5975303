"""Recordings of transformers that flow: Stable Diffusion 3 and FLUX."""

from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import peers
import torch
import walks
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from einops import rearrange
from peers import File
from recording import numbers, weights
from torch import Tensor
from torch.nn import functional as F


def mmdit(
    family: str, batch: int, words: int, widths: tuple[int, int], scale: float
) -> tuple[File, File]:
    shapes = {"x": (16, 4, 6), "noise": (16, 4, 6)}
    for which in ("", "uncond_"):
        shapes |= {f"{which}context": (words, widths[0]), f"{which}y": (widths[1],)}
    inputs = {name: numbers(f"{family}.{name}", batch, *shape) for name, shape in shapes.items()}
    network = peers.mmdit(family, weights(family))

    def ask(noisy: Tensor, sigma: float, which: int = 0, skip: Sequence[int] = ()) -> Tensor:
        text, vector = (inputs[("uncond_" if which else "") + name] for name in ("context", "y"))
        time = torch.full((batch,), 1000 * float(sigma))
        answer: Tensor = network(noisy, text, vector, time, skip_layers=list(skip)).sample
        return answer

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    sigmas, velocity = scheduler.sigmas, walks.guided(ask, scale)
    outputs = {f"velocity.sigma{sigma}": ask(inputs["x"], sigma) for sigma in (1.0, 0.75, 0.1)}
    if family == "sd35-medium":
        outputs["velocity.skip_layer0.sigma0.75"] = ask(inputs["x"], 0.75, skip=[0])
    outputs["schedule.sigmas"] = sigmas
    outputs["euler.latents"], outputs["euler.denoised"] = walks.euler(
        velocity, inputs["noise"], sigmas
    )
    outputs["dpmpp_2m.latents"] = walks.dpmpp_2m(
        lambda noisy, index: noisy - sigmas[index] * velocity(noisy, sigmas[index]),
        inputs["noise"],
        torch.ones_like(sigmas),
        sigmas,
    )
    outputs["img2img.start"] = sigmas[4] * inputs["noise"] + (1 - sigmas[4]) * inputs["x"]
    outputs["img2img.result"] = walks.euler(velocity, outputs["img2img.start"], sigmas[4:])[0][-1]
    return inputs, outputs


def places(grid: tuple[int, int], first: int, axes: int) -> Tensor:
    """The number of the picture, the row and the column of each token, in that order."""
    rows, columns = (
        one.flatten() for one in torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    )
    return torch.stack(
        [torch.full_like(rows, first), rows, columns, *[torch.zeros_like(rows)] * (axes - 3)], dim=1
    )


def packed(latents: Tensor) -> Tensor:
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def flux_walks(
    ask: Callable[..., Tensor], inputs: File, guidance: float, mu: float, reference: str = ""
) -> File:
    """A schedule, the walk along it and, where there is a reference, where the walk beside it
    ends."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 6, 6).tolist(), mu=mu)
    found = {"schedule": scheduler.sigmas}
    for name, beside in {
        "euler.latents": None,
        f"{reference}.result": inputs.get(f"{reference}_latent"),
    }.items():
        if name == "euler.latents" or beside is not None:
            velocity = lambda x, t, beside=beside: ask(x, t, guidance, beside)  # noqa: E731
            latents, _ = walks.euler(velocity, inputs["noise"], scheduler.sigmas)
            found[name] = latents if beside is None else latents[-1]
    return found


def asked_at(
    ask: Callable[..., Tensor], latent: Tensor, guidance: float, times: Sequence[float]
) -> File:
    """Answers at ``times``, and at the second of them with a guidance of 1."""
    found = {f"velocity.t{time}": ask(latent, time, guidance) for time in times}
    return {**found, f"velocity.t{times[1]}.guidance1": ask(latent, times[1], 1.0)}


def first_flux(network: Any, inputs: File) -> Callable[..., Tensor]:
    """FLUX.1 on latents: packed, with what is beside them in the sequence or in the channels."""
    size, texts = (6, 4), torch.zeros(inputs["txt"].shape[1], 3)

    def ask(noisy: Tensor, time: float, guidance: float, beside: Tensor | None = None) -> Tensor:
        batch, tokens, ids = len(noisy), packed(noisy), places(size, 0, 3)
        if beside is not None:
            tokens = torch.cat([tokens, packed(beside)], dim=1)
            ids = torch.cat([ids, places((beside.shape[2] // 2, beside.shape[3] // 2), 1, 3)])
        if "mask" in inputs:
            tokens = torch.cat(
                [
                    tokens,
                    packed(inputs["cond_latent"]),
                    packed(F.pixel_unshuffle(inputs["mask"], 8)),
                ],
                2,
            )
        if "control" in inputs:
            tokens = torch.cat([tokens, packed(inputs["control"])], dim=2)
        answer = network(
            tokens,
            inputs["txt"],
            inputs["vec"],
            torch.full((batch,), float(time)),
            img_ids=ids,
            txt_ids=texts,
            guidance=torch.full((batch,), guidance),
        ).sample[:, : size[0] * size[1]]
        return rearrange(answer, "b (h w) (c p q) -> b c (h p) (w q)", h=size[0], p=2, q=2)

    return ask


def flux_dev() -> tuple[File, File, dict[str, Any]]:
    shapes = {
        "latent": (16, 12, 8),
        "noise": (16, 12, 8),
        "kontext_latent": (16, 6, 4),
        "txt": (7, 28),
        "vec": (20,),
    }
    inputs = {name: numbers(f"flux-dev.{name}", 2, *shape) for name, shape in shapes.items()}
    inputs["image"] = numbers("flux-dev.image", 1, 3, 48, 32) / 2
    ask = first_flux(peers.flux(weights("flux-dev", "flux1-dev.safetensors"), 2), inputs)
    outputs = asked_at(ask, inputs["latent"], 3.5, (1.0, 0.5, 0.05))
    outputs |= flux_walks(ask, inputs, 3.5, calculate_shift(24, 256, 4096, 0.5, 1.15), "kontext")
    pair = peers.autoencoder(weights("flux-dev", "ae.safetensors"), (32,) * 4, 16, quant=False)
    mean = pair.encode(inputs["image"]).latent_dist.mode()
    outputs["ae.encode_mean"], outputs["ae.decode"] = (
        0.3611 * (mean - 0.1159),
        pair.decode(mean).sample,
    )
    outputs["decode.euler"] = pair.decode(outputs["euler.latents"][-1] / 0.3611 + 0.1159).sample
    return inputs, outputs, {"transformer": {"axes_dim": peers.FLUX["axes_dims_rope"]}}


def flux_fill() -> tuple[File, File, dict[str, Any]]:
    shapes = {
        "latent": (16, 12, 8),
        "noise": (16, 12, 8),
        "cond_latent": (16, 12, 8),
        "txt": (7, 28),
        "vec": (20,),
    }
    inputs = {name: numbers(f"flux-fill.{name}", 1, *shape) for name, shape in shapes.items()}
    inputs["mask"] = (numbers("flux-fill.mask", 1, 1, 96, 64) > 0).float()
    ask = first_flux(peers.flux(weights("flux-fill", "flux1-fill-dev.safetensors"), 1, 384), inputs)
    outputs = asked_at(ask, inputs["latent"], 30.0, (1.0, 0.5, 0.05))
    outputs |= flux_walks(ask, inputs, 30.0, calculate_shift(24, 256, 4096, 0.5, 1.15))
    return inputs, outputs, {"transformer": {"axes_dim": peers.FLUX["axes_dims_rope"]}}


def flux_control() -> tuple[File, File, dict[str, Any]]:
    shapes = {
        "latent": (16, 12, 8),
        "noise": (16, 12, 8),
        "control": (16, 12, 8),
        "txt": (7, 28),
        "vec": (20,),
    }
    inputs = {name: numbers(f"flux-control.{name}", 1, *shape) for name, shape in shapes.items()}
    ask = first_flux(
        peers.flux(weights("flux-control", "flux1-control.safetensors"), 2, 128), inputs
    )
    outputs = asked_at(ask, inputs["latent"], 10.0, (1.0, 0.5, 0.05))
    outputs |= flux_walks(ask, inputs, 10.0, calculate_shift(24, 256, 4096, 0.5, 1.15))
    return inputs, outputs, {"transformer": {"axes_dim": peers.FLUX["axes_dims_rope"]}}


def flux2() -> tuple[File, File, dict[str, Any]]:
    shapes = {
        "latent": (128, 6, 4),
        "noise": (128, 6, 4),
        "reference_latent": (128, 2, 3),
        "ctx": (9, 36),
    }
    inputs = {name: numbers(f"flux2.{name}", 1, *shape) for name, shape in shapes.items()}
    inputs["image"] = numbers("flux2.image", 1, 3, 64, 48) / 2
    network = peers.second_flux(weights("flux2", "flux2-dev.safetensors"))
    texts = torch.tensor([[0, 0, 0, index] for index in range(9)])

    def ask(noisy: Tensor, time: float, guidance: float, beside: Tensor | None = None) -> Tensor:
        parts = [(noisy, 0)] + ([] if beside is None else [(beside, 10)])
        tokens = torch.cat([one.flatten(2).mT for one, _ in parts], dim=1)
        ids = torch.cat([places((one.shape[2], one.shape[3]), first, 4) for one, first in parts])
        asked = {"timestep": torch.tensor([float(time)]), "guidance": torch.tensor([guidance])}
        answer = network(tokens, inputs["ctx"], img_ids=ids, txt_ids=texts, **asked).sample[:, :24]
        return rearrange(answer, "b (h w) c -> b c h w", h=6)

    outputs = asked_at(ask, inputs["latent"], 4.0, (1.0, 0.7, 0.2))
    outputs |= flux_walks(ask, inputs, 4.0, compute_empirical_mu(24, 6), "reference")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    for steps, tokens in ((4, 1024), (50, 4096), (28, 8192)):
        evenly = torch.linspace(1, 1 / steps, steps).tolist()
        scheduler.set_timesteps(sigmas=evenly, mu=compute_empirical_mu(tokens, steps))
        outputs[f"schedule.n{steps}.tokens{tokens}"] = scheduler.sigmas
    pair = peers.second_flux_autoencoder(weights("flux2", "ae.safetensors"))
    mean, spread = (
        one[:, None, None]
        for one in (pair.bn.running_mean, (pair.bn.running_var + pair.bn.eps).sqrt())
    )
    outputs["ae.encode"] = (
        F.pixel_unshuffle(pair.encode(inputs["image"]).latent_dist.mode(), 2) - mean
    ) / spread
    for name, latents in (
        ("ae.decode", outputs["ae.encode"]),
        ("decode.euler", outputs["euler.latents"][-1]),
    ):
        outputs[name] = pair.decode(F.pixel_shuffle(latents * spread + mean, 2)).sample
    return inputs, outputs, {"transformer": {"axes_dim": peers.SECOND_FLUX["axes_dims_rope"]}}
