"""The KL autoencoder against the implementation that it comes from, where its recordings are at hand."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from safelight.autoencoders.kl import KL, Config
from safelight.checkpoints.native import load_strictly
from safelight.errors import BadInput
from safelight.types import Encoding

FOLDER = Path(__file__).parents[3] / "shared" / "goldens" / "ldm-kl"
recorded = pytest.mark.skipif(not FOLDER.exists(), reason="the recordings are not here")

NAMES = {  # theirs, as a pattern → ours; blocks and halves of levels are numbered in ``place``
    r"(en|de)coder\.conv_in": r"\1coder.enter",
    r"(en|de)coder\.conv_out": r"\1coder.leave",
    r"(en|de)coder\.norm_out": r"\1coder.norm",
    r"(en|de)coder\.mid\.block_1\.(\w+)": r"\1coder.middle.0.\2",
    r"(en|de)coder\.mid\.block_2\.(\w+)": r"\1coder.middle.2.\2",
    r"(en|de)coder\.mid\.attn_1\.(norm|qkv)": r"\1coder.middle.1.\2",
    r"(en|de)coder\.mid\.attn_1\.proj_out": r"\1coder.middle.1.out",
    r"(en|de)coder\.(down|up)\.(\d)\.block\.(\d)\.(\w+)": r"\1coder.levels.\2.\3.\4.\5",
    r"(en|de)coder\.(down|up)\.(\d)\.(?:down|up)sample\.conv": r"\1coder.levels.\2.\3.last.conv",
    r"(post_)?quant_conv": r"\1quant",
}


def place(name: str, config: Config) -> str:
    """``levels.down.i.j`` and ``levels.up.i.j`` as the index in our sequence; theirs counts up's levels backwards."""
    found = re.search(r"levels\.(down|up)\.(\d)\.(\d|last)", name)
    if not found:
        return name
    way, level, block = found.groups()
    blocks = config.blocks + (way == "up")
    number = int(level) if way == "down" else len(config.multipliers) - 1 - int(level)
    index = number * (blocks + 1) + (blocks if block == "last" else int(block))
    return name.replace(found.group(), f"levels.{index}")


def renamed(theirs: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Their weights under our names, queries, keys and values in one."""
    theirs = dict(theirs)
    for half in ("encoder", "decoder"):
        for kind in ("weight", "bias"):
            parts = [theirs.pop(f"{half}.mid.attn_1.{one}.{kind}") for one in "qkv"]
            theirs[f"{half}.mid.attn_1.qkv.{kind}"] = torch.cat(parts)
    ours = {}
    for name, value in theirs.items():
        stem, _, kind = name.replace("nin_shortcut", "skip").rpartition(".")
        pattern = next(one for one in NAMES if re.fullmatch(one, stem))
        ours[f"{place(re.sub(pattern, NAMES[pattern], stem), config)}.{kind}"] = value.float()
    return ours


@pytest.fixture(scope="module")
def tensors():
    return load_file(FOLDER / "inputs.safetensors"), load_file(FOLDER / "outputs.safetensors")


@pytest.fixture(scope="module", params=["f8", "f4"])
def case(request) -> tuple[str, KL]:
    given = json.loads((FOLDER / "golden.json").read_text())["config"][request.param]
    shape = given["ddconfig"]
    config = Config(
        width=shape["ch"],
        multipliers=tuple(shape["ch_mult"]),
        blocks=shape["num_res_blocks"],
        latent_channels=given["embed_dim"],
    )
    autoencoder = config.build()
    if request.param == "f8":
        weights = load_file(FOLDER / "f8.safetensors")
    else:
        weights = torch.load(FOLDER / "f4.ckpt", weights_only=True)["state_dict"]
    weights = {name: value for name, value in weights.items() if not name.startswith("loss.")}
    scale = {name: value for name, value in autoencoder.state_dict().items() if name.startswith("scale.")}
    load_strictly(autoencoder, scale | renamed(weights, config), request.param)
    return request.param, autoencoder


def near(got: Tensor, want: Tensor) -> bool:
    """Within 1e-4 of the largest value."""
    error = (got - want).abs().max() / want.abs().max()
    print(f"error {error:.2e}")
    return got.shape == want.shape and bool(error < 1e-4)


@recorded
@torch.no_grad()
def test_the_encoding_is_theirs(case, tensors):
    name, autoencoder = case
    inputs, outputs = tensors
    encoding = autoencoder.encode(inputs[f"{name}.image"])
    moments = torch.cat([encoding.mean, 2 * encoding.deviation.log()], dim=1)
    assert near(moments, outputs[f"{name}.moments"])
    assert near(encoding.mode(), outputs[f"{name}.mean"])
    assert near(encoding.deviation, outputs[f"{name}.std"])
    assert near(encoding.sample(inputs[f"{name}.eps"]), outputs[f"{name}.sample"])


@recorded
@torch.no_grad()
def test_the_decoded_images_are_theirs(case, tensors):
    name, autoencoder = case
    _, outputs = tensors
    assert near(autoencoder.decode(outputs[f"{name}.mean"]), outputs[f"{name}.decode_mode"])
    assert near(autoencoder.decode(outputs[f"{name}.sample"]), outputs[f"{name}.decode_sample"])


def test_a_width_that_the_groups_do_not_divide_is_refused():
    with pytest.raises(BadInput, match="kl: every level's width wants to be a multiple of groups = 32, got width 48"):
        Config(width=48)
    with pytest.raises(BadInput, match="at least 1"):
        Config(multipliers=())


def test_a_size_that_does_not_fit_is_told_the_nearest():
    autoencoder = Config(width=8, groups=4).build()
    with pytest.raises(BadInput, match="multiples of 8, got 101×3; the nearest is 104×8"):
        autoencoder.latent_shape((1, 3, 3, 101))


def test_the_convolutions_beside_the_latents_can_be_left_out():
    names = Config(width=8, groups=4, quant=False).build().state_dict()
    assert not [name for name in names if "quant" in name]
    assert [name for name in Config(width=8, groups=4).build().state_dict() if "quant" in name]


def test_its_cost_is_the_divergence_from_the_standard_normal():
    autoencoder = Config(width=8, multipliers=(1, 2), blocks=1, groups=4).build()
    mean, deviation = torch.full((2, 4, 3, 3), 0.5), torch.full((2, 4, 3, 3), 2.0)
    mean[1], deviation[1] = 0, 1
    (kl,) = autoencoder.costs(Encoding(mean, deviation)).values()
    want = torch.distributions.kl_divergence(torch.distributions.Normal(0.5, 2.0), torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl, torch.stack([want, torch.zeros(())]))
