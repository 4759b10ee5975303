"""Record what the peer library's pipelines make of folders whose weights tests draw again:
drawn/diffusers-folders.

python scripts/record/folders.py

Configurations, tokenizers and lists of names are those that diffusers and transformers wrote. Each
pipeline is loaded from its folder and run in fp32 on a CPU. Needs sentencepiece, too.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import torch
from peers import File
from recording import DRAWN, numbers, record
from recording import opened as filled
from torch import Tensor

PROMPTS = ["a photo of a cat", "An  odd dog, 3 birds!"]
NEGATIVE = ["blurry"] * 2
SIZE = {"height": 32, "width": 48, "num_inference_steps": 4, "output_type": "np"}
CONFIG = {
    "prompts": PROMPTS,
    "negative_prompt": NEGATIVE[0],
    "steps": 4,
    "latent_size": [4, 6],
    "image_size": [32, 48],
}


def main() -> None:
    inputs: File = {}
    outputs: File = {}
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        for name, make in FOLDERS.items():
            given, found = make(opened(name))
            inputs |= {f"{name}.{key}": one for key, one in given.items()}
            outputs |= {f"{name}.{key}": one for key, one in found.items()}
    record(DRAWN / "diffusers-folders", inputs, outputs, CONFIG)


def opened(name: str) -> Any:
    place = filled("diffusers-folders")
    variant = "fp16" if name == "sdxl" else None
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        place / name, torch_dtype=torch.float32, variant=variant
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def given(name: str, **shapes: tuple[int, ...]) -> File:
    return {
        key: numbers(f"diffusers-folders.{name}.{key}", *shape) for key, shape in shapes.items()
    }


def walked(pipeline: Any, asked: Mapping[str, Any], keep: str = "latents") -> File:
    """The pictures, and the latents after each step."""
    seen: list[Tensor] = []

    def see(_: Any, step: int, time: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tensors["latents"])
        return {}

    images = pipeline(**asked, **SIZE, callback_on_step_end=see).images
    return {keep: torch.stack(seen), "images": torch.from_numpy(images)}


def ids(tokenizer: Any, length: int) -> Tensor:
    found: Tensor = tokenizer(
        PROMPTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids
    return found


def stable(pipeline: Any) -> tuple[File, File]:
    inputs = given("sd", x=(2, 4, 4, 6), latents=(2, 4, 4, 6))
    found = {"ids": ids(pipeline.tokenizer, 77)}
    found["text"] = pipeline.text_encoder(found["ids"])[0]
    found |= {
        f"unet.t{time}": pipeline.unet(inputs["x"], time, found["text"]).sample
        for time in (1, 481, 981)
    }
    asked = {
        "prompt": PROMPTS,
        "negative_prompt": NEGATIVE,
        "guidance_scale": 7.5,
        "latents": inputs["latents"],
    }
    found |= walked(pipeline, asked)
    return inputs, found


def inpainting(pipeline: Any) -> tuple[File, File]:
    inputs = given("sd-inpaint", x=(2, 9, 4, 6), latents=(2, 4, 4, 6))
    found = {"text": pipeline.text_encoder(ids(pipeline.tokenizer, 77))[0]}
    return inputs, found | {
        f"unet.t{time}": pipeline.unet(inputs["x"], time, found["text"]).sample
        for time in (1, 481, 981)
    }


def controlled(pipeline: Any) -> tuple[File, File]:
    inputs = given("controlnet", x=(2, 4, 4, 6), control_image=(1, 3, 32, 48))
    inputs["control_image"] = (inputs["control_image"] + 2) / 4
    text = pipeline.text_encoder(ids(pipeline.tokenizer, 77))[0]
    down, middle = pipeline.controlnet(
        inputs["x"], 1, text, inputs["control_image"], conditioning_scale=0.8, return_dict=False
    )
    found = {"text": text, "controlnet.mid": middle}
    found |= {f"controlnet.down{index}": one for index, one in enumerate(down)}
    more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    return inputs, {
        **found,
        "unet_with_control": pipeline.unet(inputs["x"], 1, text, **more).sample,
    }


def large(pipeline: Any) -> tuple[File, File]:
    inputs = given("sdxl", x=(2, 4, 4, 6), latents=(2, 4, 4, 6), text_embeds=(2, 12))
    inputs["time_ids"] = torch.tensor([[40.0, 48, 0, 4, 32, 48], [32, 48, 0, 0, 32, 48]])
    asked = {"prompt": PROMPTS, "negative_prompt": NEGATIVE}
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled", "negative_pooled")
    found = dict(zip(names, pipeline.encode_prompt(**asked), strict=True))
    found["ids_2"] = ids(pipeline.tokenizer_2, 77)
    told = {"text_embeds": inputs["text_embeds"], "time_ids": inputs["time_ids"]}
    found["unet.t500"] = pipeline.unet(
        inputs["x"], 500, found["prompt_embeds"], added_cond_kwargs=told
    ).sample
    sizes = {"original_size": (40, 48), "crops_coords_top_left": (0, 4), "target_size": (32, 48)}
    found |= walked(
        pipeline, {**asked, **sizes, "guidance_scale": 5.0, "latents": inputs["latents"]}
    )
    return inputs, {**found, "sigmas": pipeline.scheduler.sigmas}


def third(pipeline: Any) -> tuple[File, File]:
    inputs = given("sd3", latents=(2, 16, 4, 6))
    asked = {"prompt": PROMPTS, "negative_prompt": NEGATIVE, "max_sequence_length": 12}
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled", "negative_pooled")
    found = dict(
        zip(names, pipeline.encode_prompt(**asked, prompt_2=None, prompt_3=None), strict=True)
    )
    found["ids_3"] = ids(pipeline.tokenizer_3, 12)
    time = torch.full((2,), 600.0)
    told = (found["prompt_embeds"], found["pooled"])
    found["transformer.t600"] = pipeline.transformer(inputs["latents"], *told, time).sample
    return inputs, found | walked(
        pipeline, {**asked, "guidance_scale": 4.0, "latents": inputs["latents"]}
    )


def flux(pipeline: Any) -> tuple[File, File]:
    inputs = given("flux", packed_latents=(2, 6, 64))
    asked = {"prompt": PROMPTS, "max_sequence_length": 12}
    text, pooled, places = pipeline.encode_prompt(**asked, prompt_2=None)
    answer = pipeline.transformer(
        inputs["packed_latents"],
        text,
        pooled,
        torch.full((2,), 0.5),
        img_ids=torch.tensor([[0.0, row, column] for row in range(2) for column in range(3)]),
        txt_ids=places,
        guidance=torch.full((2,), 3.5),
    ).sample
    found = {"prompt_embeds": text, "pooled": pooled, "transformer.t0.5": answer}
    asked |= {"guidance_scale": 3.5, "latents": inputs["packed_latents"]}
    return inputs, found | walked(pipeline, asked, "packed_latents")


def classes(pipeline: Any) -> tuple[File, File]:
    inputs, noisy = (
        {"labels": torch.tensor([207, 3])},
        numbers("diffusers-folders.dit.x", 2, 4, 8, 8),
    )
    times, found = torch.tensor([500, 500]), {"x": noisy}
    for name, labels in (("", inputs["labels"]), (".null", torch.tensor([1000, 1000]))):
        found[f"transformer.t500{name}"] = pipeline.transformer(noisy, times, labels).sample
    return inputs, found


def unconditional(pipeline: Any) -> tuple[File, File]:
    inputs = given("ldm-uncond", latents=(2, 3, 8, 8))
    return inputs, {"unet.t500": pipeline.unet(inputs["latents"], 500).sample}


FOLDERS: dict[str, Callable[[Any], tuple[File, File]]] = {
    "sd": stable,
    "sd-inpaint": inpainting,
    "controlnet": controlled,
    "sdxl": large,
    "sd3": third,
    "flux": flux,
    "dit": classes,
    "ldm-uncond": unconditional,
}


if __name__ == "__main__":
    main()
