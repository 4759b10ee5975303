"""Models side by side, choices made blindly, and outside judges."""

import csv
import json
import random

import pytest
import torch
from PIL import Image

import making
from safelight.errors import BadInput
from safelight.evaluation import comparison, judges
from safelight.evaluation.generation import Plan
from safelight.settings import Settings


def quiet(*told):
    pass


@pytest.fixture(scope="module")
def found():
    """Two models that differ in their steps, three prompts, two seeds each."""
    model = making.tiny_model()
    models = {"ours": model, "theirs": making.tiny_model(Settings(steps=1))}
    prompts = ["a red square", "a blue circle", "a green square"]
    plan = Plan(Settings(seed=3), speed_repeats=1)
    return comparison.compare(models, prompts, 2, plan, quiet)


def test_the_same_prompts_and_seeds_go_to_every_model(found):
    assert found.rows == [
        *(("a red square", 3), ("a red square", 4), ("a blue circle", 5), ("a blue circle", 6)),
        *(("a green square", 7), ("a green square", 8)),
    ]
    assert {name: len(images) for name, images in found.images.items()} == {"ours": 6, "theirs": 6}
    assert not torch.equal(found.images["ours"], found.images["theirs"])
    again = comparison.compare(
        {"again": making.tiny_model()},
        found.prompts,
        2,
        Plan(Settings(seed=3), speed_repeats=1),
        quiet,
    )
    assert torch.equal(again.images["again"], found.images["ours"])
    assert [figure.name for figure in found.figures["ours"]] == [
        "parameters, millions",
        "seconds a picture, alone",
        "seconds a picture, 8 in a batch",
    ]


def test_the_page_has_a_table_and_a_sheet(found, tmp_path):
    written = comparison.write_comparison(found, tmp_path / "c.md")
    assert {path.name for path in written} == {"c.md", "c.json", "c.png"}
    text = (tmp_path / "c.md").read_text(encoding="utf-8")
    assert text.startswith("# ours and theirs, side by side")
    assert "| figure | ours | theirs |" in text
    assert json.loads((tmp_path / "c.json").read_text())["figures"]["theirs"]
    with Image.open(tmp_path / "c.png") as sheet:
        assert sheet.width == 3 * (32 + 4) - 4
        assert sheet.height > 6 * 32


def test_a_blind_sheet_can_be_read_with_its_key_alone(found, tmp_path):
    """Every picture of the sheet is where the key says, and no other file names a model."""
    written = comparison.write_comparison(found, tmp_path / "c.md", random.Random(1))
    assert [path.name for path in written] == ["c-blind.png", "c-choices.csv", "c-key.json"]
    key = comparison.read_key(tmp_path / "c-key.json")
    assert {tuple(row["columns"]) for row in key["rows"]} == {
        ("ours", "theirs"),
        ("theirs", "ours"),
    }
    assert "ours" not in (tmp_path / "c-choices.csv").read_text()
    pixels = making.to_images([Image.open(tmp_path / "c-blind.png").convert("RGB")])[0]
    for number, row in enumerate(key["rows"]):
        for column, name in enumerate(row["columns"]):
            picture = found.images[name][number]
            top = 26 + 4 + number * 36  # the head, then rows of 32 pixels and gaps of 4
            left = (column + 1) * 36
            there = pixels[:, top : top + 32, left : left + 32]
            torch.testing.assert_close(there, picture, atol=1e-2, rtol=0)


def test_choices_are_counted_with_an_interval(found, tmp_path):
    comparison.write_comparison(found, tmp_path / "c.md", random.Random(1))
    key = comparison.read_key(tmp_path / "c-key.json")
    with (tmp_path / "c-choices.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = ["ours", "ours", "theirs", "ours", None, ""]
    for row, name, known in zip(rows, wanted, key["rows"], strict=True):
        row["choice"] = (
            "0" if name is None else str(known["columns"].index(name) + 1 if name else "")
        )
    with (tmp_path / "filled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    ours, theirs = comparison.count_choices(key, comparison.read_choices(tmp_path / "filled.csv"))
    assert (ours.name, ours.value, ours.count) == ("chosen: ours", 0.75, 4)
    assert ours.low == pytest.approx(0.3006, abs=1e-4)  # Wilson: 3 of 4
    assert theirs.value == 0.25
    assert ours.note == "4 of 6 rows decided"


def test_other_files_are_refused(found, tmp_path):
    key = {"models": ["a", "b"], "rows": [{"row": 1, "columns": ["a", "b"]}]}
    with pytest.raises(BadInput, match="row 2, column 1: wanted rows 1 to 1"):
        comparison.count_choices(key, {2: 1})
    with pytest.raises(BadInput, match="no row has a choice yet"):
        comparison.count_choices(key, {1: 0})
    (tmp_path / "other.csv").write_text("row,choice\n1,left\n")
    with pytest.raises(BadInput, match="is not a filled-in form"):
        comparison.read_choices(tmp_path / "other.csv")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(BadInput, match="is not the key that compare --blind wrote"):
        comparison.read_key(tmp_path / "other.json")


GENEVAL = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"},
    {"tag": "counting", "include": [{"class": "clock", "count": 2}], "prompt": "two clocks"},
]


def test_samples_are_laid_out_as_geneval_reads_them(tmp_path):
    images = making.to_images([making.shape(colour) for colour in ("red", "green", "blue", "red")])
    judges.write_folder(tmp_path / "judge", GENEVAL, images, 2)
    files = {
        str(path.relative_to(tmp_path / "judge")) for path in (tmp_path / "judge").rglob("*.*")
    }
    assert files == {
        f"{number}/{name}"
        for number in ("00000", "00001")
        for name in ("metadata.jsonl", "samples/0000.png", "samples/0001.png")
    }
    rows = judges.read_prompts(tmp_path / "judge" / "00001" / "metadata.jsonl")
    assert rows == [GENEVAL[1]]
    with Image.open(tmp_path / "judge" / "00001" / "samples" / "0000.png") as picture:
        assert torch.equal(making.to_images([picture.convert("RGB")]), images[2:3])


def test_verdicts_of_a_judge_are_counted_by_tag(tmp_path):
    images = making.to_images([making.shape(colour) for colour in ("red", "blue")])
    verdicts = judges.judge_pictures(
        lambda picture, row: picture.getpixel((16, 16))[0] > 128, GENEVAL, images
    )
    assert verdicts == [
        {"tag": "single_object", "correct": True},
        {"tag": "counting", "correct": False},
    ]
    lines = [*verdicts, {"tag": "counting", "correct": True, "filename": "x"}]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    counting, single, overall = judges.judge_figures(judges.read_verdicts(path), "results")
    assert (counting.name, counting.value, counting.count) == ("judge: counting", 0.5, 2)
    assert (single.value, overall.value, overall.count) == (1.0, 0.75, 3)
    assert counting.features == "results"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no rows"),
        ('{"tag": "x"}', "line 1 has no 'correct'"),
        ('{"correct": 1}', "correct must be true or false"),
        ("{", "line 1 is not JSON"),
    ],
)
def test_verdicts_that_are_none_are_refused(tmp_path, text, said):
    path = tmp_path / "results.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=said):
        judges.read_verdicts(path)
