"""Judging a denoiser from end to end, on a tiny model and drawn shapes."""

import json

import pytest
import torch

import making
from given_networks import clip_model
from safelight.data.sources.folder import Config as Folder
from safelight.errors import BadInput
from safelight.evaluation import reference as real
from safelight.evaluation.clip_score import clip_score_figure
from safelight.evaluation.distances import frechet_distance, kernel_distance
from safelight.evaluation.generation import DenoiserEvaluation, Plan
from safelight.evaluation.generation_report import page, write_evaluation
from safelight.evaluation.retrieval import ranks
from safelight.evaluation.sampling import sample
from safelight.features.clip import Config as CLIPConfig
from safelight.media.pictures import to_images
from safelight.pipeline import generate, resolve
from safelight.settings import Settings
from safelight.tasks.text_to_image import TextToImage
from safelight.tokenization.tokenizers import shipped


class Corners:
    """A feature network that sees four places of a picture, and counts how often it looked."""

    name, least, heads = "corners", 1, ()

    def __init__(self):
        super().__init__()
        self.seen = 0

    def maps(self, images):
        return (images,)

    def vector(self, images):
        self.seen += len(images)
        return images[:, :, 8:-8:8, 8:-8:8].flatten(1)


class Network(Corners, torch.nn.Module):
    pass


def quiet(*told):
    pass


@pytest.fixture
def data(tmp_path):
    """Twelve held-out and twelve training pictures of shapes, with styles, names and groups."""
    rows = []
    (tmp_path / "images").mkdir()
    for split, shifts in (("train", (-4, -2, 1, 3)), ("held", (-3, 2))):
        for colour in making.COLOURS:
            for kind in making.SHAPES:
                for shift in shifts:
                    name = f"images/{split}-{colour}-{kind}-{shift}.png"
                    making.shape(colour, kind, shift).save(tmp_path / name)
                    row = {"file": name, "caption": f"{colour} {kind}, plain", "split": split}
                    row |= {"style": kind, "name": f"{colour} {kind}", "group": colour}
                    rows.append(row)
    text = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "metadata.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def pictures(data, split, columns=None, count=100):
    config = Folder((str(data),), {"split": split})
    return real.reference(config, columns or real.Columns(), 32, count, quiet, split)


PLAN = Plan(
    Settings(steps=2, seed=5),
    repeats=40,
    things=3,
    diversity_prompts=2,
    diversity_seeds=3,
    speed_repeats=1,
    curve_prompts=4,
    curve_steps=(1, 2),
    curve_guidance=(1.0,),
)


def judging(data, network, **changes):
    plan = Plan(**(vars(PLAN) | changes))
    return DenoiserEvaluation(
        making.tiny_model(), [network], pictures(data, "held"), pictures(data, "train"), plan, quiet
    )


def test_references_know_what_the_metadata_say(data):
    held = pictures(data, "held")
    assert (len(held), held.captions[0]) == (12, "blue circle, plain")
    assert (held.styles[0], held.things[0], held.groups[0]) == ("circle", "blue circle", "blue")
    few = pictures(data, "held", count=4)
    assert few.captions == [held.captions[place] for place in (0, 3, 6, 9)]
    assert few.things == [held.things[place] for place in (0, 3, 6, 9)]
    other = pictures(data, "held", real.Columns(style="group"))
    assert other.styles[0] == "blue"
    with pytest.raises(BadInput, match="unknown metadata key"):
        pictures(data, "held", real.Columns(style="colour"))


def test_class_folders_are_things_without_styles(tmp_path):
    making.shapes(tmp_path / "shapes", captions=False)
    held = real.reference(Folder((str(tmp_path / "shapes"),)), real.Columns(), 32, 100, quiet, "")
    assert set(held.things) == {"red", "green", "blue"}
    assert set(held.captions) == {"red", "green", "blue"}
    assert set(held.styles) == set(held.groups) == {""}


def test_training_pictures_among_held_out_ones_are_counted(data):
    held, training = pictures(data, "held"), pictures(data, "train")
    assert real.shared_pictures(held, training) == 0
    (data / "images" / "held-red-square--3.png").write_bytes(
        (data / "images" / "train-red-square--4.png").read_bytes()
    )
    assert real.shared_pictures(pictures(data, "held"), training) == 1
    with pytest.raises(BadInput, match="all 24 pictures to judge against are training pictures"):
        real.shared_pictures(training, training)


def test_features_of_real_pictures_are_kept_between_runs(data):
    held, network = pictures(data, "held"), Network()
    first = real.reference_vectors(network, held, quiet)
    again = real.reference_vectors(network, held, quiet)
    assert torch.equal(first, again)
    assert network.seen == 12
    assert torch.equal(first, network.vector(held.images(range(12))))

    class Other(Network):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

    other = Other()
    real.reference_vectors(other, held, quiet)
    assert other.seen == 12  # other weights, other features


def test_samples_can_be_made_again_alone():
    model = making.tiny_model()
    prompts = ["a red square", "a blue circle", "a green square"]
    found = sample(model, prompts, Settings(steps=2, seed=7), quiet, batch=2)
    assert found.shape == (3, 3, 32, 32)
    for place, prompt in enumerate(prompts):
        settings = Settings(steps=2, seed=7 + place)
        (alone,) = generate(model, TextToImage(prompt), settings)
        change = (found[place] - to_images([alone])[0]) * 127.5
        assert float(change.abs().max()) < 1.01


@pytest.mark.filterwarnings("ignore::safelight.errors.Note")  # a tiny model reads few tokens
def test_everything_is_judged_and_written(data, tmp_path):
    network = Network()
    run = judging(data, network)
    made = run.evaluate()
    facts = made.facts
    assert (facts["judged"], facts["model"]["name"], facts["seed"]) == ("denoiser", "tiny", 5)
    assert facts["settings"]["steps"] == 2
    assert facts["data"]["held_out_among_training"] == 0
    rows = facts["distribution"]["corners"]
    assert [row["set"] for row in rows] == [
        "samples",
        "real training pictures",
        "nearest caption's picture",
    ]
    names = [figure["name"] for figure in rows[0]["figures"]]
    assert names == [
        *("kernel distance", "Fréchet distance", "FD∞"),
        *("precision", "recall", "density", "coverage", "Fréchet floor"),
    ]
    for row in rows:
        for figure in row["figures"]:
            assert (figure["features"], figure["count"]) == ("corners", 12)
            assert figure["low"] <= figure["high"]
    samples, held = run.first_vectors
    first = {figure["name"]: figure["value"] for figure in rows[0]["figures"]}
    assert first["kernel distance"] == kernel_distance(samples, held)
    assert first["Fréchet distance"] == frechet_distance(samples, held)
    cheat = {figure["name"]: figure["value"] for figure in rows[2]["figures"]}
    assert cheat["kernel distance"] < first["kernel distance"]  # an untrained model is worse
    obedience = {figure["name"]: figure["value"] for figure in facts["obedience"]}
    order = ranks(samples, held, run.held_out.styles)
    assert obedience["true picture first"] == float((order == 1).double().mean())
    assert {one["name"] for one in facts["atoms"]} >= {"atom: thing", "atom: style", "atom: number"}
    assert [one["name"] for one in facts["memorisation"]][:2] == [
        "near-copies among samples",
        "near-copies among held-out pictures",
    ]
    assert [point["steps"] for point in facts["curves"]["steps"]] == [1, 2]
    (kernel, first_rank, *_) = facts["curves"]["guidance"][0]["figures"]
    assert (kernel["name"], kernel["features"]) == ("kernel distance", "corners")
    assert kernel["low"] <= kernel["value"] <= kernel["high"]
    assert (first_rank["name"], first_rank["count"]) == ("true picture first", 4)
    assert facts["diversity"][0]["note"] == "2 prompts of 3 seeds"
    assert facts["speed"][0]["value"] > 0
    json.dumps(facts)
    written = write_evaluation(made, tmp_path / "r.md")
    assert {path.name for path in written} >= {"r.md", "r.json", "r-samples.png", "r-atoms.png"}
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert text.startswith("# The denoiser of tiny on 12 held-out pictures of ")
    assert "Judged is the denoiser" in text
    assert "![nearest](r-nearest.png)" in text
    assert "12 vectors of 12 features" in text
    assert all(line.count("|") == 5 for line in text.splitlines() if line.startswith("| kernel"))


def test_without_training_pictures_there_are_no_baselines(data):
    run = judging(
        data,
        Network(),
        things=0,
        diversity_prompts=0,
        curve_steps=(),
        curve_guidance=(),
        speed_repeats=0,
    )
    made = DenoiserEvaluation(
        run.model, run.networks, run.held_out, None, run.plan, quiet
    ).evaluate()
    assert [row["set"] for row in made.facts["distribution"]["corners"]] == ["samples"]
    assert {"atoms", "memorisation", "diversity", "curves"}.isdisjoint(made.facts)
    assert list(made.sheets) == ["samples"]
    assert "Memorisation" not in page(made.facts, {})


def test_more_samples_than_captions_take_the_captions_in_turn(data):
    few = judging(data, Network())
    run = judging(data, Network(), samples=15)
    assert run.samples.shape[0] == 15
    assert torch.equal(run.samples[:12], few.samples)
    again = sample(run.model, [run.held_out.captions[0]], Settings(steps=2, seed=5 + 12), quiet)
    assert float((again[0] - run.samples[12]).abs().max()) <= 1.01 / 127.5
    assert [figure.value for figure in run.obedience()[:2]] == [
        figure.value for figure in few.obedience()[:2]
    ]
    rows = run.distribution(run.first)
    assert rows[0]["figures"][0]["value"] == kernel_distance(*run.first_vectors)
    assert len(run.real_draw) == 15


def test_the_settings_are_the_card_s_where_nothing_is_said(data):
    run = judging(data, Network(), settings=Settings(seed=1))
    assert run.settings.steps == resolve(run.model, Settings()).steps == 3


def test_the_clip_score_is_the_scaled_cosine(data, tmp_path):
    _, path = clip_model(tmp_path)
    network = CLIPConfig(str(path)).build()
    held = pictures(data, "held")
    images = held.images(range(3))
    captions = ["a fox", "a red square", "nothing"]
    figure = clip_score_figure(
        network, images, captions, 50, torch.Generator().manual_seed(0), batch=2
    )
    ids = [
        [49406, *shipped("clip").encode(text, add_special_tokens=False).ids, 49407]
        for text in captions
    ]
    seen, read = network.vector(images), network.text_vector(ids)
    cosine = (seen * read).sum(1) / (seen.norm(dim=1) * read.norm(dim=1))
    assert figure.value == pytest.approx(float((2.5 * cosine.clamp(min=0)).mean()), abs=1e-6)
    assert (figure.features, figure.count) == ("clip-vit-64-14", 3)
