"""The first-stage recipes are up to date, can be built, and have the latents of the paper."""

import sys
import tomllib
from pathlib import Path

import pytest
import torch

from safelight.config import read
from safelight.training.recipe import Recipe
from safelight.types.networks import DiscreteAutoencoder

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from first_stage_recipes import FOLDER, ROWS, SMALL, small, written


def test_the_files_are_what_the_script_writes():
    found = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.toml")}
    assert found == {f"{row.name}.toml": written(row) for row in ROWS}, (
        "run python scripts/first_stage_recipes.py"
    )
    assert len(found) == len(ROWS) == 18
    found = {path.name: path.read_text("utf-8") for path in FOLDER.glob("small/*")}
    assert found == {f"{row.name}.toml": small(row) for row in SMALL}, (
        "run python scripts/first_stage_recipes.py"
    )


@pytest.mark.parametrize("row", SMALL, ids=lambda row: row.name)
def test_the_small_ones_have_about_a_million_parameters_and_the_factor_of_their_name(row):
    autoencoder = read(Recipe, tomllib.loads(small(row))).objective.autoencoder.build()
    assert row.title.endswith(f" f{autoencoder.factor}")
    assert 0.9e6 < sum(p.numel() for p in autoencoder.parameters()) < 1.3e6


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_builds_and_makes_the_latents_of_the_table(row):
    config = read(Recipe, tomllib.loads(written(row))).objective.autoencoder
    with torch.device("meta"):
        autoencoder = config.build()
        latents = autoencoder.encode(torch.empty(1, 3, 256, 256)).mode()
    side = 256 // row.factor
    assert (
        autoencoder.latent_shape((1, 3, 256, 256))
        == tuple(latents.shape)
        == (1, row.channels, side, side)
    )
    assert isinstance(autoencoder, DiscreteAutoencoder) == bool(row.codes)
    if row.codes:
        assert autoencoder.codes == row.codes
        assert autoencoder.codebook.codes.shape == (row.codes, row.channels)
    else:
        assert autoencoder.regularisers(
            autoencoder.encode(torch.empty(1, 3, 256, 256, device="meta"))
        ).keys() == {"kl"}
