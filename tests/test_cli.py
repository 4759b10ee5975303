"""The command line: what it makes, what it prints, and what it refuses."""

import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

import making
from making import go, recipe, tables, write_recipe
from safelight import __version__, cli
from safelight.errors import CannotSave
from safelight.media.pictures import read_recipe


class Result:
    """What came of a command: its exit code, and what it said where."""

    def __init__(self, code, captured):
        self.code, self.out, self.err = code, captured.out, captured.err

    def sentence(self):
        """The one line of a refusal."""
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        assert "Traceback" not in line
        assert self.out == ""
        return line.removeprefix("error: ")


@pytest.fixture(autouse=True)
def quiet_log():
    """Each test starts without the log handlers that an earlier one asked for."""
    yield
    logger = logging.getLogger("safelight")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def safelight(monkeypatch, capsys, tmp_path):
    """The command line in this process, in an empty folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("safelight.training.loop.plot", lambda lines, path: None)

    def run(*words):
        return Result(making.exit_code(monkeypatch, *words), capsys.readouterr())

    return run


@pytest.fixture
def here(tmp_path):
    return tmp_path / "here"


def make(folder, *words):
    return ["generate", "a red square", "--model", folder, "--device", "cpu", *words]


# what it makes


def test_generate_writes_a_picture_that_carries_its_recipe(safelight, tiny_folder, here):
    result = safelight(*make(tiny_folder, "--seed", 5, "--guidance", "2", "--out", "sub/fox.png"))
    assert (result.code, result.out, result.err) == (0, "sub/fox.png\n", "")
    how = read_recipe(here / "sub" / "fox.png")
    assert how["task"]["prompt"] == "a red square"
    assert (how["settings"]["seed"], how["settings"]["steps"]) == (5, 3)
    assert how["settings"]["guidance"] == {"kind": "classifier-free", "scale": 2.0}
    assert len(how["model"]["hash"]) == 64
    assert [path.name for path in here.iterdir()] == ["sub"]


def test_count_numbers_the_files_and_json_is_json(safelight, tiny_folder, here):
    result = safelight(*make(tiny_folder, "--count", 2, "--seed", 8, "--json", "--out", "a.png"))
    items = json.loads(result.out)
    assert [item["file"] for item in items] == ["a-1.png", "a-2.png"]
    assert [item["recipe"]["settings"]["seed"] for item in items] == [8, 9]
    assert sorted(path.name for path in here.iterdir()) == ["a-1.png", "a-2.png"]
    assert read_recipe(here / "a-2.png") == items[1]["recipe"]
    safelight(*make(tiny_folder, "--seed", 9, "--out", "b.png"))
    with Image.open(here / "a-2.png") as second, Image.open(here / "b.png") as alone:
        differences = [abs(a - b) for a, b in zip(second.tobytes(), alone.tobytes(), strict=True)]
    assert max(differences) <= 1


def test_guidance_by_name_and_options_with_a_weaker_model(safelight, tiny_folder, here):
    words = (
        "--guidance",
        "interval:of=autoguidance,scale=3,low=0.1",
        "--no-one-batch",
        "--weak",
        tiny_folder,
    )
    assert safelight(*make(tiny_folder, *words)).err == ""
    how = read_recipe(here / "out.png")
    inner = {"kind": "autoguidance", "scale": 3.0}
    assert how["settings"]["guidance"] == {"kind": "interval", "of": inner, "low": 0.1, "high": 0.8}
    assert how["settings"]["one_batch"] is False
    assert how["companions"]["weak"] == how["model"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("40", (40, 40)), ("40x24", (40, 24)), (" 24×40 ", (24, 40)), (None, (32, 32))],
)
def test_sizes(safelight, tiny_folder, here, text, size):
    assert safelight(*make(tiny_folder, *(["--size", text] if text else []))).code == 0
    with Image.open(here / "out.png") as picture:
        assert picture.size == size


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--width", 40], (40, 32)),
        (["--height", 24], (32, 24)),
        (["--width", 24, "--height", 40], (24, 40)),
    ],
)
def test_width_and_height(safelight, tiny_folder, here, words, wanted):
    assert safelight(*make(tiny_folder, *words)).code == 0
    with Image.open(here / "out.png") as picture:
        assert picture.size == wanted


def test_names_of_other_programs_make_the_same_picture(safelight, tiny_folder, here):
    ours = ["--negative", "blue", "--steps", 2, "--guidance", "2", "--count", 2]
    theirs = ["--negative-prompt", "blue", "--num-inference-steps", 2, "--cfg", "2", "-n", 2]
    assert (
        safelight(*make(tiny_folder, *ours, "--sampler", "dpmpp2m", "--spacing", "karras")).code
        == 0
    )
    how = [read_recipe(here / name) for name in ("out-1.png", "out-2.png")]
    assert safelight(*make(tiny_folder, *theirs, "--scheduler", "DPM++ 2M Karras")).code == 0
    assert [read_recipe(here / name) for name in ("out-1.png", "out-2.png")] == how
    assert how[0]["settings"]["spacing"]["kind"] == "karras"
    for flag in ("--guidance-scale", "--guidance"):
        safelight(*make(tiny_folder, flag, "2.5"))
        assert read_recipe(here / "out.png")["settings"]["guidance"]["scale"] == 2.5


def test_the_old_name_of_embeddings_still_works_and_is_not_shown(safelight, tiny_folder):
    new = safelight(*make(tiny_folder, "--embedding", "nowhere.pt"))
    assert "nowhere.pt" in new.sentence()
    assert safelight(*make(tiny_folder, "--word", "nowhere.pt")).sentence() == new.sentence()
    assert "--word" not in safelight("generate", "--help").out


def test_verbose_logs_on_standard_error(safelight, tiny_folder):
    quiet, verbose, debug = (
        safelight(*make(tiny_folder, *flags)) for flags in ([], ["-v"], ["-vv"])
    )
    assert quiet.err == ""
    assert "sampler='dpmpp2m'" in verbose.err
    assert "step 1 of 3" not in verbose.err
    assert "step 1 of 3" in debug.err
    assert verbose.out == debug.out == "out.png\n"


def test_short_help_and_completion(safelight):
    assert safelight("-h").out == safelight("--help").out
    assert safelight("generate", "-h").out == safelight("generate", "--help").out
    assert "--install-completion" in safelight("-h").out


def test_the_package_is_a_command(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "safelight", "--version"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == __version__


def test_a_new_process_makes_a_picture_and_shows_no_bar_in_a_pipe(tiny_folder, tmp_path):
    process = making.command(*make(tiny_folder, "--out", tmp_path / "a.png"))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out.strip(), err) == (0, str(tmp_path / "a.png"), "")


def test_the_version(safelight):
    assert safelight("--version").out == f"{__version__}\n"


def test_a_run_of_train_can_be_inspected_and_generated_from(safelight, pictures, tiny_folder, here):
    path = write_recipe(here / "shapes.toml", tables("denoising", pictures, tiny_folder))
    done = safelight("train", path, "--set", "loop.updates=2")
    assert (done.code, done.out, done.err) == (0, "", "done: runs/shapes/model\n")
    assert json.loads((here / "runs/shapes/config.json").read_text())["loop"]["updates"] == 2
    facts = json.loads(safelight("inspect", "runs/shapes", "--json").out)
    assert (facts["what"], facts["run"]["update"], facts["run"]["objective"]) == (
        "model",
        2,
        "denoising",
    )
    assert facts["parts"]["denoiser"]["kind"] == "dit"
    assert facts["parts"]["denoiser"]["parameters"] > 1000
    assert safelight(*make("runs/shapes")).code == 0
    printed = safelight("inspect", "runs/shapes").out
    assert "dit" in printed
    assert "CC0" in printed
    shutil.rmtree(here / "runs/shapes/model")
    assert json.loads(safelight("inspect", "runs/shapes", "--json").out)["what"] == "run"
    assert "update 2" in safelight("inspect", "runs/shapes").out


def test_inspect_a_model_and_a_picture(safelight, tiny_folder):
    printed = safelight("inspect", tiny_folder).out
    assert "tiny  32×32 pixels, licence: CC0" in printed
    safelight(*make(tiny_folder, "--seed", 12))
    assert json.loads(safelight("inspect", "out.png").out)["settings"]["seed"] == 12
    assert json.loads(safelight("inspect", "out.png", "--json").out)["what"] == "picture"


def test_every_option_of_every_command_has_a_help_text():
    import typer

    group = typer.main.get_command(cli.app)
    assert {"generate", "train", "inspect"} <= set(group.commands)
    for verb in group.commands.values():
        assert verb.help
        assert "Example: safelight" in verb.help
        assert [option.name for option in verb.params if not option.help] == [], verb.name


@pytest.mark.parametrize("verb", ["generate", "train", "inspect"])
def test_help_lists_every_option(safelight, monkeypatch, verb):
    import typer

    monkeypatch.setenv("COLUMNS", "200")
    result = safelight(verb, "--help")
    assert result.code == 0
    options = typer.main.get_command(cli.app).commands[verb].params
    for name in (name for option in options if not option.hidden for name in option.opts):
        assert name.lower() in result.out.lower(), name


# what it refuses


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--steps", "0"], "steps: wanted a whole number from 1 to 10,000, got 0"),
        (["--steps", "1000000000"], "got 1,000,000,000"),
        (["--count", "0"], "count: wanted"),
        (["--seed", "-1"], "seed: wanted"),
        (["--size", "33"], "multiples of 8, got 33×33; the nearest is 32×32"),
        (["--size", "34"], "multiples of 8, got 34×34; the nearest is 32×32"),
        (["--size", "abc"], "--size: wanted pixels such as 128 or 160x128, got 'abc'"),
        (["--size", "0"], "wanted 1 to 8192 pixels, got 0"),
        (["--size", "99999999"], "wanted 1 to 8192 pixels, got 99999999"),
        (["--size", "32x"], "--size"),
        (["--size", "32", "--width", "32"], "wanted --size or --width and --height, got both"),
        (["--width", "0"], "width: wanted 1 to 8192 pixels, got 0"),
        (["--scheduler", "DPM++ 2M Kerras"], "did you mean 'DPM++ 2M Karras'?"),
        (["--scheduler", "Euler a", "--sampler", "heun"], "but --sampler heun was given as well"),
        (["--scheduler", "karras", "--spacing", "beta"], "but --spacing beta was given as well"),
        (["--sampler", "eular"], "unknown sampler 'eular'; did you mean 'euler'?"),
        (["--sampler", "euler:eat=1"], "did you mean 'eta'?"),
        (["--spacing", "kharras"], "did you mean 'karras'?"),
        (["--guidance", "much"], "unknown guidance 'much'"),
        (["--model", "stikers"], "unknown model 'stikers'"),
        (["--model", "."], "holds no model: wanted config.json and manifest.json"),
        (["--out", "a.jpg"], "--out: wanted a name that ends in .png, got 'a.jpg'"),
        (["--precision", "fp23"], "unknown precision 'fp23'; did you mean 'fp32'?"),
        (["--device", "gpu"], "device: wanted auto, cpu, cuda, cuda:1 or mps, got 'gpu'"),
    ],
)
def test_a_picture_that_cannot_be_made_is_one_sentence(safelight, tiny_folder, here, words, wanted):
    refused = safelight(*make(tiny_folder, *words))
    assert wanted in refused.sentence()
    assert refused.code == 2
    assert list(here.iterdir()) == []


def edited(**changes):
    return lambda tree: [tree[table].update(rest) for table, rest in changes.items()]


@pytest.mark.parametrize(
    ("edit", "words", "wanted"),
    [
        (edited(loop={"updats": 3}), [], "unknown key in loop: 'updats'; did you mean 'updates'?"),
        (edited(objective={"l3": 3}), [], "unknown key"),
        (edited(objective={"kind": "reconstuction"}), [], "did you mean 'reconstruction'?"),
        (edited(loop={"updates": 0}), [], "loop: wanted updates ≥ 1"),
        (edited(loop={"updates": "many"}), [], "loop.updates: "),
        (lambda tree: tree.pop("data"), [], "data: this key is required but missing"),
        (edited(data={"paths": ["nowhere"]}), [], "there is no folder or zip file 'nowhere'"),
        (edited(data={"paths": ["empty"]}), [], "there are no pictures in empty"),
        (edited(framing={"size": 31}), [], "multiples of 2, got 31×31"),
        (
            None,
            ["--set", "loop.updats=3"],
            "unknown key in 'loop.updats': 'updats'; did you mean 'updates'?",
        ),
        (None, ["--set", "loop.updates"], "--set wants key=value, got 'loop.updates'"),
        (None, ["--set", "loop.batch=x"], "loop.batch: "),
    ],
)
def test_a_run_that_cannot_begin_is_one_sentence_and_leaves_nothing(
    safelight, pictures, here, edit, words, wanted
):
    tree = tables("reconstruction", pictures)
    if edit:
        edit(tree)
    (here / "empty").mkdir()
    write_recipe(here / "shapes.toml", tree)
    refused = safelight("train", "shapes.toml", *words)
    assert wanted in refused.sentence()
    assert refused.code == 2
    assert sorted(path.name for path in here.iterdir()) == ["empty", "shapes.toml"]


def test_a_text_conditioner_needs_captions(safelight, tiny_folder, here):
    bare = making.shapes(here / "bare", captions=False)
    write_recipe(here / "shapes.toml", tables("denoising", bare, tiny_folder))
    refused = safelight("train", "shapes.toml")
    assert "no picture has a caption" in refused.sentence()
    assert refused.code == 2
    assert sorted(path.name for path in here.iterdir()) == ["bare", "shapes.toml"]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (None, "there is no file 'shapes.toml'"),
        (b"loop = {", "'shapes.toml' cannot be read as TOML"),
        (b"\xff\xfe", "'shapes.toml' cannot be read as TOML"),
        (b"", "objective: this key is required but missing"),
    ],
)
def test_an_invalid_recipe_is_one_sentence(safelight, here, content, wanted):
    if content is not None:
        (here / "shapes.toml").write_bytes(content)
    refused = safelight("train", "shapes.toml")
    assert wanted in refused.sentence()
    assert refused.code == 2
    assert not (here / "runs").exists()


def test_a_corrupt_checkpoint_is_one_sentence(safelight, pictures, here):
    go(here / "run", recipe(tables("reconstruction", pictures, loop__updates=1)))
    file = here / "run" / "checkpoints" / "0000001" / "state.safetensors"
    file.write_bytes(b"\xff" * 100)
    refused = safelight("train", "run", "--set", "loop.updates=2")
    assert "cannot be read" in refused.sentence()
    assert refused.code == 2
    assert json.loads((here / "run" / "config.json").read_text())["loop"]["updates"] == 1


@pytest.mark.parametrize("harm", ["weights", "config", "manifest", "missing"])
def test_a_corrupt_model_is_one_sentence(safelight, tiny_folder, here, harm):
    shutil.copytree(tiny_folder, here / "model")
    file = (
        here
        / "model"
        / ("denoiser.safetensors" if harm in ("weights", "missing") else f"{harm}.json")
    )
    file.unlink() if harm == "missing" else file.write_bytes(file.read_bytes()[:-9])
    refused = safelight(*make("model"))
    assert file.name in refused.sentence()
    assert refused.code == 2
    assert [path.name for path in here.iterdir()] == ["model"]


def test_a_file_that_cannot_be_written_is_one_sentence(safelight, tiny_folder, here):
    (here / "file").write_text("in the way")
    refused = safelight(*make(tiny_folder, "--out", "file/a.png"))
    assert "cannot save 'file/a.png'" in refused.sentence()
    assert refused.code == CannotSave.exit_code == 1
    assert [path.name for path in here.iterdir()] == ["file"]


def test_a_picture_without_a_recipe_and_nothing_at_all_are_not_inspected(safelight, here):
    Image.new("RGB", (4, 4)).save(here / "plain.png")
    refused = safelight("inspect", "plain.png")
    assert "does not say how it was made" in refused.sentence()
    assert refused.code == 2
    assert safelight("inspect", "nothing").code == 2
    (here / "no.png").write_bytes(b"no picture")
    refused = safelight("inspect", "no.png")
    assert "no.png: not a picture that can be read" in refused.sentence()
    assert refused.code == 2


def limited(size, *words):
    """A command whose files cannot grow beyond ``size`` bytes, as on a full disk."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    begin = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"{begin}; from safelight.cli import main; main()",
            *map(str, words),
        ],
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_full_disk_while_saving_a_picture(tiny_folder, here, safelight):
    safelight(*make(tiny_folder, "--out", "a.png"))
    before = (here / "a.png").read_bytes()
    refused = limited(100, *make(tiny_folder, "--out", here / "a.png", "--seed", 2))
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"error: cannot save '{here / 'a.png'}': ")
    assert (here / "a.png").read_bytes() == before
    assert [path.name for path in here.iterdir()] == ["a.png"]


def test_a_full_disk_while_saving_a_checkpoint(pictures, here):
    run = go(here / "run", recipe(tables("reconstruction", pictures, loop__updates=1)))
    before = {path: path.read_bytes() for path in run.checkpoints[-1].iterdir()}
    size = (run.checkpoints[-1] / "state.safetensors").stat().st_size
    refused = limited(
        size // 2, "train", run.folder, "--set", "loop.updates=99", "--set", "watch.save=2"
    )
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"error: cannot save '{run.folder / 'checkpoints' / '0000002'}': ")
    assert {path: path.read_bytes() for path in run.checkpoints[-1].iterdir()} == before
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["0000001"]


def test_an_unexpected_error_asks_to_be_reported(safelight, monkeypatch, tiny_folder, here):
    def broken(source, hints):
        raise RuntimeError("the shelf\nfell down")

    monkeypatch.setattr("safelight.inspection.inspect", broken)
    refused = safelight("inspect", tiny_folder)
    assert refused.code == 1
    sentence = refused.sentence()
    assert "please report it: RuntimeError: the shelf fell down" in sentence
    assert "--debug" in sentence
    assert "SAFELIGHT_DEBUG=1" in sentence
    with pytest.raises(RuntimeError, match="the shelf"):
        safelight("--debug", "inspect", tiny_folder)
    monkeypatch.setenv("SAFELIGHT_DEBUG", "1")
    with pytest.raises(RuntimeError, match="the shelf"):
        safelight("inspect", tiny_folder)


def test_samplers_are_listed(safelight):
    table = safelight("samplers")
    listed = json.loads(safelight("samplers", "--json").out)
    assert {item["kind"] for item in listed} >= {
        "euler",
        "ddim",
        "dpmpp2m",
        "dpmpp2m-sde",
        "unipc",
        "sa-solver",
        "lcm",
    }
    for item in listed:
        assert item["kind"] in table.out
        assert item["order"]
        assert item["passes"]
        assert item["paper"].startswith("arXiv ")
    assert next(item for item in listed if item["kind"] == "heun")["draws"] == "with s_churn"


def test_an_unknown_sampler_suggests_the_nearest(safelight):
    refusal = safelight("generate", "fox", "--sampler", "unipcc")
    assert refusal.code == 2
    assert refusal.sentence() == "unknown sampler 'unipcc'; did you mean 'unipc'?"
