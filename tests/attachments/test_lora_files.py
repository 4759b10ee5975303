"""LoRA files of other programs: real names, recordings, round trips, and what is refused."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from recorded import DATA, Recording, error, real_shapes
from safelight.adapters.lora import Merged
from safelight.attachments.lora_files import (
    ModuleNames,
    adaptable_parts,
    adapter_tensors,
    mappings_of,
    place_adapter,
    read_adapter,
    write_adapter,
)
from safelight.checkpoints import read
from safelight.config import kind_of
from safelight.denoisers.flux import config as flux_config
from safelight.denoisers.mmdit import config as mmdit_config
from safelight.errors import BadInput
from safelight.layouts.detection import all_layouts
from safelight.layouts.text_encoder import clip as transformers_clip
from safelight.layouts.unet import ldm as ldm_unet
from safelight.types.networks import Condition, Tokens

DEV = flux_config.Config()
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
    adapter = place_adapter(file, {"denoiser": mappings_of("denoiser", DEV)}, name)
    if "lokr" not in name:  # that list's shapes are not those of any FLUX: 32·32 rows for 3072
        adapter.check({"denoiser": meta(DEV)})
    assert sum(len(layer.tensors) for layer in adapter.layers) + len(adapter.left) == len(file)
    assert (len(adapter.layers), len(adapter.left)) == REAL[name]


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
    with pytest.raises(
        BadInput, match=f"belong to no layer of this model .*: they look like those of {family}"
    ):
        place_adapter(file, {"denoiser": mappings_of("denoiser", DEV)}, name)


CHANGEABLE = [one for one in all_layouts() if one.part in ("denoiser", "tower") and one.example]


@pytest.mark.parametrize("layout", CHANGEABLE, ids=lambda one: f"{one.name}-{kind_of(one.example)}")
def test_no_two_modules_have_the_same_name_with_underscores(layout):
    known = ModuleNames(mappings_of(layout.part, layout.example))
    assert all(len(paths) == 1 for paths in known.underscored.values())
    assert all(known.find(path.replace(".", "_")) == path for path in known.weights)


def every(values):
    return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))


def answer(model):
    inputs = Recording("flux-dev").inputs
    told = Condition(
        every(inputs["txt"]), vector=inputs["vec"], scalars={"guidance": torch.full((2,), 3.5)}
    )
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
    merged = Merged(adaptable_parts(model))
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
    merged = Merged(adaptable_parts(model))
    merged.use({adapter: 1.0})
    first = answer(model)
    merged.use({read_adapter(tmp_path / "again.safetensors", model): 1.0})
    assert torch.equal(answer(model), first)


def test_what_a_layout_does_not_know_is_refused(model):
    adapter = read_adapter(Recording("lora").file("flux-kohya.safetensors"), model)
    with pytest.raises(BadInput, match="unknown layout of adapters 'lycoris'"):
        adapter_tensors(adapter, "lycoris")
    (layer, *_) = adapter.layers
    odd = {
        f"{layer.module}.lokr_w1": torch.ones(2, 2),
        f"{layer.module}.lokr_w2": torch.ones(24, 24),
    }
    odd = place_adapter(odd, {"denoiser": mappings_of("denoiser", model.denoiser.config)}, "odd")
    with pytest.raises(BadInput, match=r"PEFT's layout has no lokr_w1, lokr_w2"):
        adapter_tensors(odd, "peft")
    assert len(adapter_tensors(odd, "kohya")) == 2


def test_files_that_are_no_adapter_are_refused(model, tmp_path):
    known = {"denoiser": mappings_of("denoiser", model.denoiser.config)}
    with pytest.raises(
        BadInput, match=r"lora_unet_no_such_block_attn1_to_q.* belong to no layer of this model"
    ):
        read_adapter(Recording("lora").file("sd1-unmatched.safetensors"), model)
    with pytest.raises(BadInput, match="belong to no layer"):
        place_adapter({"double_blocks.0.img_attn.qkv.weight": torch.zeros(144, 48)}, known, "it")
    save_file(
        {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(2, 48)},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(
        BadInput, match=r"double_blocks\.0\.img_attn\.qkv has only down; the file is not whole"
    ):
        read_adapter(tmp_path / "a.safetensors", model)
    with pytest.raises(BadInput, match="empty holds no adapter"):
        place_adapter({}, known, "empty")


def of_family(name, **hints):
    """A recorded model, whole, in float32."""
    recording = Recording(name)
    model = read(recording.file("model.safetensors"), hints)
    for part in adaptable_parts(model).values():
        part.float().requires_grad_(False)
    return model, recording


SD1 = [
    ("sd1-kohya", 1.0, "1.0", False),
    ("sd1-kohya", 0.6, "0.6", False),
    ("sd1-kohya", 1.0, "unet_only", True),
    ("sd1-peft", 1.0, "no_conv3x3", False),
    ("sd1-diffusers-old", 1.0, "no_conv3x3", False),
]


@pytest.mark.parametrize(("name", "scale", "case", "alone"), SD1)
@torch.no_grad()
def test_stable_diffusion_1_with_an_adapter_in_encoder_and_denoiser(name, scale, case, alone):
    model, base = of_family("sd1", heads=4, text_head_width=4)
    recording = Recording("lora")
    adapter = read_adapter(recording.file(f"{name}.safetensors"), model)
    if alone:
        adapter = replace(
            adapter, layers=tuple(one for one in adapter.layers if one.part == "denoiser")
        )
    Merged(adaptable_parts(model)).use({adapter: scale})
    text, _ = model.conditioner.encoders[0].states(base.inputs["ids"])
    assert error(text, recording.outputs[f"sd1.{case}.text"]) < 1e-4
    time = recording.inputs["sd1.timestep"].expand(len(text)).float()
    answer = model.denoiser(base.inputs["x"], time, Condition(every(text)))
    assert error(answer, recording.outputs[f"sd1.{case}.unet"]) < 1e-4


@pytest.mark.parametrize("scale", [1.0, 0.6])
@torch.no_grad()
def test_stable_diffusion_xl_with_an_adapter_in_encoders_and_denoiser(scale):
    model, base = of_family("sdxl", head_width=8, text_head_width=8)
    recording = Recording("lora")
    wanted = {
        what: recording.outputs[f"sdxl.{scale}.{what}"] for what in ("crossattn", "vector", "unet")
    }
    Merged(adaptable_parts(model)).use(
        {read_adapter(recording.file("sdxl-kohya.safetensors"), model): scale}
    )
    left, right = model.conditioner.encoders
    states, pooled = right.states(base.inputs["ids_g"])
    text = torch.cat([left.states(base.inputs["ids_l"])[0], states], dim=-1)
    assert error(text, wanted["crossattn"]) < 1e-4
    assert error(pooled, wanted["vector"][:, : pooled.shape[1]]) < 1e-4
    time = recording.inputs["sdxl.timestep"].expand(len(text)).float()
    answer = model.denoiser(base.inputs["x"], time, Condition(every(text), vector=wanted["vector"]))
    assert error(answer, wanted["unet"]) < 1e-4


REAL_SD1 = {  # how many layers of the denoiser and of the tower
    "lora.sd15_cloneofsimo_safeloras": (144, 48),
    "lora.sd15_diffusers_attnprocs_noprefix": (128, 0),
    "lora.sd15_diffusers_attnprocs_unetprefix": (128, 0),
    "lora.sd15_diffusers_unetprefix": (128, 0),
    "lora.sd15_kohya_like_double_prefix": (128, 0),
    "real.LoRA-v1-UNET": (192, 0),
    "real.LoRA-v1A-UNET": (192, 0),
    "real.LoRA-v1-CLIP": (0, 72),
    "real.LoRA-v1A-CLIP": (0, 72),
}


@pytest.fixture(scope="module")
def full_size():
    """Stable Diffusion 1's U-Net and tower, without values, and the tables of both."""
    unet, tower = real_shapes("real.UNET-v1-SD"), real_shapes("sd15.text_encoder.transformers")
    configs = {"denoiser": ldm_unet.LAYOUTS[0].config(unet, {})}
    (layout,) = [one for one in transformers_clip.LAYOUTS if one.recognises(tower)]
    configs["tower.0"] = layout.config(tower, {})
    known = {part: mappings_of(part.split(".")[0], config) for part, config in configs.items()}
    return {part: meta(config) for part, config in configs.items()}, known


@pytest.mark.parametrize("name", REAL_SD1)
def test_every_name_of_a_real_adapter_for_stable_diffusion_1_has_its_place(full_size, name):
    modules, known = full_size
    shapes = {
        key: [4 if one == -1 else one for one in shape] for key, shape in real_shapes(name).items()
    }
    file = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    adapter = place_adapter(file, known, name)
    adapter.check(modules)
    assert not adapter.left
    assert sum(len(layer.tensors) for layer in adapter.layers) + len(adapter.words) == len(file)
    counts = [
        sum(layer.part == part for layer in adapter.layers) for part in ("denoiser", "tower.0")
    ]
    assert tuple(counts) == REAL_SD1[name]


@pytest.mark.parametrize("name", ["cloneofsimo_lora_disney", "diffusers_weapons_rank4"])
def test_a_real_file_has_its_place(full_size, name):
    file = DATA / "sd-artifacts" / "lora" / f"{name}.safetensors"
    if not file.exists():
        pytest.skip("the real files are not here")
    modules, known = full_size
    adapter = place_adapter(load_file(file), known, name)
    adapter.check(modules)
    assert sorted(adapter.words) == (["<s1>", "<s2>"] if "disney" in name else [])


MEDIUM = mmdit_config.Config(16, 2, 64, 2, 1, text_width=8, vector_width=5, side=4, qk_norm=False)


@pytest.mark.parametrize(
    "prefix", ["lora_unet_", "lora_transformer_", "transformer.", "diffusion_model.", ""]
)
@pytest.mark.parametrize(
    "table", mappings_of("denoiser", MEDIUM), ids=lambda one: one.rules[0].theirs[0]
)
def test_loras_for_stable_diffusion_3_are_read_in_every_naming(table, prefix):
    """Kohya's with underscores, PEFT's and ComfyUI's with dots; original and diffusers' modules."""
    network = MEDIUM.build()
    weights = {
        name: one for name, one in table.to_theirs(network.state_dict()) if name.endswith(".weight")
    }
    file = {}
    for name, one in weights.items():
        path = name.removesuffix(".weight")
        path = path.replace(".", "_") if prefix.endswith("_") else path
        low = ("lora_down", "lora_up") if prefix.endswith("_") else ("lora_A", "lora_B")
        inner = (1, 1) if one.dim() == 4 else ()
        file[f"{prefix}{path}.{low[0]}.weight"] = torch.randn(2, *one.shape[1:])
        file[f"{prefix}{path}.{low[1]}.weight"] = torch.randn(len(one), 2, *inner)
    adapter = place_adapter(file, {"denoiser": mappings_of("denoiser", MEDIUM)}, "it")
    assert {
        layer.weight.place.theirs[layer.weight.number] for layer in adapter.layers
    } == weights.keys()
    Merged({"denoiser": network}).use({adapter: 1.0})
