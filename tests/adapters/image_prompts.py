"""A small U-Net and image prompts of every kind for it, with random weights."""

import torch
from safetensors.torch import save_file

from safelight.denoisers.unet.config import Config, Level, Norm
from safelight.layouts.text_families import joined
from safelight.model import LatentDiffusion
from safelight.nn.clip_vision import Config as EyeConfig
from safelight.nn.text_models import clip

SHAPE = Config(
    levels=(Level(32, 1, 4), Level(64, 2, 8)), blocks=1, middle=2, text_width=24, norm=Norm(8)
)
WIDTHS = (32, *[64] * 2, *[64] * 4, *[32] * 2, *[64] * 2)  # in the files' order: down, up, middle
EYE = EyeConfig(width=32, depth=3, heads=2, hidden=48, patch=14, size=28, projection=10)
KINDS = ("single", "plus", "full", "face", "face-plus")
READS = {"single": ("vector",), "plus": ("states",), "full": ("states",), "face": ("face",)}
READS["face-plus"] = ("states", "face")
SIZES = {"vector": (10,), "states": (5, 32), "face": (12,)}


def small_model():
    torch.manual_seed(0)
    network = SHAPE.build().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tower = clip.Config(width=24, depth=1, heads=2, hidden=16)
    return LatentDiffusion(denoiser=network, conditioner=joined("sd1", [tower]).build().eval())


def projection(kind, text=24, inner=24):
    """Names and tensors of ``image_proj``."""
    linear = {
        "single": {"proj": (4 * text, 10)},
        "full": {"proj.0": (32, 32), "proj.2": (text, 32)},
        "face": {"proj.0": (24, 12), "proj.2": (4 * text, 24)},
        "plus": {"proj_in": (inner, 32), "proj_out": (text, inner)},
        "face-plus": {"proj.0": (24, 12), "proj.2": (4 * inner, 24)},
    }[kind]
    norms = {
        "single": ["norm"],
        "full": ["proj.3"],
        "face": ["norm"],
        "plus": ["norm_out"],
        "face-plus": ["norm"],
    }
    inside = "perceiver_resampler." if kind == "face-plus" else ""
    if inside:
        linear |= {f"{inside}proj_in": (inner, 32), f"{inside}proj_out": (text, inner)}
        norms["face-plus"].append(f"{inside}norm_out")
    made = {
        f"{name}.weight": torch.randn(shape) / shape[1] ** 0.5 for name, shape in linear.items()
    }
    made |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in linear.items()}
    if "plus" in kind:
        made |= {} if inside else {"latents": torch.randn(1, 6, inner)}
        for i in range(4):
            shapes = {"0.to_q": (128, inner), "0.to_kv": (256, inner), "0.to_out": (inner, 128)}
            shapes |= {"1.1": (4 * inner, inner), "1.3": (inner, 4 * inner)}
            for name, shape in shapes.items():
                made[f"{inside}layers.{i}.{name}.weight"] = torch.randn(shape) / shape[1] ** 0.5
            norms[kind] += [f"{inside}layers.{i}.{name}" for name in ("0.norm1", "0.norm2", "1.0")]
    widths = {"norm_out": text, f"{inside}norm_out": text}
    for name in norms[kind]:
        width = widths.get(name, inner if "plus" in kind else text)
        made |= {f"{name}.weight": torch.rand(width) + 0.5, f"{name}.bias": torch.randn(width)}
    return made


def adapter_file(kind, folder, lora=False, widths=WIDTHS, text=24):
    """The file of an image prompt for a U-Net whose attentions have these widths."""
    weights = {f"image_proj.{name}": one for name, one in projection(kind, text).items()}
    for number, width in enumerate(widths):
        weights |= {
            f"ip_adapter.{2 * number + 1}.to_{one}_ip.weight": torch.randn(width, text) / 5
            for one in "kv"
        }
        for which in range(2) if lora else ():
            taken = {"q": width, "k": (width, text)[which], "v": (width, text)[which], "out": width}
            for name, before in taken.items():
                at = f"ip_adapter.{2 * number + which}.to_{name}_lora"
                weights |= {
                    f"{at}.down.weight": torch.randn(3, before) / 9,
                    f"{at}.up.weight": torch.randn(width, 3),
                }
    path = folder / f"ip-adapter-{kind}.safetensors"
    save_file(weights, path)
    return path


def given(kind, row=0):
    """What a prompt gives to such an adapter, made before of its picture."""
    names = {"vector": "image_vector", "states": "image_states", "face": "face_vector"}
    draw = torch.Generator().manual_seed(row)
    return {names[one]: torch.randn(SIZES[one], generator=draw) for one in READS[kind]}


def eye_file(folder, config=EYE, name="eye.safetensors"):
    """An image encoder with random weights, in the names of transformers."""
    from safelight.layouts.clip_vision.transformers import LAYOUTS

    torch.manual_seed(1)
    image_encoder = config.build()
    save_file(
        {
            name: one.contiguous()
            for name, one in LAYOUTS[0].table(config).to_theirs(image_encoder.state_dict())
        },
        folder / name,
    )
    return folder / name
