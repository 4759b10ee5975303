"""Record what the peer library answers with the weights that tests draw again (tests/drawn.py): tests/recorded/drawn.

python scripts/record_families.py          all families, under a minute
python scripts/record_families.py sd1 sdxl

Names and shapes, in layouts.zip, are those of the original codes at toy width. diffusers and transformers read weights
by their own maps of names and run in fp32 on a CPU; walks are those of diffusers' schedulers, or formulas (walks.py).
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import peers
import torch
import walks
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from einops import rearrange
from peers import File
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

RECORDED = Path(__file__).parent.parent / "tests" / "recorded"
sys.path.append(str(RECORDED.parent))

import drawn  # noqa: E402

STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TABLE = {**STABLE, "steps_offset": 1, "set_alpha_to_one": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="*", help=", ".join(RECORDERS))
    for name in parser.parse_args().family or RECORDERS:
        place = drawn.DRAWN / name
        place.mkdir(exist_ok=True)
        with torch.no_grad():
            record(place, *RECORDERS[name]())
        print(place, sum(path.stat().st_size for path in place.rglob("*") if path.is_file()), "bytes")


def record(place: Path, inputs: File, outputs: File, config: Mapping[str, Any] | None = None) -> None:
    for what, tensors in (("inputs", inputs), ("outputs", outputs)):
        save_file({key: one.clone().contiguous() for key, one in tensors.items()}, place / f"{what}.safetensors")
    ran = [
        {"package": name, "version": version(name), "licence": "Apache-2.0"} for name in ("diffusers", "transformers")
    ]
    facts = {
        "family": place.name,
        "source": [*ran, {"package": "torch", "version": version("torch").partition("+")[0]}],
        "made by": f"scripts/{Path(sys.argv[0]).name}",
        "weights": "drawn by tests/drawn.py from ../layouts.zip, upcast to fp32",
        "config": config or {},
    }
    (place / "golden.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def numbers(name: str, *shape: int) -> Tensor:
    """Inputs are drawn like weights; their deviation is a little over 1."""
    return drawn.noise(name, shape).float() / 64


def weights(family: str, name: str = "model.safetensors") -> File:
    place = drawn.folder(family)
    assert place is not None
    return peers.read(place / name)


def pages(vocabulary: int, pad: int, *texts: Sequence[int]) -> Tensor:
    """Token ids of a length of 77, between the marks of the beginning and of the end."""
    marked = [[vocabulary - 2, *one, vocabulary - 1] for one in texts]
    return torch.tensor([[*one, *[pad] * (77 - len(one))] for one in marked])


def denoiser(network: Any, texts: Sequence[Tensor], scale: float, more: Mapping[str, Any] | None = None) -> walks.Ask:
    """A U-Net under classifier-free guidance, asked with the first of ``texts`` and with the second."""
    return walks.guided(
        lambda noisy, time, which: network(noisy, time, texts[which], **(more or {})).sample,
        scale,
    )


def sd1() -> tuple[File, File]:
    whole = weights("sd1")
    tower = peers.tower("sd1", peers.under(whole, "cond_stage_model.transformer."))
    inputs = {
        "ids": pages(49408, 49407, (320, 1125, 539, 320, 2368), (550, 3326, 256)),
        "uncond_ids": pages(49408, 49407, (), (21, 9, 1)),
        "x": numbers("sd1.x", 2, 4, 4, 6),
        "xT": numbers("sd1.xT", 2, 4, 4, 6),
    }
    texts = [tower(inputs[name]).last_hidden_state for name in ("ids", "uncond_ids")]
    outputs = {"text.cond": texts[0], "text.uncond": texts[1]}
    network, start = peers.unet("sd1", whole), inputs["xT"]
    for time in (1, 261, 981):
        outputs[f"unet.eps.t{time}"] = network(inputs["x"], time, texts[0]).sample
    ask = denoiser(network, texts, 7.5)
    outputs["ddim.latents"] = walks.scheduled(diffusers.DDIMScheduler(**TABLE, clip_sample=False), ask, start)
    halves = walks.scheduled(diffusers.PNDMScheduler(**TABLE, skip_prk_steps=True), ask, start)
    outputs["plms.latents"] = torch.cat([halves[:1], halves[2:]])  # the first step takes two passes
    outputs["dpmpp2m.latents"] = walks.dpmpp_2m_of_the_table(ask, start)
    return inputs, outputs


def sd2_v() -> tuple[File, File]:
    whole = weights("sd2-v")
    tower = peers.tower("sd2-v", peers.under(whole, "cond_stage_model.model."))
    inputs = {
        "ids": pages(500, 0, (17, 250, 3, 99), (401,)),
        "uncond_ids": pages(500, 0, (), (8, 8)),
        "x": numbers("sd2-v.x", 2, 4, 6, 4),
        "noise": numbers("sd2-v.noise", 2, 4, 6, 4),
    }
    texts = [last_but_one(tower, inputs[name], final_norm=True) for name in ("ids", "uncond_ids")]
    outputs = {"text.cond": texts[0], "text.uncond": texts[1]}
    network = peers.unet("sd2-v", whole)
    outputs |= {f"unet.t{time}": network(inputs["x"], time, texts[0]).sample for time in (1, 501, 981)}
    scheduler = diffusers.DDIMScheduler(**TABLE, clip_sample=False, prediction_type="v_prediction")
    outputs["ddim.latents"] = walks.scheduled(scheduler, denoiser(network, texts, 9.0), inputs["noise"])
    return inputs, outputs


def last_but_one(tower: Any, ids: Tensor, final_norm: bool) -> Tensor:
    states: Tensor = tower(ids, output_hidden_states=True).hidden_states[-2]
    return tower.text_model.final_layer_norm(states) if final_norm else states


def upscaler() -> tuple[File, File]:
    inputs = {"noise_level": torch.tensor([37])}
    for name, shape in {"x": (4, 6, 8), "noise": (4, 6, 8), "context": (9, 14), "uncond_context": (9, 14)}.items():
        inputs[name] = numbers(f"sd-x4-upscaler.{name}", 1, *shape)
    small = numbers("sd-x4-upscaler.low_res_noised", 1, 3, 6, 8)
    network, texts = (
        peers.unet("sd-x4-upscaler", weights("sd-x4-upscaler")),
        (inputs["context"], inputs["uncond_context"]),
    )

    def ask(noisy: Tensor, time: Any, which: int) -> Tensor:
        both = torch.cat([noisy, small], dim=1)
        answer: Tensor = network(both, time, texts[which], class_labels=inputs["noise_level"]).sample
        return answer

    outputs = {"low_res_noised": small}
    outputs |= {f"unet.t{time}": ask(inputs["x"], time, 0) for time in (1, 501, 981)}
    table = {**TABLE, "beta_start": 0.0001, "beta_end": 0.02}
    scheduler = diffusers.DDIMScheduler(**table, clip_sample=False, prediction_type="v_prediction")
    outputs["ddim.latents"] = walks.scheduled(scheduler, walks.guided(ask, 9.0), inputs["noise"])
    return inputs, outputs


def sdxl() -> tuple[File, File]:
    whole = weights("sdxl")
    towers = sdxl_towers(whole)
    words = ((17, 250, 3, 99), (401,)), ((), (8, 8))
    inputs = {
        **{f"{which}ids_l": pages(640, 639, *texts) for which, texts in zip(("", "uncond_"), words, strict=True)},
        **{f"{which}ids_g": pages(640, 0, *texts) for which, texts in zip(("", "uncond_"), words, strict=True)},
        "original_size": torch.tensor([[64, 96], [40, 50]]),
        "crop_top_left": torch.tensor([[0, 0], [4, 8]]),
        "target_size": torch.tensor([[32, 48], [32, 48]]),
        "x": numbers("sdxl.x", 2, 4, 4, 6),
        "noise": numbers("sdxl.noise", 2, 4, 4, 6),
    }
    outputs, network, told = {}, peers.unet("sdxl", whole), []
    for which, where in (("", ""), ("uncond_", "uncond.")):
        said, asked = sdxl_words(towers, inputs, which)
        outputs |= {f"{where}{name}": one for name, one in said.items() if not (where and name.startswith("text."))}
        told.append((said["crossattn"], asked))

    def ask(noisy: Tensor, time: Any, which: int) -> Tensor:
        answer: Tensor = network(noisy, time, told[which][0], added_cond_kwargs=told[which][1]).sample
        return answer

    outputs |= {f"unet.eps.t{time}": ask(inputs["x"], time, 0) for time in (1, 500, 999)}
    scheduler = diffusers.EulerDiscreteScheduler(**STABLE, steps_offset=1, timestep_spacing="leading")
    scheduler.set_timesteps(6)
    start = inputs["noise"] * scheduler.init_noise_sigma
    outputs["euler.latents"] = walks.scheduled(scheduler, walks.guided(ask, 5.0), start, 6)
    return inputs, {**outputs, "euler.sigmas": scheduler.sigmas[:-1]}


def sdxl_towers(whole: File) -> list[Any]:
    left = peers.tower("sdxl-l", peers.under(whole, "conditioner.embedders.0.transformer."))
    return [left, peers.tower("sdxl-g", peers.under(whole, "conditioner.embedders.1.model."))]


def sdxl_words(towers: Sequence[Any], inputs: File, which: str) -> tuple[File, dict[str, Tensor]]:
    """What the towers say, by the recording's names, and what the peer's U-Net asks for beside the text."""
    left = last_but_one(towers[0], inputs[f"{which}ids_l"], final_norm=False)
    right = last_but_one(towers[1], inputs[f"{which}ids_g"], final_norm=False)
    pooled = towers[1](inputs[f"{which}ids_g"]).text_embeds
    sizes = torch.cat([inputs[name] for name in ("original_size", "crop_top_left", "target_size")], dim=1)
    waves = get_timestep_embedding(sizes.flatten(), 32, flip_sin_to_cos=True, downscale_freq_shift=0)
    said = {
        "crossattn": torch.cat([left, right], dim=-1),
        "vector": torch.cat([pooled, waves.reshape(len(sizes), -1)], dim=1),
        "text.l.penultimate": left,
        "text.g.penultimate": right,
        "text.g.pooled": pooled,
    }
    return said, {"text_embeds": pooled, "time_ids": sizes}


def mmdit(family: str, batch: int, words: int, widths: tuple[int, int], scale: float) -> tuple[File, File]:
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
    outputs["euler.latents"], outputs["euler.denoised"] = walks.euler(velocity, inputs["noise"], sigmas)
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
    rows, columns = (one.flatten() for one in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    return torch.stack([torch.full_like(rows, first), rows, columns, *[torch.zeros_like(rows)] * (axes - 3)], dim=1)


def packed(latents: Tensor) -> Tensor:
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def flux_walks(ask: Callable[..., Tensor], inputs: File, guidance: float, mu: float, reference: str = "") -> File:
    """A schedule, the walk along it and, where there is a reference, where the walk beside it ends."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 6, 6).tolist(), mu=mu)
    found = {"schedule": scheduler.sigmas}
    for name, beside in {"euler.latents": None, f"{reference}.result": inputs.get(f"{reference}_latent")}.items():
        if name == "euler.latents" or beside is not None:
            velocity = lambda x, t, beside=beside: ask(x, t, guidance, beside)  # noqa: E731
            latents, _ = walks.euler(velocity, inputs["noise"], scheduler.sigmas)
            found[name] = latents if beside is None else latents[-1]
    return found


def asked_at(ask: Callable[..., Tensor], latent: Tensor, guidance: float, times: Sequence[float]) -> File:
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
            told = torch.cat([inputs["cond_latent"], F.pixel_unshuffle(inputs["mask"], 8)], dim=1)
            tokens = torch.cat([tokens, packed(told)], dim=2)
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
    shapes = {"latent": (16, 12, 8), "noise": (16, 12, 8), "kontext_latent": (16, 6, 4), "txt": (7, 28), "vec": (20,)}
    inputs = {name: numbers(f"flux-dev.{name}", 2, *shape) for name, shape in shapes.items()}
    inputs["image"] = numbers("flux-dev.image", 1, 3, 48, 32) / 2
    ask = first_flux(peers.flux(weights("flux-dev", "flux1-dev.safetensors"), 2), inputs)
    outputs = asked_at(ask, inputs["latent"], 3.5, (1.0, 0.5, 0.05))
    outputs |= flux_walks(ask, inputs, 3.5, calculate_shift(24, 256, 4096, 0.5, 1.15), "kontext")
    pair = peers.autoencoder(weights("flux-dev", "ae.safetensors"), (32,) * 4, 16, quant=False)
    mean = pair.encode(inputs["image"]).latent_dist.mode()
    outputs["ae.encode_mean"], outputs["ae.decode"] = 0.3611 * (mean - 0.1159), pair.decode(mean).sample
    outputs["decode.euler"] = pair.decode(outputs["euler.latents"][-1] / 0.3611 + 0.1159).sample
    return inputs, outputs, {"transformer": {"axes_dim": peers.FLUX["axes_dims_rope"]}}


def flux_fill() -> tuple[File, File, dict[str, Any]]:
    shapes = {"latent": (16, 12, 8), "noise": (16, 12, 8), "cond_latent": (16, 12, 8), "txt": (7, 28), "vec": (20,)}
    inputs = {name: numbers(f"flux-fill.{name}", 1, *shape) for name, shape in shapes.items()}
    inputs["mask"] = (numbers("flux-fill.mask", 1, 1, 96, 64) > 0).float()
    ask = first_flux(peers.flux(weights("flux-fill", "flux1-fill-dev.safetensors"), 1, 384), inputs)
    outputs = asked_at(ask, inputs["latent"], 30.0, (1.0, 0.5, 0.05))
    outputs |= flux_walks(ask, inputs, 30.0, calculate_shift(24, 256, 4096, 0.5, 1.15))
    return inputs, outputs, {"transformer": {"axes_dim": peers.FLUX["axes_dims_rope"]}}


def flux2() -> tuple[File, File, dict[str, Any]]:
    shapes = {"latent": (128, 6, 4), "noise": (128, 6, 4), "reference_latent": (128, 2, 3), "ctx": (9, 36)}
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
    mean, spread = (one[:, None, None] for one in (pair.bn.running_mean, (pair.bn.running_var + pair.bn.eps).sqrt()))
    outputs["ae.encode"] = (F.pixel_unshuffle(pair.encode(inputs["image"]).latent_dist.mode(), 2) - mean) / spread
    for name, latents in (("ae.decode", outputs["ae.encode"]), ("decode.euler", outputs["euler.latents"][-1])):
        outputs[name] = pair.decode(F.pixel_shuffle(latents * spread + mean, 2)).sample
    return inputs, outputs, {"transformer": {"axes_dim": peers.SECOND_FLUX["axes_dims_rope"]}}


def ldm_kl() -> tuple[File, File, dict[str, Any]]:
    inputs, outputs, config = {}, {}, {}
    for name, levels, channels in (("f8", (1, 1, 1, 1), 4), ("f4", (1, 1, 2), 3)):
        place = drawn.folder("ldm-kl")
        assert place is not None
        if name == "f8":
            file = peers.read(place / "f8.safetensors")
        else:
            whole = torch.load(place / "f4.ckpt", weights_only=True)["state_dict"]
            file = {key: one.float() for key, one in whole.items() if not key.startswith("loss.")}
        pair = peers.autoencoder(file, tuple(32 * one for one in levels), channels)
        inputs[f"{name}.image"] = numbers(f"ldm-kl.{name}.image", 1, 3, 32, 48) / 2
        found = pair.encode(inputs[f"{name}.image"]).latent_dist
        inputs[f"{name}.eps"] = numbers(f"ldm-kl.{name}.eps", *found.mean.shape)
        told = {"moments": found.parameters, "mean": found.mean, "std": found.std}
        told["sample"] = found.mean + found.std * inputs[f"{name}.eps"]
        told |= {"decode_mode": pair.decode(found.mean).sample, "decode_sample": pair.decode(told["sample"]).sample}
        outputs |= {f"{name}.{key}": one for key, one in told.items()}
        shape = {"ch": 32, "ch_mult": levels, "num_res_blocks": 1, "resolution": 64, "attn_resolutions": []}
        config[name] = {"embed_dim": channels, "ddconfig": shape}
    return inputs, outputs, config


RECORDERS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "sd1": sd1,
    "sd2-v": sd2_v,
    "sd-x4-upscaler": upscaler,
    "sdxl": sdxl,
    "sd3": lambda: mmdit("sd3", 2, 11, (36, 40), 5.0),
    "sd35-medium": lambda: mmdit("sd35-medium", 1, 9, (28, 24), 4.5),
    "flux-dev": flux_dev,
    "flux-fill": flux_fill,
    "flux2": flux2,
    "ldm-kl": ldm_kl,
}


if __name__ == "__main__":
    main()
