"""U-Nets in the layouts of others: real lists of names, recordings, the peer library, and there
and back."""

import json
import warnings
import zipfile

import pytest
import torch
from tests.recorded_unets import LDM, PEER, of_folder, of_recording, tokens

from recorded import DATA, HERE, error, real_shapes
from safelight.config import dump, read
from safelight.denoisers.unet.config import Config, Level, Norm
from safelight.errors import BadInput
from safelight.layouts.unet import diffusers as diffusers_unet
from safelight.nn.embeddings import sinusoidal
from safelight.types.networks import Condition

REAL = {
    "real.UNET-v1-SD": (LDM, 859_520_964),
    "real.UNET-v1-Inpainting": (LDM, 859_535_364),
    "real.UNET-v1-Pix2Pix": (LDM, 859_532_484),
    "real.UNET-v2-SD": (LDM, 865_910_724),
    "real.UNET-v2-Inpainting": (LDM, 865_925_124),
    "real.UNET-v2-Depth": (LDM, 865_913_604),
    "real.UNET-XL-SD": (LDM, 2_567_463_684),
    "real.UNET-XL-Refiner": (LDM, 2_259_526_660),
    "sd15.unet.diffusers": (PEER, 859_520_964),
    "sd15-inpainting.unet.diffusers": (PEER, 859_535_364),
    "sd21.unet.diffusers": (PEER, 865_910_724),
    "sdxl.unet.diffusers": (PEER, 2_567_463_684),
    "sdxl-refiner.unet.diffusers": (PEER, 2_259_526_660),
}
CONFIGS = {
    "sd15.unet.diffusers": "runwayml/stable-diffusion-v1-5",
    "sd15-inpainting.unet.diffusers": "runwayml/stable-diffusion-inpainting",
    "sd21.unet.diffusers": "stabilityai/stable-diffusion-2-1",
    "sdxl.unet.diffusers": "stabilityai/stable-diffusion-xl-base-1.0",
    "sdxl-refiner.unet.diffusers": "stabilityai/stable-diffusion-xl-refiner-1.0",
}
SSD = (Level(320, 0, 5), Level(640, 2, 10, up=(2, 1, 1)), Level(1280, 4, 20, up=(4, 4, 10)))
VEGA = (Level(320, 0, 5), Level(640, 1, 10), Level(1280, 2, 20))
CUT = {"ssd": (SSD, 1_331_334_404), "vega": (VEGA, 745_225_604)}
KEYMAPS = {
    "sd1": ("real.UNET-v1-SD", "sd15.unet.diffusers"),
    "sd2": ("real.UNET-v2-SD", "sd21.unet.diffusers"),
    "sdxl": ("real.UNET-XL-SD", "sdxl.unet.diffusers"),
    "refiner": ("real.UNET-XL-Refiner", "sdxl-refiner.unet.diffusers"),
}


def meta(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("name", REAL)
def test_a_real_list_fits_with_nothing_missing_or_left_over(name):
    shapes, (layout, parameters) = real_shapes(name), REAL[name]
    assert [one for one in (LDM, PEER) if one.recognises(shapes)] == [layout]
    config = layout.config(shapes, {})
    with torch.device("meta"):
        network = config.build()
    table = layout.table(config)
    ours = dict(table.to_ours(meta(shapes), network.state_dict(), name))
    assert ours.keys() == network.state_dict().keys()
    assert {key: tuple(one.shape) for key, one in table.to_theirs(ours)} == shapes
    assert sum(one.numel() for one in network.parameters()) == parameters
    assert read(Config, dump(config)) == config


@pytest.mark.parametrize(
    ("name", "raw"), [("UNET-v1-EMA", "UNET-v1-SD"), ("UNET-v1-Pix2Pix-EMA", "UNET-v1-Pix2Pix")]
)
def test_averaged_weights_have_the_names_without_dots(name, raw):
    shapes, config = real_shapes(f"real.{name}"), LDM.config(real_shapes(f"real.{raw}"), {})
    with torch.device("meta"):
        wanted = config.build().state_dict()
    table = LDM.table(config).undotted()
    ours = dict(table.to_ours(meta(shapes | {"decay": (), "num_updates": ()}), wanted, name))
    assert ours.keys() == wanted.keys()
    assert {key: tuple(one.shape) for key, one in table.to_theirs(ours)} == shapes


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_inferred_is_what_the_folder_says(name):
    lists = DATA / "checkpoint-layouts" / "hf-configs.zip"
    with zipfile.ZipFile(lists) if lists.exists() else pytest.skip("no lists") as archive:
        said = json.loads(archive.read(f"{CONFIGS[name]}/unet/config.json"))
    shapes = real_shapes(name)
    assert PEER.config(shapes, said) == PEER.config(shapes, {})


@pytest.mark.parametrize("name", KEYMAPS)
def test_both_layouts_name_the_same_tensor_alike(name):
    first, second = (real_shapes(one) for one in KEYMAPS[name])
    config = LDM.config(first, {})
    assert config == PEER.config(second, {})
    assert_named_alike(name, config)


@pytest.mark.parametrize("name", CUT)
def test_what_was_cut_out_of_sdxl_is_inferred_and_named_alike(name):
    levels, parameters = CUT[name]
    config = Config(levels=levels, middle=-1, text_width=2048, vector_width=2816)
    with torch.device("meta"):
        network = config.build()
    assert sum(one.numel() for one in network.parameters()) == parameters
    for layout in (LDM, PEER):
        shapes = {
            key: tuple(one.shape)
            for key, one in layout.table(config).to_theirs(network.state_dict())
        }
        assert layout.config(shapes, {}) == config
    assert_named_alike(name, config)
    assert read(Config, dump(config)) == config


def assert_named_alike(name, config):
    with zipfile.ZipFile(HERE / "key-lists.zip") as archive:
        known = json.loads(archive.read(f"keymaps/stable_diffusion_{name}.json"))[
            "ldm_diffusers_keymap"
        ]
    prefix = "model.diffusion_model."
    wanted = {
        a.removeprefix(prefix): b.removeprefix("unet_")
        for a, b in known.items()
        if a.startswith(prefix)
    }
    theirs = {rule.ours: rule.theirs for rule in PEER.table(config).rules}
    found = {
        a: b
        for rule in LDM.table(config).rules
        for a, b in zip(rule.theirs, theirs[rule.ours], strict=True)
    }
    assert found == wanted


WIDENED = ("sd1-edit", "sd2-inpaint", "sd2-depth", "sdxl-inpaint", "sdxl-refiner")


def beside(inputs, outputs):
    """What is told beside the text, whichever there is."""
    return Condition(
        tokens(inputs["context"]), vector=inputs.get("vector"), channels=inputs.get("channels")
    )


@pytest.mark.parametrize(
    ("name", "times", "outputs", "condition"),
    [
        ("sd1", (1, 261, 981), "unet.eps.t{}", lambda i, o: Condition(tokens(o["text.cond"]))),
        (
            "sd1-inpaint",
            (1, 501, 981),
            "unet.t{}",
            lambda i, o: Condition(
                tokens(i["context"]),
                channels=torch.cat([i["mask"], i["masked_image_latent"]], dim=1),
            ),
        ),
        ("sd2-v", (1, 501, 981), "unet.t{}", lambda i, o: Condition(tokens(o["text.cond"]))),
        (
            "sdxl",
            (1, 500, 999),
            "unet.eps.t{}",
            lambda i, o: Condition(tokens(o["crossattn"]), vector=o["vector"]),
        ),
        (
            "sd-x4-upscaler",
            (1, 501, 981),
            "unet.t{}",
            lambda i, o: Condition(
                tokens(i["context"]),
                channels=o["low_res_noised"],
                scalars={"noise_level": i["noise_level"]},
            ),
        ),
        *(
            (
                name,
                (1, 601),
                "unet.t{}",
                lambda i, o: Condition(
                    tokens(i["context"]), (), i.get("vector"), {}, i.get("channels")
                ),
            )
            for name in ("sd1-edit", "sd2-inpaint", "sd2-depth", "sdxl-inpaint", "sdxl-refiner")
        ),
    ],
)
@torch.no_grad()
def test_a_recorded_file_gives_what_it_gave(name, times, outputs, condition):
    network, recording = of_recording(name)
    noisy, given = recording.inputs["x"], condition(recording.inputs, recording.outputs)
    for time in times:
        answer = network(noisy, torch.full((len(noisy),), float(time)), given)
        assert error(answer, recording.outputs[outputs.format(time)]) < 1e-4


@pytest.mark.parametrize("name", ["sd", "sd-inpaint", "sdxl", "ldm-uncond"])
@torch.no_grad()
def test_a_recorded_folder_gives_what_it_gave(name):
    network, recording = of_folder(name)
    inputs, outputs = recording.inputs, recording.outputs
    noisy, given, times = inputs.get(f"{name}.x", inputs[f"{name}.latents"]), Condition(), (500,)
    if name in ("sd", "sd-inpaint"):
        channels = noisy[:, 4:] if name == "sd-inpaint" else None
        noisy, given, times = (
            noisy[:, :4],
            Condition(tokens(outputs[f"{name}.text"]), channels=channels),
            (1, 481, 981),
        )
    elif name == "sdxl":
        sizes = sinusoidal(inputs["sdxl.time_ids"].flatten(), 8).reshape(2, -1)
        vector = torch.cat([inputs["sdxl.text_embeds"], sizes], dim=1)
        given = Condition(tokens(outputs["sdxl.prompt_embeds"]), vector=vector)
    for time in times:
        answer = network(noisy, torch.full((len(noisy),), float(time)), given)
        assert error(answer, outputs[f"{name}.unet.t{time}"]) < 1e-4


PEERS = {
    "sdxl": Config(
        levels=(Level(32, 0, 2), Level(64, 2, 4)),
        middle=2,
        text_width=24,
        vector_width=20 + 6 * 8,
        norm=Norm(8),
    ),
    "cut": Config(
        levels=(Level(32, 0, 2), Level(64, 2, 4, up=(2, 1, 3))),
        middle=-1,
        text_width=24,
        vector_width=20 + 6 * 8,
        norm=Norm(8),
    ),
    "lcm": Config(
        levels=(Level(32, 1, 2), Level(64, 0, 2)),
        text_width=24,
        guidance=10,
        norm=Norm(8),
        linear=False,
    ),
    "upscaler": Config(
        channels=4,
        extra_channels=3,
        levels=(Level(32, 0, 2), Level(32, 1, 2, True), Level(64, 1, 2)),
        text_width=24,
        classes=50,
        norm=Norm(8),
        linear=False,
    ),
    "plain": Config(
        channels=3,
        levels=(Level(32, 0, 2), Level(64, 1, 4)),
        text_width=0,
        norm=Norm(8, 1e-6, modulated=True),
        residual_resize=True,
    ),
}


@pytest.mark.parametrize("name", PEERS)
@torch.no_grad()
def test_it_equals_the_peer_library_with_the_same_weights(name):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    config = PEERS[name]
    network = config.build()
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    said = dict(PEER.describe(config)) | (
        {"addition_time_embed_dim": 8} if config.vector_width else {}
    )
    kind = {
        "UNet2DModel": diffusers.UNet2DModel,
        "UNet2DConditionModel": diffusers.UNet2DConditionModel,
    }
    peer = kind[said.pop("_class_name")](**said)
    peer.load_state_dict(dict(PEER.table(config).to_theirs(network.state_dict())))
    noisy, time = torch.randn(2, config.channels, 8, 12), torch.tensor([3.0, 801.0])
    text, more = torch.randn(2, 5, 24), torch.randn(2, 3, 8, 12)
    if config.vector_width:
        sizes, pooled = torch.rand(2, 6) * 9, torch.randn(2, 20)
        vector = torch.cat([pooled, sinusoidal(sizes.flatten(), 8).reshape(2, -1)], dim=1)
        given = Condition(tokens(text), vector=vector)
        want = peer(
            noisy, time, text, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}
        ).sample
    elif name == "lcm":
        from diffusers.pipelines.latent_consistency_models import (
            LatentConsistencyModelPipeline as Pipeline,
        )

        scale = torch.tensor([1.0, 8.5])
        waves = Pipeline.get_guidance_scale_embedding(None, scale - 1, 10)
        given, want = (
            Condition(tokens(text), scalars={"guidance": scale}),
            peer(noisy, time, text, timestep_cond=waves),
        )
        want = want.sample
        none = Condition(tokens(text))
        assert torch.equal(network(noisy, time, none)[0], network(noisy, time, given)[0])
    elif name == "upscaler":
        level = torch.tensor([7, 42])
        given = Condition(tokens(text), channels=more, scalars={"noise_level": level.float()})
        want = peer(torch.cat([noisy, more], dim=1), time, text, class_labels=level).sample
    else:
        given, want = Condition(), peer(noisy, time).sample
    assert error(network(noisy, time, given), want) < 1e-5


def test_the_public_upscaler_has_eight_heads_and_hears_a_noise_level():
    levels = tuple(
        Level(width, int(width != 256), 8, width == 512) for width in (256, 512, 512, 1024)
    )
    config = Config(extra_channels=3, levels=levels, text_width=1024, classes=1000)
    with torch.device("meta"):
        state = config.build().state_dict()
    for layout in (LDM, PEER):
        shapes = {name: tuple(one.shape) for name, one in layout.table(config).to_theirs(state)}
        assert layout.config(shapes, {}) == config


ZOO = {
    "lsun_churches": Config(
        levels=tuple(Level(192 * m, int(i < 4), 8) for i, m in enumerate((1, 2, 2, 4, 4))),
        text_width=0,
        norm=Norm(modulated=True),
        residual_resize=True,
    ),
    "celeba": Config(
        channels=3,
        levels=tuple(Level(224 * m, int(m > 1), 7 * m) for m in (1, 2, 3, 4)),
        text_width=0,
    ),
    "cin256-v2": Config(
        channels=3,
        levels=tuple(Level(192 * m, int(m > 1), 1) for m in (1, 2, 3, 5)),
        text_width=512,
        linear=False,
    ),
}


@pytest.mark.parametrize("name", ZOO)
def test_models_of_the_paper_itself_are_inferred(name):
    with torch.device("meta"):
        state = ZOO[name].build().state_dict()
    shapes = {key: tuple(one.shape) for key, one in LDM.table(ZOO[name]).to_theirs(state)}
    assert LDM.config(shapes, {}) == ZOO[name]


def test_old_folders_name_plain_attention_otherwise():
    old = diffusers_unet.LAYOUTS[1]
    state = PEERS["plain"].build().state_dict()
    file = dict(old.table(PEERS["plain"]).to_theirs(state))
    shapes = {name: tuple(one.shape) for name, one in file.items()}
    assert "mid_block.attentions.0.proj_attn.weight" in file
    assert [one.recognises(shapes) for one in (LDM, PEER, old)] == [False, False, True]
    assert old.config(shapes, PEER.describe(PEERS["plain"])) == PEERS["plain"]
    again = dict(old.table(PEERS["plain"]).to_ours(file, state, "it"))
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_what_the_file_cannot_tell_can_be_said():
    shapes = real_shapes("real.UNET-v1-SD")
    assert {one.heads for one in LDM.config(shapes, {"heads": 4}).levels} == {4}
    assert [one.heads for one in LDM.config(shapes, {"head_width": 64}).levels] == [5, 10, 20, 20]
    with pytest.raises(BadInput, match="one for each of 4 levels"):
        LDM.config(shapes, {"heads": [1, 2]})
    with pytest.raises(BadInput, match="act_fn is 'gelu'"):
        PEER.config(real_shapes("sd15.unet.diffusers"), {"act_fn": "gelu"})


def test_the_peer_library_refuses_nothing_that_is_described():
    diffusers = pytest.importorskip("diffusers")
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("error")
        for name in ("real.UNET-v1-SD", "real.UNET-XL-SD"):
            said = dict(PEER.describe(LDM.config(real_shapes(name), {})))
            said.pop("_class_name")
            assert (
                sum(p.numel() for p in diffusers.UNet2DConditionModel(**said).parameters())
                == REAL[name][1]
            )
