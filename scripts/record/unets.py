"""Recordings of U-Nets and of the text towers that belong to them."""

from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import peers
import torch
import walks
from diffusers.models.embeddings import get_timestep_embedding
from peers import File
from recording import numbers, weights
from torch import Tensor

STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TABLE = {**STABLE, "steps_offset": 1, "set_alpha_to_one": False}


def pages(vocabulary: int, pad: int, *texts: Sequence[int]) -> Tensor:
    """Token ids of a length of 77, between the marks of the beginning and of the end."""
    marked = [[vocabulary - 2, *one, vocabulary - 1] for one in texts]
    return torch.tensor([[*one, *[pad] * (77 - len(one))] for one in marked])


def denoiser(
    network: Any, texts: Sequence[Tensor], scale: float, more: Mapping[str, Any] | None = None
) -> walks.Ask:
    """A U-Net under classifier-free guidance, asked with the first of ``texts`` and with the
    second."""
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
    outputs["ddim.latents"] = walks.scheduled(
        diffusers.DDIMScheduler(**TABLE, clip_sample=False), ask, start
    )
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
    outputs |= {
        f"unet.t{time}": network(inputs["x"], time, texts[0]).sample for time in (1, 501, 981)
    }
    scheduler = diffusers.DDIMScheduler(**TABLE, clip_sample=False, prediction_type="v_prediction")
    outputs["ddim.latents"] = walks.scheduled(
        scheduler, denoiser(network, texts, 9.0), inputs["noise"]
    )
    return inputs, outputs


def last_but_one(tower: Any, ids: Tensor, final_norm: bool) -> Tensor:
    states: Tensor = tower(ids, output_hidden_states=True).hidden_states[-2]
    return tower.text_model.final_layer_norm(states) if final_norm else states


def upscaler() -> tuple[File, File]:
    inputs = {"noise_level": torch.tensor([37])}
    for name, shape in {
        "x": (4, 6, 8),
        "noise": (4, 6, 8),
        "context": (9, 14),
        "uncond_context": (9, 14),
    }.items():
        inputs[name] = numbers(f"sd-x4-upscaler.{name}", 1, *shape)
    small = numbers("sd-x4-upscaler.low_res_noised", 1, 3, 6, 8)
    network, texts = (
        peers.unet("sd-x4-upscaler", weights("sd-x4-upscaler")),
        (inputs["context"], inputs["uncond_context"]),
    )

    def ask(noisy: Tensor, time: Any, which: int) -> Tensor:
        both = torch.cat([noisy, small], dim=1)
        answer: Tensor = network(
            both, time, texts[which], class_labels=inputs["noise_level"]
        ).sample
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
        **{
            f"{which}ids_l": pages(640, 639, *texts)
            for which, texts in zip(("", "uncond_"), words, strict=True)
        },
        **{
            f"{which}ids_g": pages(640, 0, *texts)
            for which, texts in zip(("", "uncond_"), words, strict=True)
        },
        "original_size": torch.tensor([[64, 96], [40, 50]]),
        "crop_top_left": torch.tensor([[0, 0], [4, 8]]),
        "target_size": torch.tensor([[32, 48], [32, 48]]),
        "x": numbers("sdxl.x", 2, 4, 4, 6),
        "noise": numbers("sdxl.noise", 2, 4, 4, 6),
    }
    outputs, network, told = {}, peers.unet("sdxl", whole), []
    for which, where in (("", ""), ("uncond_", "uncond.")):
        said, asked = sdxl_words(towers, inputs, which)
        outputs |= {
            f"{where}{name}": one
            for name, one in said.items()
            if not (where and name.startswith("text."))
        }
        told.append((said["crossattn"], asked))

    def ask(noisy: Tensor, time: Any, which: int) -> Tensor:
        answer: Tensor = network(
            noisy, time, told[which][0], added_cond_kwargs=told[which][1]
        ).sample
        return answer

    outputs |= {f"unet.eps.t{time}": ask(inputs["x"], time, 0) for time in (1, 500, 999)}
    scheduler = diffusers.EulerDiscreteScheduler(
        **STABLE, steps_offset=1, timestep_spacing="leading"
    )
    scheduler.set_timesteps(6)
    start = inputs["noise"] * scheduler.init_noise_sigma
    outputs["euler.latents"] = walks.scheduled(scheduler, walks.guided(ask, 5.0), start, 6)
    return inputs, {**outputs, "euler.sigmas": scheduler.sigmas[:-1]}


def widened(family: str) -> tuple[File, File]:
    """A U-Net that sees more channels, or none of them but hears a vector, at two times."""
    network = peers.unet(family, weights(family))
    size, said = (8, 16), network.config
    inputs = {
        "x": numbers(f"{family}.x", 2, 4, *size),
        "context": numbers(f"{family}.context", 2, 7, said.cross_attention_dim),
    }
    noisy, more = inputs["x"], {}
    if extra := said.in_channels - 4:
        inputs["channels"] = numbers(f"{family}.channels", 2, extra, *size)
        noisy = torch.cat([noisy, inputs["channels"]], dim=1)
    if said.addition_embed_type:
        count = 5 if family == "sdxl-refiner" else 6
        pooled = numbers(
            f"{family}.pooled", 2, said.projection_class_embeddings_input_dim - count * 32
        )
        sizes = numbers(f"{family}.sizes", 2, count).abs() * 100
        inputs["vector"] = torch.cat([pooled, waves(sizes)], dim=1)
        more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    return inputs, {
        f"unet.t{time}": network(noisy, time, inputs["context"], **more).sample for time in (1, 601)
    }


def waves(sizes: Tensor) -> Tensor:
    """What a U-Net hears of each row's numbers."""
    heard: Tensor = get_timestep_embedding(
        sizes.flatten(), 32, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    return heard.reshape(len(sizes), -1)


def sdxl_towers(whole: File) -> list[Any]:
    left = peers.tower("sdxl-l", peers.under(whole, "conditioner.embedders.0.transformer."))
    return [left, peers.tower("sdxl-g", peers.under(whole, "conditioner.embedders.1.model."))]


def sdxl_words(towers: Sequence[Any], inputs: File, which: str) -> tuple[File, dict[str, Tensor]]:
    """What the towers say, by the recording's names, and what the peer's U-Net asks for beside the
    text."""
    left = last_but_one(towers[0], inputs[f"{which}ids_l"], final_norm=False)
    right = last_but_one(towers[1], inputs[f"{which}ids_g"], final_norm=False)
    pooled = towers[1](inputs[f"{which}ids_g"]).text_embeds
    sizes = torch.cat(
        [inputs[name] for name in ("original_size", "crop_top_left", "target_size")], dim=1
    )
    said = {
        "crossattn": torch.cat([left, right], dim=-1),
        "vector": torch.cat([pooled, waves(sizes)], dim=1),
        "text.l.penultimate": left,
        "text.g.penultimate": right,
        "text.g.pooled": pooled,
    }
    return said, {"text_embeds": pooled, "time_ids": sizes}
