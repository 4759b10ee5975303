"""Pictures that other programs made: what they wrote about it, under our names."""

import gzip
import json
import time

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from recorded import DATA
from safelight.errors import BadInput
from safelight.inspection import inspect
from safelight.media import comfyui
from safelight.media.foreign_metadata import read_foreign
from safelight.settings import SAMPLER, Settings

PICTURES = DATA / "sd-artifacts" / "png"
INFOTEXT = (
    "a fox <lora:ink:0.8>, (red:1.2)\nin snow\nNegative prompt: blurry,\nlow quality\n"
    "Steps: 25, Sampler: DPM++ 2M SDE Karras, CFG scale: 6.5, Seed: 7, Size: 640x512, "
    'Model: tiny, Note: "a, \\"b\\": c"'
)


def saved(path, info=(), picture=None, **options):
    chunks = PngInfo()
    for name, text in dict(info).items():
        chunks.add_itxt(name, text)
    (picture or Image.new("RGB", (1, 1))).save(
        path, **({"pnginfo": chunks} if path.suffix == ".png" else {}), **options
    )
    return path


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


GRAPH = {
    "1": node("CheckpointLoaderSimple", ckpt_name="base.safetensors"),
    "2": node(
        "LoraLoader", lora_name="ink.safetensors", strength_model=0.5, model=["1", 0], clip=["1", 1]
    ),
    "3": node("CLIPTextEncode", text="a fox", clip=["2", 1]),
    "4": node("CLIPTextEncode", text="blurry", clip=["2", 1]),
    "5": node("EmptyLatentImage", width=640, height=512, batch_size=1),
    "6": node(
        "ControlNetApplyAdvanced", positive=["3", 0], negative=["4", 0], control_net=["9", 0]
    ),
    "8": node(
        "KSampler",
        seed=7,
        steps=25,
        cfg=6.5,
        sampler_name="dpmpp_2m_sde_gpu",
        scheduler="karras",
        model=["2", 0],
        positive=["6", 0],
        negative=["6", 1],
        latent_image=["5", 0],
    ),
    "10": node(
        "KSampler", seed=9, steps=3, positive=["4", 0], negative=["4", 0], latent_image=["8", 0]
    ),
}
FOOOCUS = {
    "prompt": "a fox",
    "negative_prompt": "blurry",
    "seed": "7",
    "steps": 25,
    "guidance_scale": 6.5,
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "resolution": "(640, 512)",
    "base_model": "tiny",
    "loras": [["ink", 0.8, "0123"]],
}
INVOKE = {
    "positive_prompt": "a fox",
    "negative_prompt": "blurry",
    "seed": 7,
    "steps": 25,
    "cfg_scale": 6.5,
    "scheduler": "dpmpp_2m_sde_k",
    "width": 640,
    "height": 512,
    "model": {"model_name": "tiny"},
}
NOVEL = {
    "steps": 25,
    "sampler": "k_dpmpp_2m_sde",
    "seed": 7,
    "scale": 6.5,
    "uc": "blurry",
    "width": 640,
    "height": 512,
}
WHOLE = {"steps": 25, "seed": 7, "guidance": 6.5, "sampler": "dpmpp2m-sde", "spacing": "karras"}


@pytest.mark.parametrize(
    ("by", "chunks"),
    [
        ("a web UI", {"parameters": INFOTEXT}),
        ("ComfyUI", {"prompt": json.dumps(GRAPH), "workflow": "{}"}),
        ("Fooocus", {"parameters": json.dumps(FOOOCUS)}),
        ("InvokeAI", {"invokeai_metadata": json.dumps(INVOKE)}),
        ("NovelAI", {"Software": "NovelAI", "Description": "a fox", "Comment": json.dumps(NOVEL)}),
    ],
)
def test_each_program_is_read_under_our_names(tmp_path, by, chunks):
    metadata = inspect(str(saved(tmp_path / "a.png", chunks)))["metadata"]
    assert metadata["by"] == by
    assert metadata["prompt"].startswith("a fox")
    assert metadata["negative"].startswith("blurry")
    assert "a fox" not in metadata["negative"]
    assert metadata["settings"] == (
        WHOLE if by != "NovelAI" else {k: v for k, v in WHOLE.items() if k != "spacing"}
    )
    assert metadata["size"] == "640x512"
    Settings(**metadata["settings"])


def test_a_web_ui_names_loras_models_and_facts_without_a_key_of_ours(tmp_path):
    metadata = read_foreign(saved(tmp_path / "a.png", {"parameters": INFOTEXT}))
    assert metadata["adapters"] == {"ink": 0.8}
    assert metadata["model"] == "tiny"
    assert metadata["rest"] == {"note": 'a, "b": c'}
    assert metadata["prompt"] == "a fox <lora:ink:0.8>, (red:1.2)\nin snow"
    assert metadata["negative"] == "blurry,\nlow quality"


def test_a_graph_is_read_from_its_first_sampler(tmp_path):
    metadata = read_foreign(saved(tmp_path / "a.png", {"prompt": json.dumps(GRAPH)}))
    assert metadata["model"] == "base.safetensors"
    assert metadata["adapters"] == {"ink.safetensors": 0.5}
    assert metadata["rest"] == {"passes": 2}


@pytest.mark.parametrize("order", ["be", "le"])
def test_exif_is_read_in_either_byte_order(tmp_path, order):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + INFOTEXT.encode(f"utf-16-{order}")
    assert read_foreign(saved(tmp_path / "a.jpg", exif=exif))["settings"] == WHOLE


@pytest.mark.parametrize(
    ("mark", "pack"), [(b"stealth_pnginfo", bytes), (b"stealth_pngcomp", gzip.compress)]
)
def test_text_hidden_in_alpha_is_read(tmp_path, mark, pack):
    data = pack(INFOTEXT.encode())
    bits = np.unpackbits(
        np.frombuffer(mark + (8 * len(data)).to_bytes(4, "big") + data, dtype=np.uint8)
    )
    pixels = np.full((64, 64, 4), 254, dtype=np.uint8)
    pixels[..., 3].T.flat[: len(bits)] |= bits
    assert (
        read_foreign(saved(tmp_path / "a.png", picture=Image.fromarray(pixels)))["settings"]
        == WHOLE
    )


@pytest.mark.parametrize(
    "chunks",
    [
        {},
        {"parameters": "no steps"},
        {"parameters": "["},
        {"prompt": "{}"},
        {"prompt": "[" * 100_000},
        {"prompt": json.dumps({"1": {"inputs": {"seed": 1}}, "2": 3, "4": {"inputs": []}})},
        {"invokeai_metadata": "null"},
    ],
)
def test_a_picture_without_metadata_is_refused(tmp_path, chunks):
    with pytest.raises(BadInput, match="does not say how it was made"):
        inspect(str(saved(tmp_path / "a.png", chunks)))


def test_loops_and_nonsense_in_a_graph_are_followed_once():
    graph = {
        "1": node(
            "KSampler",
            seed=None,
            steps=[],
            latent_image=["1", 0],
            positive=["2", 0],
            model=["gone", 0],
        ),
        "2": node("CLIPTextEncode", text=["2", 0], conditioning=["1", 0]),
    }
    facts, loras = comfyui.facts(graph)
    assert facts["positive_prompt"] == ""
    assert facts["seed"] is facts["model"] is None
    assert loras == {}


def test_hostile_texts_take_no_time(tmp_path):
    begun = time.process_time()
    for text in (
        " " * 900_000,
        "a" * 900_000,
        "a:" * 400_000,
        'a:"' * 300_000,
        "<lora:" * 150_000,
        "\nSteps: 1" * 90_000,
    ):
        read_foreign(saved(tmp_path / "a.png", {"parameters": f"{text}\nSteps: 1, {text}"}))
    many = {str(i): node("KSampler", seed=1, latent_image=[str(i - 1), 0]) for i in range(20_000)}
    assert comfyui.facts(many) is None
    assert time.process_time() - begun < 3


REAL = {
    "a1111_duck_1x1.png": ("photo of a duck", 15, "unipc:variant=bh1", 5, 235284042, "512x400"),
    "a1111_exif_1x1.jpg": ("photo of a duck", 15, "unipc:variant=bh1", 5, 235284042, "512x400"),
    "a1111_stealth_64x64.png": ("a circle", 20, "euler", 7, 2015833630, "64x64"),
    "fooocus_1x1.png": (
        "a smiling goldfish",
        30,
        "dpmpp2m-sde",
        4,
        6952411511246973023,
        "768x1280",
    ),
    "invokeai_metadata_1x1.png": ("digital artwork", 35, "euler", 8, 3293022630, "1024x1024"),
    "novelai_1x1.png": ("masterpiece", 50, "euler-ancestral", 10, 2253955223, None),
    "comfyui_flux_dev_example_thumb.png": (
        "cute anime girl",
        20,
        "euler",
        3.5,
        219670278747233,
        "1024x1024",
    ),
    "comfyui_sdxlturbo_example_thumb.png": (
        "beautiful landscape",
        1,
        "euler-ancestral",
        1,
        0,
        "512x512",
    ),
    "comfyui_hidream_e1_example_thumb.png": (
        "snow at sunset",
        20,
        "euler",
        5,
        850933585641497,
        "768x768",
    ),
    "comfyui_lora_original.png": ("masterpiece best", 20, "euler", 8, 851616030078638, "512x512"),
}


@pytest.mark.skipif(not PICTURES.is_dir(), reason="the real pictures are not here")
@pytest.mark.parametrize("name", REAL)
def test_real_pictures_are_read(name):
    prompt, *numbers, size = REAL[name]
    metadata = read_foreign(PICTURES / name)
    assert metadata["prompt"].startswith(prompt)
    assert [
        metadata["settings"][key] for key in ("steps", "sampler", "guidance", "seed")
    ] == numbers
    assert metadata.get("size") == size


@pytest.mark.skipif(not PICTURES.is_dir(), reason="the real pictures are not here")
def test_every_real_picture_is_read(tmp_path):
    for path in PICTURES.iterdir():
        settings = read_foreign(path)["settings"]
        assert {"steps", "sampler", "seed"} <= settings.keys(), path
        SAMPLER.read(settings["sampler"])
    for line in (PICTURES.parent / "a1111_infotexts.jsonl").read_text().splitlines():
        metadata = read_foreign(
            saved(tmp_path / "a.png", {"parameters": json.loads(line)["parameters"]})
        )
        assert {"steps", "sampler", "guidance", "seed"} <= metadata["settings"].keys()
        SAMPLER.read(metadata["settings"]["sampler"])
