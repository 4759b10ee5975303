"""Adapters as others wrote them: real lists of names, recordings, there and back, and what is refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from recorded import Recording, error, real_shapes
from safelight.adapters.lora import Merged
from safelight.checkpoints import read
from safelight.checkpoints.adapter_files import Modules, parts, place, read_adapter, tables_of, write_adapter, written
from safelight.denoisers import flux
from safelight.errors import BadInput
from safelight.types import Condition, Tokens

DEV = flux.Config()
REAL = {  # how many layers, and how many names for towers
    "lora.flux_lora_kohya": (304, 0),
    "lora.flux_lora_kohya_with_te1": (304, 216),
    "lora.flux_lora_diffusers": (494, 0),
    "lora.flux_lora_diffusers_base_model": (381, 0),
    "lora.flux_lora_diffusers_no_proj_mlp": (342, 0),
    "lora.flux_lora_aitoolkit": (228, 0),
    "lora.flux_lora_xlabs": (12, 0),
    "lora.flux_lokr_bfl": (6, 0),
    "lora.flux_dora_onetrainer": (266, 960),
    "lora.flux_control_lora": (466, 0),
}


def meta(config):
    with torch.device("meta"):
        return config.build()


@pytest.mark.parametrize("name", REAL)
def test_every_name_of_a_real_adapter_for_flux_has_its_place(name):
    shapes = real_shapes(name)
    file = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    config = flux.Config(extra_channels=16) if "control" in name else DEV
    adapter = place(file, {"denoiser": tables_of("denoiser", config)}, name)
    if "lokr" not in name:  # that list's shapes are not those of any FLUX: 32·32 rows for 3072
        adapter.check({"denoiser": meta(config)})
    assert sum(len(layer.tensors) for layer in adapter.layers) + len(adapter.left) == len(file)
    assert (len(adapter.layers), len(adapter.left)) == REAL[name]


def test_an_adapter_that_widens_its_model_is_refused_by_the_narrow_one():
    file = {key: torch.empty(shape, device="meta") for key, shape in real_shapes("lora.flux_control_lora").items()}
    adapter = place(file, {"denoiser": tables_of("denoiser", DEV)}, "control.safetensors")
    with pytest.raises(BadInput, match=r"img_in has down \(128, 128\) and .* a weight of shape \(3072, 64\)"):
        adapter.check({"denoiser": meta(DEV)})


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("lora.anima_lora_kohya", "Anima"),
        ("lora.anima_lora_kohya_with_te", "Anima"),
        ("lora.anima_lora_lokr", "Anima"),
        ("lora.anima_lora_peft", "Anima"),
        ("lora.krea2_lora_kohya", "Krea 2"),
        ("lora.qwen_image_lora_kohya", "Qwen-Image"),
        ("lora.sd15_diffusers_unetprefix", "Stable Diffusion 1, 2 or XL"),
        ("real.LoRA-v1-UNET", "Stable Diffusion 1, 2 or XL"),
    ],
)
def test_an_adapter_for_another_family_is_refused_by_its_name(name, family):
    shapes = {key: [abs(one) for one in shape] for key, shape in real_shapes(name).items()}
    file = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with pytest.raises(BadInput, match=f"belong to no layer of this model .*: they look like those of {family}"):
        place(file, {"denoiser": tables_of("denoiser", DEV)}, name)


@pytest.mark.parametrize("config", [DEV, flux.Config(axes=(32, 32, 32, 32), vector_width=0, generation=2)])
def test_no_two_modules_have_the_same_name_with_underscores(config):
    known = Modules(tables_of("denoiser", config))
    assert all(len(paths) == 1 for paths in known.underscored.values())
    assert all(known.find(path.replace(".", "_")) == path for path in known.weights)


def answer(model):
    inputs = Recording("flux-dev").inputs
    tokens = Tokens(inputs["txt"], torch.ones(inputs["txt"].shape[:2], dtype=torch.bool))
    told = Condition(tokens, vector=inputs["vec"], scalars={"guidance": torch.full((2,), 3.5)})
    return model.denoiser(inputs["latent"], torch.full((2,), 500.0), told)


@pytest.fixture
def model():
    """FLUX.1 dev, small, in float32."""
    model = read(Recording("flux-dev").file("flux1-dev.safetensors"))
    model.denoiser.float().requires_grad_(False)
    return model


@pytest.mark.parametrize(("name", "bound"), [("flux-kohya", 1e-4), ("flux-peft", 2e-3)])
def test_a_merged_adapter_gives_what_it_gave(model, name, bound):
    recording = Recording("lora")
    before = {key: one.clone() for key, one in model.denoiser.state_dict().items()}
    adapter = read_adapter(recording.file(f"{name}.safetensors"), model)
    merged = Merged(parts(model))
    for scale in (1.0, 0.6):
        merged.use({adapter: scale})
        assert error(answer(model), recording.outputs[f"flux.{scale}.velocity"]) < bound
    merged.clear()
    assert all(torch.equal(before[key], one) for key, one in model.denoiser.state_dict().items())


@pytest.mark.parametrize("name", ["flux-kohya", "flux-peft"])
def test_a_file_comes_back_to_the_bit(model, name, tmp_path):
    path = Recording("lora").file(f"{name}.safetensors")
    adapter = read_adapter(path, model)
    write_adapter(adapter, tmp_path / "again.safetensors", name.removeprefix("flux-"))
    file, again = load_file(path), load_file(tmp_path / "again.safetensors")
    assert file.keys() == again.keys()
    assert all(torch.equal(file[key], again[key]) for key in file)


@pytest.mark.parametrize("layout", ["kohya", "peft"])
def test_an_adapter_written_either_way_changes_the_same(model, layout, tmp_path):
    """The recorded alphas over ranks are powers of two, so that folding them rounds nothing."""
    adapter = read_adapter(Recording("lora").file("flux-kohya.safetensors"), model)
    write_adapter(adapter, tmp_path / "again.safetensors", layout)
    merged = Merged(parts(model))
    merged.use({adapter: 1.0})
    first = answer(model)
    merged.use({read_adapter(tmp_path / "again.safetensors", model): 1.0})
    assert torch.equal(answer(model), first)


def test_what_a_layout_does_not_know_is_refused(model):
    adapter = read_adapter(Recording("lora").file("flux-kohya.safetensors"), model)
    with pytest.raises(BadInput, match="unknown layout of adapters 'lycoris'"):
        written(adapter, "lycoris")
    (layer, *_) = adapter.layers
    odd = {f"{layer.module}.lokr_w1": torch.ones(2, 2), f"{layer.module}.lokr_w2": torch.ones(24, 24)}
    odd = place(odd, {"denoiser": tables_of("denoiser", model.denoiser.config)}, "odd")
    with pytest.raises(BadInput, match=r"PEFT's layout has no lokr_w1, lokr_w2"):
        written(odd, "peft")
    assert len(written(odd, "kohya")) == 2


def test_files_that_are_no_adapter_are_refused(model, tmp_path):
    known = {"denoiser": tables_of("denoiser", model.denoiser.config)}
    with pytest.raises(BadInput, match=r"lora_unet_no_such_block_attn1_to_q.* belong to no layer of this model"):
        read_adapter(Recording("lora").file("sd1-unmatched.safetensors"), model)
    with pytest.raises(BadInput, match="belong to no layer"):
        place({"double_blocks.0.img_attn.qkv.weight": torch.zeros(144, 48)}, known, "it")
    save_file(
        {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(2, 48)}, tmp_path / "a.safetensors"
    )
    with pytest.raises(BadInput, match=r"double_blocks\.0\.img_attn\.qkv has only down; the file is not whole"):
        read_adapter(tmp_path / "a.safetensors", model)
    with pytest.raises(BadInput, match="empty holds no adapter"):
        place({}, known, "empty")
