"""The commands that judge and use an autoencoder, and how they refuse what cannot be done."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import making
from safelight.autoencoders.kl.config import Config as KL
from safelight.autoencoders.vq.config import Config as VQ
from safelight.card import Card
from safelight.checkpoints import save
from safelight.media.pictures import read_recipe
from safelight.model import LatentDiffusion

PART = ("--part", "autoencoder")


@pytest.fixture
def safelight(monkeypatch, capsys, tmp_path):
    """The command line in this process and an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = making.exit_code(monkeypatch, *words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_evaluate_prints_a_table_and_writes_a_report(safelight, tiny_folder, pictures, tmp_path):
    code, out, err = safelight(
        "evaluate", tiny_folder, pictures, *PART, "--count", 5, "--out", "sub/r.md"
    )
    assert (code, err) == (0, "")
    assert "PSNR" in out
    assert "tiny (kl) on 5 of shapes" in out
    facts = json.loads((tmp_path / "sub" / "r.json").read_text())
    assert [name.split(" (")[0] for name in facts["measured"]] == [
        "reconstruction Fréchet distance",
        "perceptual distance",
        "PSNR",
        "SSIM",
    ]
    assert facts["data"]["judged"] == 5
    assert "32 pixels" in facts["framing"]
    page = (tmp_path / "sub" / "r.md").read_text()
    assert "![sheet](r.png)" in page
    assert all(name in page for name in facts["measured"])
    with Image.open(tmp_path / "sub" / "r.png") as sheet:
        assert sheet.size == (3 * 32 + 4, 5 * 32 + 8)


def test_evaluate_prints_json_and_knows_codebooks(safelight, pictures, tmp_path):
    part = VQ(width=8, multipliers=(1, 2), blocks=1, groups=4).build()
    save(LatentDiffusion(autoencoder=part, card=Card(name="vq", size=(32, 32))), tmp_path / "vq")
    code, out, _ = safelight(
        "evaluate", tmp_path / "vq", pictures, "--count", 2, "--size", 36, "--json"
    )
    measured = json.loads(out)["measured"]
    assert code == 0
    assert any(name.startswith("codebook usage (of ") for name in measured)
    assert measured["codebook perplexity"] >= 1
    assert any("2 pictures of 36×36" in name for name in measured)


@pytest.mark.parametrize("tile", [0, 16])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (33, 47)])
def test_reconstruct_keeps_the_size(safelight, tiny_folder, tmp_path, size, tile):
    making.shape("red").resize(size).save("in.png")
    code, out, _ = safelight(
        "reconstruct", "in.png", "out.png", "--model", tiny_folder, "--tile", tile, "--json"
    )
    assert (code, json.loads(out)["file"]) == (0, "out.png")
    with Image.open("out.png") as picture:
        assert picture.size == size
    assert read_recipe(tmp_path / "out.png")["tile"] == tile


def refused(result):
    code, out, err = result
    (line,) = err.splitlines()
    assert (code, out) == (2, "")
    return line


def test_a_file_that_is_not_a_picture_is_named(safelight, tiny_folder, tmp_path):
    (tmp_path / "in.png").write_text("no picture")
    line = refused(safelight("reconstruct", "in.png", "out.png", "--model", tiny_folder))
    assert line.startswith("error: in.png: not a picture that can be read (")
    line = refused(safelight("reconstruct", "gone.png", "out.png", "--model", tiny_folder))
    assert line.startswith("error: gone.png: not a picture that can be read (")
    assert not (tmp_path / "out.png").exists()


def test_nan_pixels_are_refused(safelight, tiny_folder):
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save("in.tiff")
    line = refused(safelight("reconstruct", "in.tiff", "out.png", "--model", tiny_folder))
    assert (
        "in.tiff: not a picture that can be read (it has pixels that are NaN or infinite)" in line
    )


def test_another_number_of_channels_is_refused(safelight, tmp_path):
    part = KL(width=8, multipliers=(1, 2), blocks=1, groups=4, channels=1).build()
    save(LatentDiffusion(autoencoder=part), tmp_path / "grey")
    making.shape("red").save("in.png")
    line = refused(safelight("reconstruct", "in.png", "out.png", "--model", "grey"))
    assert line == "error: kl: wanted images of 1 channels, got 3."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "4"], "wanted pictures of at least"),
        (["--size", "0"], "framing: wanted 0 < size"),
    ],
)
def test_sizes_that_cannot_be_evaluated_are_refused(
    safelight, tiny_folder, pictures, words, message
):
    line = refused(safelight("evaluate", tiny_folder, pictures, *PART, "--count", 2, *words))
    assert message in line


def test_a_broken_file_is_skipped_only_if_asked_and_is_named(
    safelight, tiny_folder, pictures, tmp_path
):
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data" / "red" / "broken.png").write_bytes(b"\x89PNG not")
    line = refused(safelight("evaluate", tiny_folder, "data", *PART))
    assert "1 of 13 pictures cannot be read: red/broken.png:" in line
    code, out, _ = safelight("evaluate", tiny_folder, "data", *PART, "--skip-broken", "--json")
    data = json.loads(out)["data"]
    assert (code, data["judged"], len(data["broken"])) == (0, 12, 1)
    assert "Left out: red/broken.png" in (tmp_path / "report.md").read_text()


def test_a_model_without_an_autoencoder_is_refused(safelight, tmp_path):
    making.shape("red").save("in.png")
    whole = making.tiny_model()
    save(LatentDiffusion(conditioner=whole.conditioner, card=Card(name="half")), tmp_path / "half")
    line = refused(safelight("reconstruct", "in.png", "out.png", "--model", "half"))
    assert line == "error: the model 'half' has no autoencoder; load a model that holds one."
