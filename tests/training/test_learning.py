"""Training works: losses fall, and in the slow test samples have the colours of their prompts."""

from statistics import fmean

import pytest
from PIL import ImageStat

import safelight
from making import COLOURS, go, metrics, recipe, shape, tables
from safelight import Settings, TextToImage


def check(run, name):
    """The measure as the last check found it."""
    return [line[f"check/{name}"] for line in metrics(run.folder) if f"check/{name}" in line][-1]


def test_an_autoencoder_learns_to_reconstruct(pictures, tmp_path):
    start = go(
        tmp_path / "start",
        recipe(tables("reconstruction", pictures, loop__updates=1, rate__peak=0.0)),
    )
    tree = tables("reconstruction", pictures, loop__updates=60, rate__peak=4e-3, watch__save=0)
    assert check(go(tmp_path / "run", recipe(tree)), "l1") < 0.4 * check(start, "l1")


def test_a_denoiser_learns_more_than_the_mean(pictures, tiny_folder, tmp_path):
    """At a rate of 0 the network stays as it begins: its answer is zero everywhere."""
    changes = {"watch__save": 0, "watch__pictures": 12, "objective__denoiser__patch": 2}
    still = recipe(
        tables("denoising", pictures, tiny_folder, loop__updates=1, rate__peak=0.0, **changes)
    )
    tree = tables(
        "denoising",
        pictures,
        tiny_folder,
        loop__updates=120,
        loop__batch=8,
        rate__peak=1e-2,
        **changes,
    )
    zero = check(go(tmp_path / "still", still), "loss")
    assert zero > 1  # the noise in the target alone
    assert check(go(tmp_path / "run", recipe(tree)), "loss") < 0.75 * zero


@pytest.mark.slow
def test_samples_have_the_colours_of_their_prompts(tmp_path):
    """Squares of three colours: the centre of each sample has the colour of its prompt."""
    for colour in COLOURS:
        (tmp_path / "data" / colour).mkdir(parents=True)
        for shift in (-2, -1, 0, 1, 2):
            path = tmp_path / "data" / colour / f"{shift}.png"
            shape(colour, "square", shift).save(path)
            path.with_suffix(".txt").write_text(f"a {colour} square", encoding="utf-8")
    tree = tables(
        "reconstruction", tmp_path / "data", loop__updates=400, rate__peak=4e-3, watch__save=0
    )
    autoencoder = go(
        tmp_path / "autoencoder", recipe(tree | {"rate": {"peak": 4e-3, "decay": "cosine"}})
    )
    tree = tables(
        "denoising", tmp_path / "data", autoencoder.folder, loop__updates=800, watch__save=0
    )
    tree["objective"]["denoiser"] |= {"patch": 2, "width": 64, "depth": 2}
    tree["loop"] |= {"batch": 16, "ema": 0.99}
    tree["rate"] = {"peak": 3e-3, "decay": "cosine"}
    run = go(tmp_path / "run", recipe(tree))
    model = safelight.load(run.folder, device="cpu", precision="fp32")
    right = [
        nearest(picture) == colour
        for colour in COLOURS
        for picture in safelight.generate(
            model, TextToImage(f"a {colour} square"), Settings(steps=10, guidance=2.0, count=8)
        )
    ]
    assert fmean(right) == 1, f"{sum(right)} of {len(right)}"


def nearest(picture):
    """The colour whose distance to the mean colour of the picture's middle is least."""
    mean = ImageStat.Stat(picture.crop((12, 12, 20, 20))).mean
    return min(
        COLOURS,
        key=lambda name: sum((a - b) ** 2 for a, b in zip(mean, COLOURS[name], strict=True)),
    )
