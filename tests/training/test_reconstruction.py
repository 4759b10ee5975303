"""The losses of stage one: what each is, and which parts it trains."""

import math
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from making import AUTOENCODER, go, metrics, recipe, tables
from safelight.autoencoders.kl.config import Config as KL
from safelight.config import read
from safelight.data.framing import Framing
from safelight.errors import BadInput
from safelight.nn.perceptual import perceptual
from safelight.training.adversarial import Adversarial
from safelight.training.discriminators.patch import Config as Patch
from safelight.training.objective import RunContext
from safelight.training.objectives.reconstruction import Config, Perceptual, PictureBatch

SMALL = Patch(width=8, layers=2)


def number(value):
    """A scalar, whether or not it has a gradient."""
    return float(value.detach())


def objective(tmp_path, **options):
    torch.manual_seed(0)
    config = Config(**{"autoencoder": read(KL, AUTOENCODER), **options})
    return config.build(RunContext(3, tmp_path, torch.device("cpu"), torch.float32))


def shown(batch=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    small = 2 * torch.rand(batch, 3, 8, 8, generator=draw) - 1
    return PictureBatch(
        nn.functional.interpolate(small, (32, 32), mode="bilinear"), list(range(batch))
    )


def gradients(part):
    return [
        name for name, p in part.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
    ]


def values(part):
    return {name: value.clone() for name, value in part.state_dict().items()}


def changed(part, before):
    return [
        name for name, value in part.state_dict().items() if not torch.equal(value, before[name])
    ]


@pytest.mark.parametrize("norm", ["spectral", "actnorm", "group", "none"])
def test_neither_step_leaks_into_the_other(norm, tmp_path):
    """Without the loop's guard: gradients end at the picture, and states stay as they are."""
    stage = objective(
        tmp_path,
        perceptual=Perceptual(),
        adversarial=Adversarial(replace(SMALL, norm=norm), r1=1.0),
        log_variance=0.0,
    )
    batch = shown()
    stage.loss("autoencoder", batch)
    stage.loss("discriminator", batch)  # it has begun
    autoencoder, discriminator = stage.parts["autoencoder"], stage.parts["discriminator"]
    before = values(discriminator)
    loss = stage.loss("autoencoder", batch)
    assert {"adversarial", "adaptive", "tiny-darknet", "log_variance"} < set(loss.metrics)
    loss.total.backward()
    assert gradients(autoencoder) == [name for name, _ in autoencoder.named_parameters()]
    assert gradients(stage.parts["log_variance"]) == ["value"]
    assert [p.grad for p in discriminator.parameters() if p.grad is not None] == []
    assert changed(discriminator, before) == []
    autoencoder.zero_grad()
    before = values(autoencoder)
    stage.loss("discriminator", batch).total.backward()
    assert gradients(discriminator) == [name for name, _ in discriminator.named_parameters()]
    assert [p.grad for p in autoencoder.parameters() if p.grad is not None] == []
    assert changed(autoencoder, before) == []
    assert [p.grad for p in stage.features.parameters() if p.grad is not None] == []


def test_the_discriminator_sees_the_reconstruction_of_the_autoencoder_s_step(tmp_path):
    stage = objective(tmp_path, adversarial=Adversarial(SMALL))
    batch = shown()
    stage.loss("autoencoder", batch)
    assert not batch.reconstruction.requires_grad
    seen = []
    stage.adversary.network.register_forward_hook(lambda network, given, out: seen.append(given[0]))
    with torch.no_grad():
        for p in stage.parts["autoencoder"].parameters():
            p.zero_()  # as if a step had moved it
    stage.loss("discriminator", batch)
    assert torch.equal(seen[0], torch.cat([batch.images, batch.reconstruction]))


def test_the_loss_and_its_gradient_are_those_of_one_backward_pass(tmp_path):
    """Against the whole formula in one graph, with the factor found as its paper writes it."""
    adversarial = Adversarial(SMALL, weight=0.7)
    stage = objective(
        tmp_path,
        l2=0.5,
        perceptual=Perceptual(weight=0.3),
        adversarial=adversarial,
        log_variance=-0.4,
    )
    batch = shown()
    stage.loss("autoencoder", batch)
    stage.loss("discriminator", batch)
    autoencoder = stage.autoencoder
    found = stage.loss("autoencoder", batch)
    ours = torch.autograd.grad(found.total, list(stage.groups[0].parameters.values()))
    encoding = autoencoder.encode(batch.images)
    from safelight.diffusion.noise import sample_noise

    noise = sample_noise(3, batch.positions, tuple(encoding.mean.shape))
    again = autoencoder.decode(encoding.sample(noise))
    error = (again - batch.images).abs().mean() + 0.5 * (again - batch.images).square().mean()
    error = error + 0.3 * perceptual(stage.features, again, batch.images).mean()
    s = stage.parts["log_variance"].value
    error = error * torch.exp(-s) + s
    push = -stage.adversary.network(again).mean()
    norms = [
        torch.autograd.grad(x, autoencoder.last_layer, retain_graph=True)[0].norm()
        for x in (error, push)
    ]
    total = error + 0.7 * (norms[0] / (norms[1] + 1e-6)).detach() * push
    total = total + 1e-6 * autoencoder.regularisers(encoding)["kl"].mean()
    theirs = torch.autograd.grad(total, list(stage.groups[0].parameters.values()))
    assert number(found.metrics["adaptive"]) == pytest.approx(number(norms[0] / norms[1]), rel=1e-4)
    assert number(found.total) == pytest.approx(number(total), rel=1e-5)
    for item, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(item, other, rtol=1e-3, atol=1e-5 * number(other.abs().max()))


def test_the_log_variance_is_learned_and_ends_at_the_log_of_the_error(tmp_path):
    stage = objective(tmp_path, log_variance=1.0, perceptual=Perceptual())
    value = stage.groups[0].parameters["log_variance"]
    batch = shown()
    for _ in range(10):  # Newton's steps: without its costs the loss is error · exp(-value) + value
        loss = stage.loss("autoencoder", batch)
        (slope,) = torch.autograd.grad(loss.total, [value])
        with torch.no_grad():
            value -= slope / (1 - slope)
    error = loss.metrics["l1"] + loss.metrics["tiny-darknet"]
    assert number(value) == pytest.approx(math.log(number(error)), abs=0.02)


def test_by_default_there_are_only_l1_and_the_regularisers(tmp_path):
    stage = objective(tmp_path)
    batch = shown()
    loss = stage.loss("autoencoder", batch)
    assert set(loss.metrics) == {"l1", "kl"}
    assert number(loss.total) == pytest.approx(
        number(loss.metrics["l1"] + 1e-6 * loss.metrics["kl"])
    )
    assert set(stage.parts) == {"autoencoder"}
    assert [group.name for group in stage.groups] == ["autoencoder"]
    assert set(stage.validate(batch)) == {"l1", "psnr"}


def test_the_perceptual_distance_has_the_name_of_its_network(tmp_path):
    stage = objective(tmp_path, perceptual=Perceptual())
    with torch.no_grad():
        found = stage.validate(shown())
    assert set(found) == {"l1", "psnr", "tiny-darknet"}
    assert all(value.shape == (4,) and value.isfinite().all() for value in found.values())


def test_equivariance_compares_half_sizes_and_trains_encoder_and_decoder(tmp_path):
    stage = objective(tmp_path, equivariance=2.0)
    batch = shown()
    loss = stage.loss("autoencoder", batch)
    off = objective(tmp_path).loss("autoencoder", batch)
    assert number(loss.total - off.total) == pytest.approx(
        2 * number(loss.metrics["equivariance"]), rel=1e-4
    )
    torch.autograd.grad(
        loss.metrics["equivariance"], [stage.autoencoder.encoder.enter.weight], retain_graph=True
    )
    stage.autoencoder.encode = lambda images: None
    stage.autoencoder.decode = lambda latents: (
        latents[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
    flat = torch.full(
        (1, 3, 16, 16), 0.5
    )  # equivariant: the images' own means, decoded by repetition
    assert number(stage._equivariance_loss(flat, torch.full((1, 3, 32, 32), 0.5))) == 0
    assert number(
        stage._equivariance_loss(flat, torch.full((1, 3, 32, 32), 0.25))
    ) == pytest.approx(0.25)


def test_decoder_noise_differs_for_each_picture(tmp_path):
    stage, quiet = objective(tmp_path, decoder_noise=0.5), objective(tmp_path)
    latents = 10 * torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    added = stage._with_noise(latents, range(64)) - latents
    levels = added.flatten(1).std(1) / latents.flatten(1).std(1)
    assert number(levels.mean()) == pytest.approx(
        0.5 * math.sqrt(2 / math.pi), rel=0.25
    )  # of |N(0, 0.5²)|
    assert number(levels.std()) > 0.1
    torch.testing.assert_close(stage._with_noise(latents[7:9], [7, 8]) - latents[7:9], added[7:9])
    assert quiet._with_noise(latents, range(64)) is latents
    batch = shown()
    assert stage.loss("autoencoder", batch).total != quiet.loss("autoencoder", shown()).total


@dataclass(frozen=True)
class Blank:
    """An autoencoder without a last layer."""

    def build(self):
        made = read(KL, AUTOENCODER).build()
        made.__class__ = type("Lastless", (type(made),), {"last_layer": None})
        return made


def test_an_autoencoder_without_a_last_layer_is_refused_only_where_it_matters(tmp_path):
    with pytest.raises(
        BadInput, match=r"the blank autoencoder has no last layer.*set adaptive = false"
    ):
        objective(tmp_path, autoencoder=Blank(), adversarial=Adversarial(SMALL))
    stage = objective(
        tmp_path, autoencoder=Blank(), adversarial=Adversarial(SMALL, adaptive=False, weight=0.1)
    )
    batch = shown()
    alone = stage.loss("autoencoder", batch).total
    stage.loss("discriminator", batch)
    both = stage.loss("autoencoder", batch)
    assert "adaptive" not in both.metrics
    assert number(both.total - alone) == pytest.approx(
        0.1 * number(both.metrics["adversarial"]), abs=1e-5
    )


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        (
            {"adversarial": Adversarial(Patch())},
            16,
            "objective.adversarial: wanted a framing.size of at least 24, got 16",
        ),
        (
            {"perceptual": Perceptual()},
            12,
            "objective.perceptual: wanted a framing.size of at least 16, got 12",
        ),
    ],
)
def test_pictures_too_small_for_a_network_are_refused_before_training(
    options, size, message, tmp_path
):
    class Small:
        framing = Framing(size=size)

    with pytest.raises(BadInput, match=message):
        objective(tmp_path, **options).prepare([Small()], lambda *progress: None)


@pytest.mark.parametrize(
    "wrong",
    [{"l1": -1.0}, {"decoder_noise": float("nan")}, {"perceptual": Perceptual(weight=-1.0)}],
)
def test_invalid_weights_are_refused(wrong):
    with pytest.raises(BadInput, match="reconstruction: wanted weights of at least 0"):
        Config(**wrong)


ADVERSARIAL = {"discriminator": {"kind": "patch", "width": 8, "layers": 2}, "start": 2}


def test_the_discriminator_starts_at_its_update_and_counts_its_own_updates(pictures, tmp_path):
    own = {"kind": "adamw", "betas": [0.5, 0.9]}
    tree = tables(
        "reconstruction",
        pictures,
        loop__updates=5,
        watch__write=1,
        objective__adversarial=ADVERSARIAL | {"rate": 0.5, "optimiser": own},
        objective__perceptual={"weight": 0.5},
    )
    run = go(tmp_path / "run", recipe(tree))
    lines = [line for line in metrics(run.folder) if "rate" in line]
    assert ["discriminator/loss" in line for line in lines] == [False, False, True, True, True]
    assert ["autoencoder/adversarial" in line for line in lines] == [
        False,
        False,
        False,
        True,
        True,
    ]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    state = load_file(run.checkpoints[-1] / "state.safetensors")
    steps = {
        name.split("/")[1]: number(value) for name, value in state.items() if name.endswith("/step")
    }
    assert steps == {"autoencoder": 5, "discriminator": 3}
    checked = [line for line in metrics(run.folder) if "check/psnr" in line][-1]
    assert {"check/l1", "check/psnr", "check/tiny-darknet"} < set(checked)


def test_accumulated_micro_batches_equal_one_batch_with_an_adversary(pictures, tmp_path):
    """At a rate of 0, so that both have the same weights, without the adaptive weight.

    That weight depends on how the batch is divided.
    """
    tree = tables("reconstruction", pictures, rate__peak=0.0, loop__updates=2, loop__batch=8)
    tree["objective"]["adversarial"] = ADVERSARIAL | {"start": 0, "adaptive": False}
    made = recipe(tree)
    once, parts = (
        load_file(go(tmp_path / str(count), item).checkpoints[-1] / "state.safetensors")
        for count, item in [(1, made), (4, replace(made, loop=replace(made.loop, accumulate=4)))]
    )
    first = [name for name in once if name.endswith("exp_avg")]
    assert {name.split("/")[1] for name in first} == {"autoencoder", "discriminator"}
    for name in first:
        torch.testing.assert_close(parts[name], once[name], atol=1e-7, rtol=1e-3)
    assert max(number(once[name].abs().max()) for name in first if "discriminator" in name) > 1e-4


@pytest.mark.slow
def test_on_photographs_adversarial_training_loses_no_psnr(tmp_path):
    """100 updates of all terms on 32 photographs, with the adversary from the 50th on."""
    archive = (
        Path(__file__).parents[3] / "shared" / "data" / "caltech101-128" / "caltech101-128.zip"
    )
    if not archive.exists():
        pytest.skip("the reference data is not here")
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(archive) as file:
        for name in [
            name for name in file.namelist() if re.match("images/(flamingo|dalmatian)/", name)
        ][:32]:
            (tmp_path / "data" / Path(name).name).write_bytes(file.read(name))
    tree = tables(
        "reconstruction", tmp_path / "data", loop__updates=100, loop__batch=8, rate__peak=2e-3
    )
    tree["objective"] |= {
        "autoencoder": {
            "kind": "kl",
            "width": 16,
            "multipliers": [1, 2, 2],
            "blocks": 1,
            "groups": 4,
        },
        "perceptual": {"weight": 0.1},
        "adversarial": {
            "start": 50,
            "discriminator": {"kind": "patch", "width": 16, "layers": 2, "norm": "spectral"},
        },
    }
    tree |= {"framing": {"size": 64, "short_side": 64, "mirror": True}}
    tree["watch"] = {"write": 1, "check": 50, "sheet": 0, "save": 0, "pictures": 16}
    lines = metrics(go(tmp_path / "run", recipe(tree)).folder)
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert sum("autoencoder/adaptive" in line for line in lines) == 49
    before, after = (line["check/psnr"] for line in lines if "check/psnr" in line)
    assert after >= before
