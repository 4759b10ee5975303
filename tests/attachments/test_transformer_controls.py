"""Control of transformers in public layouts: against diffusers, round trips, refusals."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from recorded import difference, shaken, shapes_of
from safelight.denoisers.control.flux.config import Config as Flux
from safelight.denoisers.control.mmdit.config import Config as Joint
from safelight.denoisers.control.unet.config import Config as Unet
from safelight.denoisers.flux import config as flux_config
from safelight.denoisers.mmdit import config as mmdit_config
from safelight.denoisers.unet import config as unet_config
from safelight.errors import BadInput
from safelight.layouts.detection import all_layouts
from safelight.layouts.flux import diffusers as diffusers_flux
from safelight.layouts.flux_control import diffusers as diffusers_flux_control
from safelight.layouts.flux_control import original as flux_control
from safelight.layouts.mmdit import diffusers as diffusers_mmdit
from safelight.layouts.mmdit_control import diffusers as diffusers_mmdit_control
from safelight.layouts.mmdit_control import original as mmdit_control
from safelight.nn.control import Controlled
from safelight.types.networks import Condition, Tokens

MMDIT = mmdit_config.Config(4, 2, 32, 5, 2, text_width=12, vector_width=9, side=8, qk_norm=False)
SD3 = Joint(replace(MMDIT, depth=2), pooled=False, shift=0.0609 * 1.5305)
JOINT = {
    "sd3": SD3,
    "inpaint": replace(SD3, mask=True, shift=0.0),
    "medium": replace(
        SD3, network=replace(MMDIT, depth=3, qk_norm=True, dual=(0,)), pooled=True, shift=0.0
    ),
    "large": Joint(replace(MMDIT, depth=2, text_width=256, side=64), words=False, enters=False),
}
FLUX = flux_config.Config(4, 0, 2, 32, (4, 6, 6), 5, 7, text_width=12, vector_width=9)
BRANCH = replace(FLUX, double=2, single=3, guidance=False)
UNION = Flux(BRANCH, modes=9)
XLABS = Flux(replace(FLUX, double=2, single=0), hints=(16,) * 4)
FLUXES = {
    "canny": Flux(BRANCH),
    "union": UNION,
    "double_blocks": Flux(replace(BRANCH, single=0)),
    "x-labs": XLABS,
}
THEIRS = {Joint: diffusers_mmdit_control.LAYOUTS[0], Flux: diffusers_flux_control.LAYOUTS[0]}
OWN = {Joint: mmdit_control.LAYOUTS[0], Flux: flux_control.LAYOUTS[0]}
TIME, HINT = (
    torch.tensor([3.0, 801.0]),
    torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)),
)


def halved(images):
    """An autoencoder's way in, for tests: four channels at half the size."""
    return F.avg_pool2d(torch.cat([images, images.mean(1, keepdim=True)], dim=1), 2)


def peer_of(layout, network):
    """The peer library's network of this shape, with the same weights."""
    diffusers = pytest.importorskip("diffusers")
    said = dict(layout.describe(network.config))
    kinds = (diffusers.SD3Transformer2DModel, diffusers.FluxTransformer2DModel)
    kinds += (diffusers.SD3ControlNetModel, diffusers.FluxControlNetModel)
    (kind,) = [one for one in kinds if one.__name__ == said["_class_name"]]
    peer = kind(**{name: value for name, value in said.items() if name != "_class_name"})
    peer.load_state_dict(dict(layout.table(network.config).to_theirs(network.state_dict())))
    return peer


def given(tokens=True):
    torch.manual_seed(1)
    text, pooled = torch.randn(2, 5, 12), torch.randn(2, 9)
    words = Tokens(text, torch.ones(2, 5, dtype=torch.bool))
    return text, pooled, Condition(words if tokens else None, vector=pooled)


def whole(config):
    """The transformer that a branch is for."""
    if isinstance(config, Flux):
        return FLUX
    return replace(MMDIT, qk_norm=config.network.qk_norm, dual=config.network.dual)


def latents_of(config, hint):
    """What the peer library's pipelines make of a picture for this control."""
    images = 2 * hint[:, :3] - 1
    if not config.mask:
        return halved(images) + config.shift
    images[(hint[:, 3:] < 0.5).expand_as(images)] = -1
    latents = halved(images)
    return torch.cat([latents, F.interpolate(hint[:, 3:].round(), size=latents.shape[2:])], dim=1)


@pytest.mark.parametrize("name", JOINT)
@torch.no_grad()
def test_stable_diffusion_3_under_control_equals_the_peer_librarys(name):
    config = JOINT[name]
    network, branch = shaken(whole(config).build()), shaken(config.build())
    transformer, control = (
        peer_of(diffusers_mmdit.LAYOUTS[0], network),
        peer_of(THEIRS[Joint], branch),
    )
    text, pooled, told = given()
    noisy, hint = torch.randn(2, 4, 8, 12), torch.rand(1, 3 + config.mask, 16, 24)
    theirs = {
        "timestep": TIME,
        "pooled_projections": pooled if config.pooled else torch.zeros_like(pooled),
    }
    theirs |= {"encoder_hidden_states": text} if config.words else {}
    entered, shown = (
        noisy if config.enters else transformer.pos_embed(noisy),
        latents_of(config, hint),
    )
    (residuals,) = control(entered, shown.expand(2, -1, -1, -1), 0.7, **theirs, return_dict=False)
    want = transformer(
        noisy, text, pooled, TIME, block_controlnet_hidden_states=residuals, return_dict=False
    )[0]
    held = Controlled(network, branch, hint, 0.7, encode=halved)
    each = [
        0.7 * one
        for one in branch(
            noisy, TIME, held.branch_condition(told), branch.encode_hint(hint, halved)
        )
    ]
    assert len(each) == 5
    for index, one in enumerate(each):
        assert difference(one, residuals[int(index / (5 / len(residuals)))]) < 1e-5
    assert difference(held(noisy, TIME, told), want) < 1e-5
    assert difference(network(noisy, TIME, told), want) > 1e-2
    assert torch.equal(held(noisy, TIME, held.prepare(told)), held(noisy, TIME, told))


@pytest.mark.parametrize("name", FLUXES)
@pytest.mark.filterwarnings(
    "ignore:.FluxPosEmbed. is deprecated:FutureWarning"
)  # the peer library warns of itself
@torch.no_grad()
def test_flux_under_control_equals_the_peer_librarys(name):
    config = FLUXES[name]
    network, branch = shaken(FLUX.build()), shaken(config.build())
    transformer, control = (
        peer_of(diffusers_flux.LAYOUTS[0], network),
        peer_of(THEIRS[Flux], branch),
    )
    text, pooled, told = given()
    told = replace(told, scalars={"guidance": torch.full((2,), 2.5)})
    noisy, grid = torch.randn(2, 4, 8, 12), (4, 6)
    places = network.places(5, [grid], noisy.device)
    theirs = {"encoder_hidden_states": text, "timestep": TIME / 1000, "pooled_projections": pooled}
    theirs |= {"txt_ids": places[:5], "img_ids": places[5:], "return_dict": False}
    mode = {"controlnet_mode": torch.full((2, 1), 2)} if config.modes else {}
    guidance = told.scalars["guidance"]
    hint = torch.rand(1, 3, 64, 96) if config.hints else HINT
    shown = 2 * hint - 1 if config.hints else network.pack(halved(2 * hint - 1))
    asked = {"guidance": guidance if config.network.guidance else None, "conditioning_scale": 0.7}
    double, single = control(
        network.pack(noisy), shown.expand(2, *shown.shape[1:]), **theirs, **asked, **mode
    )
    more = {"controlnet_block_samples": double, "controlnet_single_block_samples": single}
    more["controlnet_blocks_repeat"] = bool(config.hints)
    (want,) = transformer(network.pack(noisy), guidance=guidance, **theirs, **more)
    held = Controlled(
        network, branch, hint, 0.7, encode=halved, mode="depth" if config.modes else ""
    )
    assert difference(network.pack(held(noisy, TIME, told)), want) < 1e-5
    assert difference(network.pack(network(noisy, TIME, told)), want) > 1e-2
    assert torch.equal(held(noisy, TIME, held.prepare(told)), held(noisy, TIME, told))


CONFIGS = JOINT | FLUXES | {"typed": replace(JOINT["large"], typed=True)}
LAYOUTS = [
    (name, layouts[type(config)]) for name, config in CONFIGS.items() for layouts in (THEIRS, OWN)
]


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        (name, one)
        for name, one in LAYOUTS
        if name not in ("sd3", "inpaint", "medium") or one.name == "diffusers"
    ],
    ids=lambda one: one if isinstance(one, str) else one.name,
)
def test_a_file_is_known_and_comes_back_to_the_bit(name, layout):
    """Single files of Stability AI are those of patches alone; all others are in both layouts."""
    config = CONFIGS[name]
    state = config.build().state_dict()
    file = dict(layout.table(config).to_theirs(state))
    assert [one for one in all_layouts() if one.recognises(shapes_of(file))] == [layout]
    said = dict(layout.describe(config)) if layout.describe else {}
    assert layout.config(shapes_of(file), said | {"heads": 2, "axes": FLUX.axes}) == config
    again = dict(layout.table(config).to_ours(file, state, "it"))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)


def test_a_bare_file_is_taken_for_what_such_files_are():
    """Without a configuration InstantX's get zero vectors and unshifted latents."""
    for name, pooled, shift in (
        ("sd3", False, 0.0609 * 1.5305),
        ("inpaint", False, 0.0),
        ("large", True, 0.0),
    ):
        layout = THEIRS[Joint]
        file = dict(layout.table(JOINT[name]).to_theirs(JOINT[name].build().state_dict()))
        found = layout.config(shapes_of(file), {"heads": 2})
        assert (found.pooled, found.shift, found.mask) == (pooled, shift, name == "inpaint")


@torch.no_grad()
def test_edges_are_shown_to_the_large_ones_as_they_were_taught():
    seen = []

    def encode(images):
        seen.append(images)
        return halved(images)

    network, branch = MMDIT.build(), replace(JOINT["large"], typed=True).build()
    for mode in ("", "canny", "1", "depth"):
        Controlled(network, branch, HINT, encode=encode, mode=mode)
    branch.kind[:] = 1
    Controlled(network, branch, HINT, encode=encode)
    plain, edges = 2 * HINT - 1, HINT * 255 * 0.5 + 0.5
    for got, want in zip(seen, (plain, edges, edges, plain, edges), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["large", "union"])
@torch.no_grad()
def test_several_at_once_of_any_depth_add_up_and_act_in_their_span(name):
    config = CONFIGS[name]
    other = SD3 if isinstance(config, Joint) else XLABS
    network = shaken(whole(config).build())
    one, two = shaken(config.build()), shaken(other.build())
    told, noisy, shown = given()[2], torch.randn(2, 4, 8, 12), torch.rand(1, 3, 64, 96)
    first = {
        "branch": one,
        "hint": HINT,
        "encode": halved,
        "mode": "tile" if name == "union" else "",
    }
    second = {"branch": two, "hint": HINT if isinstance(other, Joint) else shown, "encode": halved}
    both = Controlled(Controlled(network, **first, scale=0.5), **second, scale=-0.3)
    turned = Controlled(Controlled(network, **second, scale=-0.3), **first, scale=0.5)
    torch.testing.assert_close(both(noisy, TIME, told), turned(noisy, TIME, told))
    assert (
        difference(
            Controlled(network, **first, scale=0.5)(noisy, TIME, told), both(noisy, TIME, told)
        )
        > 1e-3
    )
    late = Controlled(network, **first, begin=0.9)(noisy, TIME, told)
    torch.testing.assert_close(late[1], network(noisy, TIME, told)[1])
    torch.testing.assert_close(late[0], Controlled(network, **first)(noisy, TIME, told)[0])


def test_what_does_not_fit_is_refused_in_a_sentence():
    small = unet_config.Config(
        levels=(unet_config.Level(32, 1, 2),), norm=unet_config.Norm(8), blocks=1, text_width=12
    ).build()
    joint, union = MMDIT.build(), UNION.build()
    for network, branch, message in (
        (
            small,
            SD3.build(),
            "for a transformer of Stable Diffusion 3 of width 32, .* not for UNet",
        ),
        (replace(MMDIT, width=64).build(), SD3.build(), "not for one of 64, 4 and 12"),
        (joint, union, "for a FLUX of generation 1, of width 32 and texts 12 wide, not for MMDiT"),
        (
            joint,
            Unet(small.config, hints=(8, 8)).build(),
            "for a U-Net of widths .*, not for MMDiT",
        ),
        (
            FLUX.build(),
            union,
            "several kinds of picture: say which this is, one of canny, .*low-quality, 7, 8",
        ),
    ):
        with pytest.raises(BadInput, match=message):
            Controlled(network, branch, HINT, encode=halved)
    for mode in ("sketch", "9"):
        with pytest.raises(BadInput, match=f"wanted one of canny, tile, .*; got '{mode}'"):
            Controlled(FLUX.build(), union, HINT, encode=halved, mode=mode)
    with pytest.raises(BadInput, match="knows one kind of picture; got 'canny'"):
        Controlled(joint, SD3.build(), HINT, encode=halved, mode="canny")
    with pytest.raises(BadInput, match="add the model's autoencoder"):
        Controlled(joint, SD3.build(), HINT)
    with pytest.raises(BadInput, match="a picture of colours and a mask"):
        Controlled(joint, JOINT["inpaint"].build(), HINT, encode=halved)
    with pytest.raises(BadInput, match="a picture of 24 patches, not of 4×4"):
        Controlled(joint, SD3.build(), HINT, encode=halved)(
            torch.randn(2, 4, 8, 8), TIME, given()[2]
        )
    for wrong in ({"network": replace(BRANCH, double=0)}, {"modes": -1}, {"hints": (8, 0)}):
        with pytest.raises(BadInput, match="a double block or more"):
            replace(UNION, **wrong)
    with pytest.raises(BadInput, match="for its first generation"):
        replace(UNION, network=replace(BRANCH, extra_channels=4))
    with pytest.raises(BadInput, match="by a word before the text"):
        Controlled(FLUX.build(), union, HINT, encode=halved, mode="canny")(
            torch.randn(2, 4, 8, 12), TIME, Condition()
        )
