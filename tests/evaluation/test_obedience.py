"""Measurement, classifiers, retrieval, memorisation, diversity: as SciPy and scikit-learn."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial.distance import cdist, pdist
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from safelight.evaluation import classifier, diversity, measurement, memorisation, retrieval
from safelight.media.pictures import to_images


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(*shapes, ground="white", size=96):
    """A picture of (colour, left, top, side) squares and discs, as images."""
    picture = Image.new("RGB", (size, size), ground)
    draw = ImageDraw.Draw(picture)
    for number, (colour, left, top, side) in enumerate(shapes):
        draw_shape = draw.ellipse if number % 2 else draw.rectangle
        draw_shape((left, top, left + side, top + side), fill=colour)
    return to_images([picture])


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((220, 30, 40), "red"),
        ((255, 140, 20), "orange"),
        ((250, 220, 40), "yellow"),
        ((60, 170, 60), "green"),
        ((40, 90, 220), "blue"),
        ((140, 60, 200), "purple"),
        ((245, 120, 190), "pink"),
        ((120, 70, 30), "brown"),
        ((20, 20, 20), "black"),
        ((150, 150, 150), "grey"),
    ],
)
def test_colours_have_their_names(rgb, name):
    assert measurement.colours(scene((rgb, 20, 20, 50))) == [name]
    assert measurement.colours(scene(((20, 20, 20), 10, 10, 20), (rgb, 30, 30, 50))) == [name]


def test_white_is_seen_on_another_ground_and_nothing_on_its_own():
    assert measurement.colours(scene(("white", 20, 20, 50), ground=(40, 90, 220))) == ["white"]
    assert measurement.colours(scene()) == ["white"]
    assert measurement.counts(scene()) == [0]
    assert measurement.positions(scene()) == ["centre"]


def test_things_are_counted_and_small_parts_are_not():
    squares = [
        ("red", 5, 5, 25),
        ("blue", 60, 10, 25),
        ("green", 10, 60, 25),
        ("black", 60, 60, 25),
    ]
    for number in range(1, 5):
        assert measurement.counts(scene(*squares[:number])) == [number]
    assert measurement.counts(scene(squares[0], ("red", 50, 50, 6))) == [1]
    near = scene(("red", 20, 20, 20), ("red", 42, 20, 20))  # one thing of two parts, 1 pixel apart
    assert measurement.counts(near) == [1]


@pytest.mark.parametrize(
    ("left", "top", "side"),
    [(5, 33, "left"), (60, 33, "right"), (33, 5, "top"), (33, 60, "bottom"), (33, 33, "centre")],
)
def test_positions(left, top, side):
    assert measurement.positions(scene(("red", left, top, 30))) == [side]


@pytest.mark.parametrize("density", [0.3, 0.45, 0.6, 1.0])
def test_components_are_those_of_scipy(density):
    mask = torch.rand(40, 37, generator=generator(3)) <= density
    found = measurement.components(mask).numpy()
    wanted, count = ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
    assert found.max() == count
    assert len({*zip(found.flat, wanted.flat, strict=True)}) == len(np.unique(wanted))


def clusters(classes=3, each=30, d=6, seed=0, spread=1.2):
    rng = np.random.default_rng(seed)
    centres = 2 * rng.standard_normal((classes, d))
    x = np.concatenate([c + spread * rng.standard_normal((each, d)) for c in centres])
    return x, [name for name in "abc"[:classes] for _ in range(each)]


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_logistic_regression_is_that_of_scikit_learn(strength):
    x, labels = clusters()
    ours = classifier.logistic_regression(torch.tensor(x), labels, strength)
    scaler = StandardScaler().fit(x)
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(
        scaler.transform(x), labels
    )
    wanted = theirs.predict_proba(scaler.transform(x))
    np.testing.assert_allclose(ours.probabilities(torch.tensor(x)).numpy(), wanted, atol=1e-5)
    assert ours(torch.tensor(x)) == theirs.predict(scaler.transform(x)).tolist()


def test_the_nearest_mean_is_the_plain_loop():
    x, labels = clusters(3, 8)
    kinds = ["flat" if place % 2 else "round" for place in range(len(x))]
    x[1::2] += 5  # a style far from the other
    vectors = torch.tensor(x)
    means = classifier.kind_means(vectors, kinds)
    model, right = classifier.nearest_mean(vectors, labels, kinds, means)
    centre = {kind: x[[k == kind for k in kinds]].mean(0) for kind in ("flat", "round")}
    unit = np.stack([v - centre[k] for v, k in zip(x, kinds, strict=True)])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)

    def named(vector, left_out=None):
        rows = {
            name: [
                u
                for p, (u, label) in enumerate(zip(unit, labels, strict=True))
                if label == name and p != left_out
            ]
            for name in "abc"
        }
        return max(
            "abc", key=lambda n: vector @ np.mean(rows[n], 0) / np.linalg.norm(np.mean(rows[n], 0))
        )

    assert model(vectors, kinds) == [named(u) for u in unit]
    assert right == sum(
        named(u, p) == label for p, (u, label) in enumerate(zip(unit, labels, strict=True))
    )
    alone, none = classifier.nearest_mean(vectors[:3], ["a", "b", "c"], kinds[:3], means)
    assert (alone.names, none) == (("a", "b", "c"), 0)


def test_ranks_are_the_plain_loop():
    rng = np.random.default_rng(0)
    real = rng.standard_normal((20, 4))
    samples = real + 0.8 * rng.standard_normal((20, 4))
    kinds = ["ab"[place % 2] for place in range(20)]
    between = cdist(samples, real)
    wanted = [
        1 + sum(between[i, j] < between[i, i] for j in range(20) if j != i and kinds[i] == kinds[j])
        for i in range(20)
    ]
    found = retrieval.ranks(torch.tensor(samples), torch.tensor(real), kinds)
    assert found.tolist() == wanted
    first, five = retrieval.rank_figures(found, kinds)
    assert (first.value, first.chance) == (np.mean(np.array(wanted) == 1), pytest.approx(0.1))
    assert (five.value, five.chance) == (np.mean(np.array(wanted) <= 5), pytest.approx(0.5))
    assert 1 < np.mean(wanted) < 8
    assert first.low < first.value < first.high


def test_the_same_picture_for_all_is_not_first():
    same = torch.zeros(4, 3)
    assert retrieval.ranks(same, same, ["a"] * 4).tolist() == [4] * 4


def test_nearest_captions_are_those_of_scikit_learn():
    known = [
        "red fox, flat emoji",
        "fox face, glossy 3d emoji",
        "red apple, flat emoji",
        "two red hearts",
    ]
    asked = ["a fox, glossy 3d emoji", "red hearts, flat emoji", "green apple, flat emoji", "whale"]
    vectoriser = TfidfVectorizer(token_pattern=r"\w+").fit(known)
    likeness = (vectoriser.transform(asked) @ vectoriser.transform(known).T).toarray()
    assert retrieval.nearest_captions(asked, known) == likeness.argmax(1).tolist()


def test_memorisation_finds_planted_copies():
    rng = np.random.default_rng(0)
    training, fresh = rng.standard_normal((50, 8)), rng.standard_normal((20, 8))
    samples = np.concatenate([training[:5] + 0.01, fresh[:15]])
    found = memorisation.nearest(torch.tensor(samples), torch.tensor(training), chunk=7)
    between = cdist(samples, training)
    np.testing.assert_allclose(found.distances, between.min(1))
    assert found.places.tolist() == between.argmin(1).tolist()
    held_out = memorisation.nearest(torch.tensor(fresh), torch.tensor(training))
    limit = memorisation.threshold(torch.tensor(training), torch.tensor(training + 0.03))
    assert limit == pytest.approx(0.03 * 8**0.5)
    ours, real, ratio = memorisation.memorisation_figures(found, held_out, limit, 2000, generator())
    assert (ours.value, real.value) == (5 / 20, 0)
    wanted = float(found.distances.median() / held_out.distances.median())
    assert ratio.value == pytest.approx(wanted)
    assert ratio.low < ratio.value < ratio.high


def test_an_altered_picture_is_slightly_different():
    image = scene(("red", 20, 20, 50))
    change = (memorisation.altered(image) - image).abs()
    assert image.shape == change.shape
    assert 0.001 < float(change.mean()) < 0.1
    assert measurement.counts(memorisation.altered(image)) == [1]


def test_diversity_is_the_mean_of_all_pairs():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((6, 4, 5))
    assert diversity.mean_distance(torch.tensor(x[0])) == pytest.approx(pdist(x[0]).mean())
    figure = diversity.diversity_figure(torch.tensor(x), 2.0, 500, generator())
    assert figure.value == pytest.approx(np.mean([pdist(one).mean() for one in x]) / 2)
    assert figure.note == "6 prompts of 4 seeds"
    same = diversity.diversity_figure(torch.zeros(3, 4, 5), 2.0, 10, generator())
    assert same.value == 0
