"""DiT and SiT in the layouts of others: recordings, the peer library, published sizes, and there
and back."""

import json
from dataclasses import replace

import pytest
import torch

from recorded import Recording, error, shapes_of
from safelight.conditioners import label
from safelight.denoisers.plain_dit.config import Config
from safelight.diffusion.guidance.channels import Channels
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.guidance.none import Unguided
from safelight.diffusion.guided import guided
from safelight.diffusion.noise import RecordedNoise
from safelight.diffusion.prediction import Flow, NoiseAndVariance
from safelight.diffusion.process import Process
from safelight.diffusion.samplers.ddpm import DDPM
from safelight.diffusion.samplers.euler import Euler
from safelight.diffusion.schedule import Linear, LinearBeta
from safelight.diffusion.spacing.even import Leading
from safelight.errors import BadInput
from safelight.layouts.dit import diffusers as diffusers_dit
from safelight.layouts.dit import original as dit
from safelight.types.networks import Condition, Prompt
from safelight.weights.files import open_weights

(ORIGINAL,), (DIFFUSERS,) = dit.LAYOUTS, diffusers_dit.LAYOUTS
TOLD = label.Config(classes=1000, width=0, numeric_labels=True).build()
PUBLISHED = {
    "S": (384, 12, 6, 32.9),
    "B": (768, 12, 12, 130.3),
    "L": (1024, 24, 16, 457.8),
    "XL": (1152, 28, 16, 674.8),
}


def loaded(layout, file, said):
    """The network of a file, and the file as it is written again."""
    config = layout.config(shapes_of(file), said)
    network, table = config.build(), layout.table(config)
    network.load_state_dict(
        network.state_dict() | dict(table.to_ours(file, network.state_dict(), "it"))
    )
    return network.eval(), dict(table.to_theirs(network.state_dict()))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def told(labels):
    return TOLD([Prompt(given={"label": number}) for number in labels.tolist()])


@pytest.fixture
def recording():
    return Recording("dit")


@pytest.fixture
def file(recording):
    return dict(open_weights(recording.file("DiT.pt")))


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_sizes(size):
    width, depth, heads, millions = PUBLISHED[size]
    config = Config(width=width, depth=depth, heads=heads, classes=1000, variance="learned")
    with torch.device("meta"):
        network = config.build()
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions
    for layout in (ORIGINAL, DIFFUSERS):
        written = shapes_of(dict(layout.table(config).to_theirs(network.state_dict())))
        assert [one for one in (ORIGINAL, DIFFUSERS) if one.recognises(written)] == [layout]
        said = {} if layout is ORIGINAL else layout.describe(config)
        assert layout.config(written, said) == config
        blank = {name: torch.empty(shape, device="meta") for name, shape in written.items()}
        again = dict(layout.table(config).to_ours(blank, network.state_dict(), size))
        assert network.state_dict().keys() - again.keys() == (
            set() if said == {} else {"positions.table"}
        )


@torch.no_grad()
def test_a_recorded_file_comes_back_to_the_bit_and_answers_as_the_original(recording, file):
    network, again = loaded(ORIGINAL, file, {"heads": 2})
    assert same(again, file)
    assert torch.equal(Config(width=16, heads=2, side=4).build().positions.table, file["pos_embed"])
    noisy, outputs = recording.inputs["x"], recording.outputs
    given = told(recording.inputs["labels"])
    for time in (0, 500, 999):
        answer = network(noisy, torch.full((3,), float(time)), given)
        assert error(answer, outputs[f"output.t{time}"]) < 1e-4
    nothing = TOLD.null_condition([Prompt()] * 3)
    assert (
        error(network(noisy, torch.full((3,), 500.0), nothing), outputs["output.t500.null"]) < 1e-4
    )
    as_diffusers = replace(network.config, embedders="inclusive").build()
    as_diffusers.load_state_dict(network.state_dict())
    assert (
        error(as_diffusers(noisy, torch.full((3,), 500.0), given), outputs["diffusers_output.t500"])
        < 1e-4
    )


@torch.no_grad()
def test_the_averaged_weights_of_a_training_file(recording):
    averaged = dict(open_weights(recording.file("training.pt")).under("ema."))
    network, again = loaded(ORIGINAL, averaged, {"heads": 2})
    assert same(again, averaged)
    answer = network(
        recording.inputs["x"], torch.full((3,), 500.0), told(recording.inputs["labels"])
    )
    assert error(answer, recording.outputs["output_ema.t500"]) < 1e-4


@pytest.mark.parametrize(
    ("name", "guidance", "sampler"),
    [
        ("ddim.none", Unguided(), Euler()),
        ("ddim.all", ClassifierFree(4.0), Euler()),
        ("ddim.three", Channels(ClassifierFree(4.0), 3), Euler()),
        ("ddpm_learned_range", Unguided(), DDPM("learned")),
    ],
)
@torch.no_grad()
def test_its_trajectories_are_theirs(recording, file, name, guidance, sampler):
    network, _ = loaded(ORIGINAL, file, {"heads": 2})
    process = Process(LinearBeta(), NoiseAndVariance())
    given, nothing = told(recording.inputs["labels"]), TOLD.null_condition([Prompt()] * 3)
    waist = guided(process, {"main": network}, guidance, given, lambda only: nothing)
    times = Leading(offset=0)(10, process.schedule)
    start, noise = (
        recording.inputs["noise"],
        RecordedNoise(list(recording.inputs["variance_noise"])),
    )
    steps = sampler(waist, start, times, process.schedule, noise)
    found = torch.stack([start, *(step.noisy for step in steps)])
    assert error(found, recording.outputs[f"{name}.latents"]) < 1e-3


@torch.no_grad()
def test_sit_hears_how_clean_and_answers_towards_it(recording, file):
    """Its file looks like DiT's, and at the same number its network answers the same, in the first
    four channels."""
    network, again = loaded(ORIGINAL, file, {"heads": 2, "prediction": "flow"})
    assert same(again, file)
    noisy, given = recording.inputs["x"], told(recording.inputs["labels"])
    answer = network(noisy, torch.full((3,), 1000 * (1 - 500.0)), given)
    assert error(answer, -recording.outputs["output.t500"][:, :4]) < 1e-4
    velocity = torch.randn(3, 4, 8, 8)  # from noise to clean
    estimate = Process(Linear(), Flow()).denoise(
        lambda *_: -velocity, noisy, Linear()(torch.tensor(0.25)), Condition()
    )
    torch.testing.assert_close(estimate.clean, noisy + 0.25 * velocity)


@torch.no_grad()
def test_a_folder_of_diffusers_answers_as_there():
    recording = Recording("diffusers-folders")
    file = recording.weights("dit/transformer/diffusion_pytorch_model.safetensors")
    said = json.loads(recording.file("dit/transformer/config.json").read_text())
    with pytest.raises(BadInput, match="say how many, as heads"):
        DIFFUSERS.config(shapes_of(file), {})
    other = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.weight"
    with pytest.raises(
        BadInput,
        match=rf"{other} is not the same as transformer_blocks\.0.*\(say embedders = each\)",
    ):
        loaded(DIFFUSERS, file, said)
    network, again = loaded(DIFFUSERS, file, said | {"embedders": "each"})
    assert same(again, file)
    described = DIFFUSERS.describe(network.config)
    assert described == {key: said[key] for key in described if key in said} | {"embedders": "each"}
    time = torch.full((2,), 500.0)
    answer = network(recording.outputs["dit.x"], time, told(recording.inputs["dit.labels"]))
    assert error(answer, recording.outputs["dit.transformer.t500"]) < 1e-4
    nothing = network(recording.outputs["dit.x"], time, Condition())
    assert error(nothing, recording.outputs["dit.transformer.t500.null"]) < 1e-4
    with pytest.raises(BadInput, match="the layout dit has one embedder for all blocks"):
        ORIGINAL.table(network.config)


@pytest.mark.parametrize("embedders", ["inclusive", "each"])
@torch.no_grad()
def test_it_answers_as_diffusers_with_the_same_weights(embedders):
    peer = pytest.importorskip("diffusers")
    config = Config(
        4,
        2,
        5,
        7,
        width=48,
        depth=3,
        heads=4,
        variance="learned",
        embedders=embedders,
        mlp_eps=1e-5,
    )
    torch.manual_seed(0)
    network = config.build().eval()
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    theirs = peer.DiTTransformer2DModel.from_config(
        DIFFUSERS.describe(replace(config, embedders="inclusive"))
    ).eval()
    file = dict(DIFFUSERS.table(config).to_theirs(network.state_dict()))
    theirs.load_state_dict(file)
    assert same(
        loaded(DIFFUSERS, file, DIFFUSERS.describe(config))[0].state_dict(), network.state_dict()
    )
    labels, time = torch.tensor([3, 6]), torch.tensor([700.0, 31.0])
    for size in (10, 16):  # another size than the table's stretches it
        noisy = torch.randn(2, 4, size, size)
        wanted = theirs(noisy, time, labels).sample
        assert error(network(noisy, time, Condition(scalars={"label": labels})), wanted) < 1e-4
