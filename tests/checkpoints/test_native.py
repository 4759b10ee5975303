"""Models in folders: what was saved is loaded bit for bit, and what is not whole is named."""

import errno
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import safelight
from safelight import LatentDiffusion, files
from safelight.autoencoders.kl.config import Config as KLConfig
from safelight.autoencoders.tiny.config import Config as TinyConfig
from safelight.checkpoints import locate
from safelight.checkpoints.native import read_model
from safelight.checkpoints.state_dicts import fingerprint
from safelight.errors import BadInput, CannotSave
from safelight.files import sha256
from safelight.types.networks import Prompt

PARTS = ("autoencoder", "conditioner", "denoiser")
PROMPTS = [Prompt("a red fox"), Prompt("something else")]


def same(one, other) -> bool:
    """Equal names, precisions and bits."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a
    )


def change_config(folder, change) -> None:
    """Edit config.json and keep its hash true, as someone who means it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    change(config)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rehash(folder)


def rehash(folder) -> None:
    hashes = {file.name: sha256(file) for file in folder.iterdir() if file.name != "manifest.json"}
    (folder / "manifest.json").write_text(json.dumps({"sha256": hashes}))


@torch.no_grad()
def test_a_model_comes_back_bit_for_bit(model, folder):
    loaded = safelight.load(folder, device="cpu", precision="fp32")
    assert isinstance(loaded, LatentDiffusion)
    for name in PARTS:
        assert same(vars(loaded)[name], vars(model)[name])
        assert vars(loaded)[name].config == vars(model)[name].config
    assert loaded.process == model.process
    assert replace(loaded.card, hash="") == model.card
    assert loaded.card.hash == sha256(folder / "manifest.json")
    told, want = loaded.conditioner(PROMPTS), model.conditioner(PROMPTS)
    assert torch.equal(told.tokens.values, want.tokens.values)
    noisy, time = torch.ones(2, 4, 4, 4), torch.tensor([1.0, 500.0])
    assert torch.equal(loaded.denoiser(noisy, time, told), model.denoiser(noisy, time, want))
    assert loaded.complete().card == loaded.card


def test_a_loaded_model_is_ready_to_be_used(folder):
    loaded = safelight.load(str(folder), device="cpu", precision="fp32")
    for name in PARTS:
        part = vars(loaded)[name]
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())


def test_saving_what_was_loaded_gives_the_same_files(folder, tmp_path):
    safelight.save(read_model(folder), tmp_path / "again")
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    assert {file.name for file in folder.iterdir()} == {
        "README.md", "autoencoder.safetensors", "conditioner.safetensors",
        "config.json", "denoiser.safetensors",
        "manifest.json",
    }  # fmt: skip


def test_the_card_is_there_for_people(model, folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    count = sum(parameter.numel() for parameter in model.denoiser.parameters())
    for said in (
        "# füchse",
        "Draws foxes.",
        "Licence: CC0",
        f"| denoiser | dit | {count:,} |",
        "24×16",
        "count: 3",
    ):
        assert said in text


def test_parts_that_are_not_there_stay_away(model, tmp_path):
    safelight.save(LatentDiffusion(autoencoder=model.autoencoder), tmp_path / "part")
    loaded = safelight.load(tmp_path / "part", device="cpu")
    assert loaded.autoencoder is not None
    assert (loaded.conditioner, loaded.denoiser, loaded.process) == (None, None, None)
    with pytest.raises(
        BadInput, match="the model 'unnamed' has no conditioner, denoiser, process; name a file"
    ):
        loaded.complete()


def test_a_run_folder_holds_its_model(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(
        BadInput, match=r"run' holds no model: .*; its run has not saved a model yet"
    ):
        safelight.load(run)
    folder.rename(run / "model")
    assert safelight.load(run, device="cpu").denoiser is not None


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_precision_can_be_chosen(folder, precision, dtype):
    loaded = safelight.load(folder, device="cpu", precision=precision)
    for name in PARTS:
        assert {parameter.dtype for parameter in vars(loaded)[name].parameters()} == {dtype}


def test_a_file_in_half_precision_stays_so_until_it_is_prepared(model, tmp_path):
    model.denoiser.bfloat16()
    safelight.save(model, tmp_path / "half")
    read = read_model(tmp_path / "half")
    assert same(read.denoiser, model.denoiser)
    assert next(read.autoencoder.parameters()).dtype == torch.float32


def test_a_fingerprint_knows_names_and_values(model):
    one = fingerprint(model.autoencoder)
    assert one == fingerprint(model.autoencoder)
    model.autoencoder.scale.mean.add_(1e-6)
    assert fingerprint(model.autoencoder) != one
    assert fingerprint(model.denoiser) != one


def test_a_damaged_file_is_named(folder):
    data = bytearray((folder / "denoiser.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "denoiser.safetensors").write_bytes(data)
    with pytest.raises(
        BadInput, match=r"^saved/denoiser.safetensors is corrupt: .*; get the folder again\.$"
    ):
        safelight.load(folder)


def test_a_missing_file_is_named(folder):
    (folder / "denoiser.safetensors").unlink()
    with pytest.raises(
        BadInput, match=r"^saved is not whole: denoiser.safetensors is missing; get the folder"
    ):
        safelight.load(folder)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (0, "is empty; get the file again"),
        (5, "is no file of weights: it begins with"),
        (100, "ends within its header, after 100 of"),
        (-10, "ends after .* bytes of tensors; get the file again"),
    ],
)
def test_a_file_that_stops_in_the_middle_is_named(folder, keep, message):
    data = (folder / "denoiser.safetensors").read_bytes()
    (folder / "denoiser.safetensors").write_bytes(data[:keep])
    rehash(folder)
    with pytest.raises(BadInput, match=f"^saved/denoiser.safetensors {message}"):
        safelight.load(folder)


def test_weights_that_are_not_finite_are_named(model, folder):
    with torch.no_grad():
        model.autoencoder.decoder.leave.weight[0, 0, 0, 0] = float("nan")
    safelight.save(model, folder)
    with pytest.raises(
        BadInput,
        match=r"^saved/autoencoder.safetensors: decoder.leave.weight holds values that are",
    ):
        safelight.load(folder)


def test_a_loaded_part_has_no_memory_but_its_files_and_no_value_left_to_chance(model, folder):
    for name in PARTS:
        part = vars(read_model(folder))[name]
        assert not any(one.is_meta for one in [*part.parameters(), *part.buffers()])
        wanted = {name: one.dtype for name, one in vars(model)[name].named_buffers()}
        assert {name: one.dtype for name, one in part.named_buffers()} == wanted
    file = (folder / "denoiser.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in read_model(folder).denoiser.parameters():
            parameter.add_(1)
    assert (folder / "denoiser.safetensors").read_bytes() == file


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{}", "saved/manifest.json holds no hashes"),
        ("[]", "saved/manifest.json: wanted a JSON object"),
        ("{", "saved/manifest.json cannot be read"),
        ('{"sha256": {}}', "saved/manifest.json has no hash of config.json; get the folder again"),
    ],
)
def test_a_manifest_that_says_nothing_is_refused(folder, manifest, message):
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(BadInput, match=message):
        safelight.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(format=2),
            "saved: wanted a model folder of format 1, got 2; update Safelight",
        ),
        (lambda c: c.pop("format"), "wanted a model folder of format 1, got None"),
        (
            lambda c: c.update(denoizer={}),
            r"unknown key in saved/config.json: 'denoizer'; did you mean 'denoiser'\?",
        ),
        (
            lambda c: c["denoiser"].update(dept=1),
            r"unknown key in denoiser dit: 'dept'; did you mean 'depth'\?",
        ),
        (lambda c: c["denoiser"].update(kind="dot"), "unknown denoiser 'dot'; did you mean 'dit'"),
        (lambda c: c.update(denoiser=None), "denoiser: wanted a kind"),
        (
            lambda c: c["schedule"].update(kind="cosin"),
            "unknown schedule 'cosin'; did you mean 'cosine'",
        ),
        (lambda c: c["card"].update(nam="x"), r"unknown key in card: 'nam'; did you mean 'name'\?"),
        (
            lambda c: c["denoiser"].update(depth=2),
            "saved/denoiser.safetensors does not fit .* is missing; .* more",
        ),
        (lambda c: c["denoiser"].update(mlp_ratio=2.0), r"has shape \(64, 16\), wanted \(32, 16\)"),
        (
            lambda c: c["autoencoder"].update(quant=False),
            "saved/autoencoder.* .*quant.weight is not expected",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_sentence(folder, change, message):
    change_config(folder, change)
    with pytest.raises(BadInput, match=message) as caught:
        safelight.load(folder)
    assert "\n" not in str(caught.value)


def test_a_part_without_its_file_is_named(folder):
    (folder / "denoiser.safetensors").unlink()
    rehash(folder)
    with pytest.raises(BadInput, match=r"saved/manifest.json has no hash of denoiser.safetensors"):
        safelight.load(folder)


def test_a_failed_save_leaves_the_old_folder(model, folder, tmp_path, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    other = replace(model, card=replace(model.card, name="other"))
    with pytest.raises(
        CannotSave, match=r"cannot save '.*saved': No space left on device; nothing was changed"
    ):
        safelight.save(other, folder)
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    safelight.save(other, folder)
    assert read_model(folder).card.name == "other"


def test_saving_replaces_a_model_and_nothing_else(model, folder, tmp_path):
    (folder / "thesis.doc").write_text("three years of work")
    with pytest.raises(
        BadInput,
        match=r"saved' holds more than a model \(thesis.doc\); save to a folder that is new",
    ):
        safelight.save(model, folder)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match=r"file' is a file; wanted a folder"):
        safelight.save(model, tmp_path / "file")
    (folder / "thesis.doc").unlink()
    safelight.save(LatentDiffusion(autoencoder=model.autoencoder), folder)
    assert not (folder / "denoiser.safetensors").exists()
    (tmp_path / "empty").mkdir()
    safelight.save(model, str(tmp_path / "empty"))
    assert same(read_model(tmp_path / "empty").denoiser, model.denoiser)


def test_another_layout_is_refused(model, tmp_path):
    with pytest.raises(BadInput, match="unknown layout 'nativ'; did you mean 'native'"):
        safelight.save(model, tmp_path / "x", layout="nativ")
    assert list(tmp_path.iterdir()) == []


def test_embedded_models_have_names(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(locate, "EMBEDDED", tmp_path)
    assert locate.embedded() == ["saved"]
    assert locate.native_folder("saved") == folder
    with pytest.raises(BadInput, match="unknown model 'savd'; did you mean 'saved'"):
        safelight.load("savd")
    with pytest.raises(BadInput, match=r"denoiser.safetensors: no known part has names like"):
        safelight.load(folder / "denoiser.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        BadInput, match=r"empty' holds no model: wanted config.json and manifest.json in it\.$"
    ):
        safelight.load(tmp_path / "empty")


def test_an_autoencoder_of_any_kind_travels(tmp_path):
    for number, config in enumerate(
        [TinyConfig(width=8, blocks=1), KLConfig(width=8, groups=4, quant=False)]
    ):
        part = config.build()
        safelight.save(LatentDiffusion(autoencoder=part), tmp_path / str(number))
        assert same(read_model(tmp_path / str(number)).autoencoder, part)


def test_weights_are_plain_safetensors(model, folder):
    state = load_file(folder / "autoencoder.safetensors")
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in model.autoencoder.state_dict().items()
    }
    save_file(state | {"more": torch.zeros(1)}, folder / "autoencoder.safetensors")
    rehash(folder)
    with pytest.raises(BadInput, match="more is not expected"):
        safelight.load(folder)
