"""Identifying adapters and embeddings by their header: family and method."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from recorded import DATA, Recording, real_shapes
from safelight.attachments.identify import identify
from safelight.inspection import inspect, show
from safelight.weights.files import Weights
from safelight.weights.stored import LazyTensor, WeightFile

REAL = {
    "lora.flux_lora_kohya_with_te1": ("FLUX", "LoRA", 304, 72),
    "lora.flux_lora_diffusers": ("FLUX", "LoRA", 494, 0),
    "lora.flux_lora_aitoolkit": ("FLUX", "LoRA", 228, 0),
    "lora.flux_lora_xlabs": ("FLUX", "LoRA", 12, 0),
    "lora.flux_lokr_bfl": ("FLUX", "LoKr", 6, 0),
    "lora.flux_dora_onetrainer": ("FLUX", "DoRA and LoRA", 266, 240),
    "lora.qwen_image_lora_kohya": ("Qwen-Image", "LoKr", 8, 0),
    "lora.anima_lora_lokr": ("Anima", "DoRA and LoKr", 3, 0),
    "lora.krea2_lora_kohya": ("Krea 2", "LoRA", 40, 0),
    "lora.sd15_cloneofsimo_safeloras": ("Stable Diffusion 1 or 2", "LoRA", 144, 48),
    "lora.sd15_kohya_like_double_prefix": ("Stable Diffusion 1", "LoRA", 128, 0),
    "real.LoRA-v1-UNET": ("Stable Diffusion 1", "LoRA", 192, 0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_adapters_are_identified_by_their_headers(name):
    source = WeightFile(Path("/nowhere"), 0, 0)  # which no reading could survive
    shapes = {
        key: tuple(4 if side < 0 else side for side in shape)
        for key, shape in real_shapes(name).items()
    }
    found = identify(
        Weights({key: LazyTensor(source, 0, shape, "F16") for key, shape in shapes.items()}), name
    )
    layers = tuple(found["layers"].values())
    assert (found["what"], found["for"], found["kind"], *layers) == ("adapter", *REAL[name])
    assert found["precision"] == "F16"


def test_an_adapter_is_shown(tmp_path, capsys):
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    made = {
        f"{name}.lora_down.weight": torch.ones(3, 2048),
        f"{name}.lora_up.weight": torch.ones(640, 3),
    }
    made |= {f"{name}.alpha": torch.tensor(1.0), "<fox>": torch.ones(1, 768)}
    save_file(made, tmp_path / "a.safetensors", metadata={"modelspec.license": "CC0-1.0"})
    show(inspect(str(tmp_path / "a.safetensors")), Console(width=200, no_color=True))
    text = capsys.readouterr().out
    for said in (
        "for: Stable Diffusion XL",
        "kind: LoRA",
        "rank: 3",
        "denoiser 1",
        "embeddings: <fox>",
        "CC0-1.0",
    ):
        assert said in text


def test_embeddings_are_identified(tmp_path, capsys):
    save_file({"emb_params": torch.ones(5, 768)}, tmp_path / "fox.safetensors")
    save_file(
        {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, tmp_path / "two.safetensors"
    )
    found = inspect(str(tmp_path / "fox.safetensors"))
    assert found == {
        "what": "embeddings",
        "for": "Stable Diffusion 1",
        "widths": [768],
        "vectors": {"fox": 5},
    }
    assert inspect(str(tmp_path / "two.safetensors"))["widths"] == [768, 1280]
    show(found, Console(width=200))
    assert "vectors: fox 5" in capsys.readouterr().out


def test_models_are_neither(tmp_path):
    assert inspect(str(Recording("diffusers-folders").file("sd/unet")))["what"] == "model"
    save_file({"x.y": torch.ones(2, 2)}, tmp_path / "x.safetensors")
    assert identify(Weights({}), "nothing") is None


@pytest.mark.skipif(not DATA.is_dir(), reason="the real files are not here")
def test_real_files_are_identified():
    found = inspect(str(DATA / "sd-artifacts" / "lora" / "cloneofsimo_lora_disney.safetensors"))
    assert (found["rank"], found["embeddings"]) == (1, ["<s1>", "<s2>"])
    found = inspect(str(DATA / "sd-artifacts" / "embeddings" / "birb-style_learned_embeds.bin"))
    assert found["vectors"] == {"<birb-style>": 1}
