"""``safelight evaluate`` of a model with a denoiser, and ``safelight compare``, from the command
line."""

import json

import pytest
from PIL import Image

import making

QUICK = ("--features", "tiny-darknet", "--steps", 1, "--bootstrap", 20, "--batch", 4)

pytestmark = pytest.mark.filterwarnings("ignore::safelight.errors.Note")  # few tokens are read


@pytest.fixture
def safelight(monkeypatch, capsys, tmp_path):
    """The command line in this process and an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = making.exit_code(monkeypatch, *words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def refused(answer):
    code, out, err = answer
    (line,) = err.splitlines()
    assert (code, out) == (2, "")
    return line


def test_a_model_with_a_denoiser_is_judged_by_its_denoiser(
    safelight, tiny_folder, pictures, tmp_path
):
    words = ("--things", 0, "--seeds", 2, "--curve-steps", "1,2", "--curve-count", 2)
    code, out, err = safelight(
        "evaluate", tiny_folder, pictures, *QUICK, *words, "--out", "sub/r.md"
    )
    assert (code, err) == (0, "")
    assert "The denoiser of tiny on 12 held-out pictures of shapes" in " ".join(out.split())
    facts = json.loads((tmp_path / "sub" / "r.json").read_text(encoding="utf-8"))
    assert facts["judged"] == "denoiser"
    assert facts["settings"]["steps"] == 1
    assert [point["steps"] for point in facts["curves"]["steps"]] == [1, 2]
    for name in ("r-samples.png", "r-seeds.png", "r-curves.png"):
        with Image.open(tmp_path / "sub" / name) as sheet:
            assert min(sheet.size) > 60
    text = (tmp_path / "sub" / "r.md").read_text(encoding="utf-8")
    assert "![curves](r-curves.png)" in text


def test_training_pictures_bring_baselines_atoms_and_memorisation(safelight, tiny_folder, tmp_path):
    making.shapes(tmp_path / "held")
    making.shapes(tmp_path / "train")
    for place, path in enumerate(sorted((tmp_path / "train").rglob("*.png"))):
        with Image.open(path) as picture:  # other pictures of the same things
            moved = picture.convert("RGB")
            moved.putpixel((0, 0), (place, 0, 0))
            moved.save(path)
    words = ("--train", "train", "--things", 2, "--seeds", 0, "--json")
    code, out, _ = safelight("evaluate", tiny_folder, "held", *QUICK, *words)
    facts = json.loads(out)
    assert code == 0
    sets = [row["set"] for row in facts["distribution"]["tiny-darknet"]]
    assert sets == ["samples", "real training pictures", "nearest caption's picture"]
    assert facts["memorisation"][1]["value"] == 1  # every held-out picture has a twin in training
    assert {"atom: number", "atom: position"} <= {one["name"] for one in facts["atoms"]}


def test_without_pictures_speed_and_seeds_are_judged(safelight, tiny_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red square\n\na blue circle\n")
    words = ("--prompts", "prompts.txt", "--seeds", 3, "--json")
    code, out, _ = safelight("evaluate", tiny_folder, *QUICK, *words)
    facts = json.loads(out)
    assert (code, facts["prompts"]) == (0, ["a red square", "a blue circle"])
    assert facts["diversity"][0]["note"] == "2 prompts of 3 seeds"
    assert "distribution" not in facts
    assert (tmp_path / "report-seeds.png").is_file()


def test_samples_go_to_a_judge_and_its_verdicts_come_back(safelight, tiny_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red square")
    row = {"tag": "colors", "prompt": "a red square", "include": []}
    (tmp_path / "meta.jsonl").write_text(json.dumps(row))
    (tmp_path / "results.jsonl").write_text('{"tag": "colors", "correct": true}')
    words = ("--prompts", "prompts.txt", "--judge-prompts", "meta.jsonl", "--judge-count", 2)
    code, out, _ = safelight(
        "evaluate", tiny_folder, *QUICK, *words, "--judge-results", "results.jsonl", "--json"
    )
    assert (code, json.loads(out)["judge"][0]["value"]) == (0, 1)
    assert len(list((tmp_path / "report-judge" / "00000" / "samples").iterdir())) == 2
    assert "judge: colors" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "a denoiser is judged against held-out pictures: name a folder or zip of them"),
        (("--part", "unet"), "--part: wanted auto, denoiser, autoencoder, got 'unet'"),
        (("--part", "autoencoder"), "an autoencoder is judged on pictures"),
        (("held", "--train", "held"), "all 12 pictures to judge against are training pictures"),
        (("held", "--only", "split"), "--only: wanted KEY=VALUE such as split=val, got 'split'"),
        (("held", "--style-key", "hue"), "unknown metadata key"),
        (("held", "--features", "vgg"), "unknown feature 'vgg'"),
        (("held", "--features", "dinov2:weights=no.safetensors"), "cannot be read as safetensors"),
        (("held", "--curve-steps", "four"), "--curve-steps: wanted numbers such as 4,8,12"),
        (("--prompts", "none.txt"), "'none.txt' cannot be read"),
    ],
)
def test_what_cannot_be_judged_is_refused(safelight, tiny_folder, tmp_path, words, said):
    making.shapes(tmp_path / "held")
    (tmp_path / "held" / "metadata.jsonl").write_text(
        "\n".join(
            json.dumps({"file": path.relative_to(tmp_path / "held").as_posix(), "name": "x"})
            for path in sorted((tmp_path / "held").rglob("*.png"))
        )
    )
    assert said in refused(safelight("evaluate", tiny_folder, *words))


def test_a_model_without_a_denoiser_is_said_to_have_none(safelight, tmp_path, pictures):
    from safelight.checkpoints import save
    from safelight.model import Card, LatentDiffusion

    whole = making.tiny_model()
    save(LatentDiffusion(autoencoder=whole.autoencoder, card=Card(name="half")), tmp_path / "half")
    line = refused(safelight("evaluate", "half", pictures, "--part", "denoiser"))
    assert line == "error: the model 'half' has no denoiser to judge."
    code, out, _ = safelight("evaluate", "half", pictures, "--count", 2, "--size", 32, "--json")
    assert code == 0
    assert "PSNR (dB, 8-bit)" in json.loads(out)["measured"]


def test_models_are_compared_openly_and_blindly(safelight, tiny_folder, pictures, tmp_path):
    making.saved_model(tmp_path / "other")
    words = ("compare", tiny_folder, "other", "-p", "a red square", "-p", "a blue circle")
    more = ("--steps", 1, "--data", pictures, "--features", "tiny-darknet", "--bootstrap", 20)
    code, out, err = safelight(*words, *more)
    assert (code, err) == (0, "")
    assert "kernel distance" in out
    assert "| kernel distance (tiny-darknet)" in (tmp_path / "compare.md").read_text()
    code, out, _ = safelight(*words, "--steps", 1, "--blind", "--seeds", 2, "--json")
    assert (code, "figures" in json.loads(out)) == (0, False)
    form = (tmp_path / "compare-choices.csv").read_text()
    filled = "\n".join(
        line + "1" if place else line for place, line in enumerate(form.splitlines())
    )
    (tmp_path / "filled.csv").write_text(filled)
    count = ("--choices", "filled.csv", "--key", "compare-key.json", "--json")
    code, out, _ = safelight("compare", *count)
    figures = json.loads(out)
    assert (code, len(figures)) == (0, 2)
    assert sum(figure["value"] for figure in figures) == 1
    code, out, _ = safelight("compare", *count[:-1])
    assert (code, "chosen:" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("stickers",), "compare: wanted two or more different models, got ['stickers']"),
        (("stickers", "stickers"), "compare: wanted two or more different models"),
        (("--choices", "a.csv"), "choices are counted with both --choices FORM.csv and --key"),
    ],
)
def test_what_cannot_be_compared_is_refused(safelight, words, said):
    assert said in refused(safelight("compare", *words))


def test_a_comparison_wants_prompts(safelight, tiny_folder, tmp_path):
    making.saved_model(tmp_path / "other")
    line = refused(safelight("compare", tiny_folder, "other"))
    assert "compare: name prompts with --prompt or --prompts, or pictures with --data" in line
