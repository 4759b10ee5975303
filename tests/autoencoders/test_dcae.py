"""The deep compression autoencoder against the peer library's, with the same weights."""

import re

import pytest
import torch
from ldm_layout import is_close

from safelight.autoencoders.dcae.config import Config
from safelight.autoencoders.dcae.network import DCAE, averaged, repeated
from safelight.errors import BadInput

LEVEL = r"(en|de)coder\.(?:down|up)_blocks\.(\d)\.(\d+)\."
NAMES = {  # theirs, as a pattern → ours
    r"(en|de)coder\.conv_(in|out)(\.conv)?": r"\1coder.\2\3",
    LEVEL + r"conv": r"\1coder.levels.\2.\3.conv",
    LEVEL + r"(conv1|conv2|norm)": r"\1coder.levels.\2.\3.\4",
    LEVEL + r"attn\.(\w+)": r"\1coder.levels.\2.\3.attention.\4",
    LEVEL + r"attn\.to_qkv_multiscale\.(\d)\.proj_(in|out)": (
        r"\1coder.levels.\2.\3.attention.scales.\4.\5"
    ),
    LEVEL + r"conv_out\.(\w+)": r"\1coder.levels.\2.\3.mlp.\4",
    r"decoder\.norm_out": "decoder.norm",
}
WORDS = {
    "coder.in": "coder.enter",
    "coder.out": "coder.leave",
    "to_out": "out",
    "norm_out": "norm",
    "conv_inverted": "enter",
    "conv_depth": "depthwise",
    "conv_point": "leave",
    "running_mean": "mean",
    "running_var": "variance",
}
SMALL = {
    "widths": (32, 64, 64, 128),
    "encoder_blocks": (1, 2, 1, 2),
    "decoder_blocks": (2, 1, 2, 1),
    "attend_from": 2,
    "latent_channels": 16,
}
CASES = {
    "published": {
        "encoder_blocks": (0, 2, 1, 2),
        "decoder_blocks": (0, 1, 2, 1),
        "fixed_norm": True,
    },
    "sana": {"scales": (5,), "resample": "plain"},
    "narrow heads": {"head": 16, "scales": (3, 5)},
}
PUBLISHED = {
    "f32c32": Config(fixed_norm=True),
    "f64c128": Config(
        widths=(128, 256, 512, 512, 1024, 1024, 2048),
        encoder_blocks=(0, 4, 8, 2, 2, 2, 2),
        decoder_blocks=(0, 5, 10, 2, 2, 2, 2),
        latent_channels=128,
        fixed_norm=True,
    ),
}


def peer(config):
    """Their class of the same configuration."""
    diffusers = pytest.importorskip("diffusers")
    levels, first = len(config.widths), config.attend_from
    kinds = ("ResBlock",) * first + ("EfficientViTBlock",) * (levels - first)
    scales = ((),) * first + (config.scales,) * (levels - first)
    norms, acts = (
        (("batch_norm", "relu") if config.fixed_norm else ("rms_norm", "silu")),
        ("rms_norm", "silu"),
    )
    return diffusers.AutoencoderDC(
        latent_channels=config.latent_channels,
        attention_head_dim=config.head,
        encoder_block_types=kinds,
        decoder_block_types=kinds,
        encoder_block_out_channels=config.widths,
        decoder_block_out_channels=config.widths,
        encoder_layers_per_block=config.encoder_blocks,
        decoder_layers_per_block=config.decoder_blocks,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        decoder_norm_types=(norms[0],) * first + (acts[0],) * (levels - first),
        decoder_act_fns=(norms[1],) * first + (acts[1],) * (levels - first),
        upsample_block_type="pixel_shuffle" if config.resample == "shuffle" else "interpolate",
        downsample_block_type="pixel_unshuffle" if config.resample == "shuffle" else "conv",
    ).eval()


def place(name, config):
    """``levels.i.j`` as the index in our sequence; theirs holds a level's change of size with its
    blocks."""
    found = re.search(r"(en|de)coder\.levels\.(\d)\.(\d+)", name)
    if not found:
        return name
    half, level, number = found[1], int(found[2]), int(found[3])
    last = len(config.widths) - 1
    if half == "en":
        before = sum(config.encoder_blocks[i] + 1 for i in range(config.begins, level))
    else:
        before = sum(config.decoder_blocks[i] + (i < last) for i in range(level + 1, last + 1))
    return name.replace(found.group(), f"{half}coder.levels.{before + number}")


def renamed(theirs, config):
    """Their weights under our names, linear layers as 1×1 convolutions, queries, keys and values in
    one."""
    theirs = {name: value for name, value in theirs.items() if "num_batches" not in name}
    for name in [name for name in theirs if ".to_q." in name]:
        parts = [theirs.pop(name.replace("to_q", f"to_{one}")) for one in "qkv"]
        theirs[name.replace("to_q", "qkv")] = torch.cat(parts)
    ours = {}
    for name, value in theirs.items():
        stem, _, kind = name.rpartition(".")
        pattern = next(one for one in NAMES if re.fullmatch(one, stem))
        name = f"{place(re.sub(pattern, NAMES[pattern], stem), config)}.{kind}"
        name = re.sub(
            r"scales\.(\d)\.(in|out)", lambda m: f"scales.{m[1]}.{int(m[2] == 'out')}", name
        )
        for word, mine in WORDS.items():
            name = name.replace(word, mine)
        ours[name] = value[..., None, None] if value.dim() == 2 else value
    return ours


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_it_gives_what_the_peer_gives(case):
    config = Config(**SMALL | CASES[case])
    torch.manual_seed(0)
    theirs = peer(config)
    for name, value in theirs.state_dict().items():
        if re.search(r"norm\w*\.(weight|bias|running)", name):
            value.uniform_(0.5, 1.5)  # as they begin, norms do nothing
    ours = config.build()
    ours.load_state_dict(
        {key: value for key, value in ours.state_dict().items() if key.startswith("scale.")}
        | renamed(theirs.state_dict(), config)
    )
    images = 2 * torch.rand(2, 3, 64, 48) - 1
    latents = theirs.encode(images).latent
    assert is_close(ours.encode(images).mode(), latents)
    assert is_close(ours.decode(latents), theirs.decode(latents).sample)


@pytest.mark.parametrize(("name", "factor"), [("f32c32", 32), ("f64c128", 64)])
def test_the_published_shapes_build_with_as_many_parameters_as_the_peer_s(name, factor):
    config = PUBLISHED[name]
    with torch.device("meta"):
        ours = config.build()
        theirs = peer(config)
    assert ours.latent_shape((1, 3, 256, 128)) == (
        1,
        int(name.partition("c")[2]),
        256 // factor,
        128 // factor,
    )
    counts = [sum(p.numel() for p in one.parameters()) for one in (ours, theirs)]
    print(f"{name}: {counts[0]:,} parameters")
    assert counts[0] == counts[1]


@torch.no_grad()
def test_without_its_layers_it_still_passes_means_down_and_copies_up():
    """What residual autoencoding begins from: with convolutions of zero only the shortcuts
    speak."""
    config = Config(**SMALL)
    autoencoder = config.build()
    for name, p in autoencoder.named_parameters():
        if not re.match(r"(en|de)coder\.enter|decoder\.(norm|leave)", name):
            p.zero_()
    entered = autoencoder.encoder.enter(images := torch.randn(1, 3, 32, 32))
    latents = autoencoder.encode(images).mode()
    assert latents.std() > 1e-3
    torch.testing.assert_close(latents.mean(), entered.mean())
    autoencoder.decoder.enter.weight.zero_()
    autoencoder.decoder.enter.bias.zero_()
    inside = autoencoder.decoder.levels(repeated(latents, 128))
    torch.testing.assert_close(inside.mean(), latents.mean())
    torch.testing.assert_close(averaged(repeated(latents, 64), 16), latents)


def test_a_fixed_norm_is_batch_norm_that_has_stopped():
    config = Config(**SMALL | {"fixed_norm": True})
    autoencoder: DCAE = config.build()
    before = {key: value.clone() for key, value in autoencoder.state_dict().items()}
    autoencoder.train().decode(
        autoencoder.encode(torch.randn(2, 3, 32, 32)).mode()
    ).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in autoencoder.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoder_blocks": (1, 1)}, "blocks for each of 4 levels"),
        (
            {"encoder_blocks": (0, 1, 1, 1)},
            "a first level with blocks in both halves or in neither",
        ),
        ({"widths": (32, 64, 64, 96)}, "widths that divide four times their neighbours"),
        ({"latent_channels": 48}, "latent_channels that divide the last"),
        ({"head": 48}, "whole heads of 48 from level 2 on"),
        ({"encoder_blocks": (1, 0, 1, 1)}, "at least 1"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes, told):
    with pytest.raises(BadInput, match=told):
        Config(**SMALL | changes)
