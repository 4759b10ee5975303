"""The run folder: one owner, one recipe, the same data, complete records, a model."""

import json
import shutil

import pytest
from filelock import FileLock
from PIL import Image

import safelight
from making import AUTOENCODER, go, recipe, tables, write_recipe
from safelight.config import dump, read
from safelight.errors import BadInput, Busy, CannotSave
from safelight.training.recipe import Recipe
from safelight.training.run import Run, open_run


@pytest.fixture(scope="module")
def done(pictures, tiny_folder, tmp_path_factory):
    """A short denoising run that is at its end."""
    from unittest.mock import patch

    folder = tmp_path_factory.mktemp("runs")
    made = recipe(
        tables("denoising", pictures, tiny_folder, title="shapes", loop__updates=4, watch__save=1)
    )
    with patch("safelight.training.loop.plot"):
        return go(folder / "done", made)


def test_a_run_in_use_is_refused(tmp_path, pictures):
    run = Run(tmp_path / "run", recipe(tables("reconstruction", pictures)))
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / "lock"),
        pytest.raises(Busy, match="by another process") as caught,
        run.claim(),
    ):
        pass
    assert caught.value.exit_code == 2
    with run.claim():
        pass  # the lock is free again


def test_a_folder_that_cannot_be_created_is_reported(tmp_path, pictures):
    (tmp_path / "file").write_text("in the way")
    run = Run(tmp_path / "file" / "run", recipe(tables("reconstruction", pictures)))
    with pytest.raises(CannotSave, match="cannot use the run folder"), run.claim():
        pass


def test_another_recipe_is_refused_and_the_same_one_resumes(tmp_path, pictures):
    tree = tables("reconstruction", pictures, loop__updates=1)
    path = write_recipe(tmp_path / "shapes.toml", tree)
    go(tmp_path / "run", open_run(path, tmp_path / "run").recipe)
    assert open_run(path, tmp_path / "run").recipe == open_run(tmp_path / "run").recipe
    with pytest.raises(BadInput, match="holds a run of another recipe; resume it with"):
        open_run(path, tmp_path / "run", ("loop.batch=5",))
    longer = open_run(tmp_path / "run", changes=("loop.updates=2",))
    assert longer.recipe.loop.updates == 2
    assert [path.name for path in go(tmp_path / "run", longer.recipe).checkpoints] == [
        "0000001",
        "0000002",
    ]


def test_the_default_run_folder(tmp_path, pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_recipe(tmp_path / "shapes.toml", tables("reconstruction", pictures))
    assert open_run(path).folder.as_posix() == "runs/shapes"


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"format": 1}'])
def test_a_folder_that_is_not_a_run_is_refused(content, tmp_path):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadInput):
        open_run(tmp_path)


def test_other_data_is_refused(tmp_path, pictures):
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    made = recipe(tables("reconstruction", data, loop__updates=1))
    run = go(tmp_path / "run", made)
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    Image.new("RGB", (32, 32), "black").save(data / "red" / "square2.png")
    with pytest.raises(
        BadInput,
        match=(
            r"the data differs from the data that .* began with \(12 pictures then, 12 now, or "
            r"other ones"
        ),
    ):
        go(tmp_path / "run", recipe(tables("reconstruction", data, loop__updates=2)))
    (data / "red" / "square2.png").unlink()
    with pytest.raises(BadInput, match="12 pictures then, 11 now"):
        go(tmp_path / "run", recipe(tables("reconstruction", data, loop__updates=2)))
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


def test_a_damaged_checkpoint_is_one_sentence_and_the_one_before_resumes(tmp_path, pictures):
    run = go(
        tmp_path / "run", recipe(tables("reconstruction", pictures, loop__updates=2, watch__save=1))
    )
    newest = run.checkpoints[-1]
    file = newest / "state.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    longer = recipe(tables("reconstruction", pictures, loop__updates=3, watch__save=1))
    with pytest.raises(
        BadInput, match=f"{newest.name}' cannot be read .*; remove it to resume from the one before"
    ):
        go(run.folder, longer)
    shutil.rmtree(newest)
    assert [path.name for path in go(run.folder, longer).checkpoints] == ["0000002", "0000003"]


def test_the_newest_checkpoints_are_kept_and_leftovers_removed(tmp_path, pictures):
    made = recipe(tables("reconstruction", pictures, loop__updates=4, watch__save=1, watch__keep=3))
    for left in (
        "checkpoints/.0000001.77.part",
        ".model.77.part",
        "checkpoints/.0000001.77.old",
        ".model.77.old",
    ):
        (tmp_path / "run" / left).mkdir(parents=True)
        (tmp_path / "run" / left / "state.safetensors").write_bytes(b"half")
    for left in (".origin.json.77.part", "samples/.0000001.png.77.part"):
        (tmp_path / "run" / left).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / left).write_bytes(b"half")
    run = go(tmp_path / "run", made)
    assert [path.name for path in run.checkpoints] == ["0000002", "0000003", "0000004"]
    assert not list(run.folder.rglob(".*"))
    assert {path.name for path in run.folder.iterdir()} == {
        *(
            "config.json",
            "origin.json",
            "data.json",
            "metrics.jsonl",
            "samples",
            "checkpoints",
            "model",
            "lock",
        )
    }


def test_a_run_that_did_not_start_leaves_nothing(tmp_path, pictures):
    made = recipe(tables("reconstruction", pictures, framing__size=33))
    with pytest.raises(BadInput, match="multiples of 2, got 33×33"):
        go(tmp_path / "runs" / "odd", made, tmp_path / "cache")
    assert not (tmp_path / "runs").exists()


def test_the_records_are_complete(done, pictures, tiny_folder):
    assert read(Recipe, json.loads((done.folder / "config.json").read_text())) == done.recipe
    assert dump(done.recipe)["objective"]["denoiser"]["width"] == 32
    (start,) = done.recall("origin")["starts"]
    assert {"safelight", "commit", "torch", "python", "machine", "gpu", "seed"} <= set(start)
    assert start["seed"] == 3
    data = done.recall("data")["data"]
    assert data["paths"] == [str(pictures)]
    assert (data["licence"], data["count"], data["good"], data["broken"]) == ("CC0", 12, 12, [])
    assert len(data["digest"]) == 64
    assert int(data["digest"], 16) > 0


def test_a_zip_is_recorded_by_its_hash(tmp_path, pictures):
    from hashlib import sha256

    archive = shutil.make_archive(str(tmp_path / "shapes"), "zip", pictures)
    tree = tables("reconstruction", pictures, loop__updates=1, data__paths=[archive])
    tree["validation"] = {"kind": "folder", "paths": [str(pictures / "red")], "licence": "MIT"}
    records = go(tmp_path / "run", recipe(tree)).recall("data")
    assert records["data"]["sha256"] == {
        "shapes.zip": sha256((tmp_path / "shapes.zip").read_bytes()).hexdigest()
    }
    assert (records["validation"]["count"], records["validation"]["licence"]) == (4, "MIT")


def test_the_model_of_a_run_loads_and_makes_pictures(done, tiny_folder):
    model = safelight.load(done.folder, device="cpu", precision="fp32")
    assert model.card.name == "shapes"
    assert model.card.size == (32, 32)
    assert model.card.settings.steps == 2
    assert model.card.data[0]["digest"] == done.recall("data")["data"]["digest"]
    assert model.card.origin["updates"] == 4
    assert "commit" in model.card.origin
    (picture,) = safelight.generate(model, safelight.TextToImage("a red square"))
    assert picture.size == (32, 32)
    assert len(set(picture.convert("L").tobytes())) > 3


def test_the_autoencoder_of_a_run_has_its_scale(tmp_path, pictures):
    run = go(tmp_path / "run", recipe(tables("reconstruction", pictures, loop__updates=1)))
    model = safelight.load(run.folder, device="cpu", precision="fp32")
    assert model.autoencoder.config.width == AUTOENCODER["width"]
    assert model.denoiser is None
    from safelight.media.pictures import to_images

    shown = to_images([Image.open(path) for path in sorted(pictures.rglob("*.png"))])
    encoding = model.autoencoder.encode(shown)
    assert encoding.mean.mean((0, 2, 3)).abs().max() < 1e-3
    second = (encoding.mean.square() + encoding.deviation.square()).mean((0, 2, 3))
    assert second == pytest.approx([1.0] * 4, abs=1e-3)


def test_text_is_not_trained_on_pictures_without_captions(tmp_path, tiny_folder):
    from making import shapes

    bare = shapes(tmp_path / "bare", captions=False)
    with pytest.raises(BadInput, match=r"no picture has a caption.*metadata.jsonl.*label"):
        go(tmp_path / "run", recipe(tables("denoising", bare, tiny_folder)))
    assert not (tmp_path / "run").exists()
    tree = tables(
        "denoising",
        bare,
        tiny_folder,
        loop__updates=1,
        objective__conditioner={"kind": "label", "classes": 3, "width": 16},
    )
    tree["objective"]["denoiser"]["text"] = "none"
    tree["objective"]["prompts"] = ["red"]
    assert go(tmp_path / "run", recipe(tree)).checkpoints


def test_another_autoencoder_under_a_denoiser_is_refused(tmp_path, pictures, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "autoencoder")
    made = recipe(tables("denoising", pictures, tmp_path / "autoencoder", loop__updates=1))
    go(tmp_path / "run", made)
    other = safelight.load(tmp_path / "autoencoder", precision="fp32")
    next(other.autoencoder.parameters()).add_(0.1)
    safelight.save(other, tmp_path / "autoencoder")
    with pytest.raises(
        BadInput, match=r"began with \{'autoencoder': .* restore it, or start a new run"
    ):
        go(tmp_path / "run", made)
