"""Models on the hub: which files are downloaded, and the errors without a network."""

import errno
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from safelight.checkpoints.hub import HubModel, choose, fetch, is_identifier
from safelight.errors import BadInput, CannotSave

hub = pytest.importorskip("huggingface_hub")

FOLDER = [
    ".gitattributes",
    "README.md",
    "model_index.json",
    "v1-5.safetensors",
    "v1-5.ckpt",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "tokenizer_3/spiece.model",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "feature_extractor/preprocessor_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/model.onnx",
    "unet/openvino_model.bin",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/flax_model.msgpack",
    "transformer/config.json",
    "transformer/m-00001-of-00002.safetensors",
    "transformer/m-00002-of-00002.safetensors",
    "transformer/m.safetensors.index.json",
    "transformer/m.bin.index.json",
    "transformer/m-00001-of-00001.bin",
]
WANTED = [
    "README.md",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "tokenizer_3/spiece.model",
    "feature_extractor/preprocessor_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "transformer/config.json",
    "transformer/m-00001-of-00002.safetensors",
    "transformer/m-00002-of-00002.safetensors",
    "transformer/m.safetensors.index.json",
]


def test_of_a_folder_of_parts_one_form_of_each_is_fetched():
    entry, names = choose(HubModel("a/b"), FOLDER)
    assert entry == ""
    assert sorted(names) == sorted(WANTED)


def test_of_a_native_folder_all_that_its_manifest_could_name():
    files = [
        "config.json",
        "manifest.json",
        "README.md",
        "denoiser.safetensors",
        "samples/1.png",
        ".gitattributes",
    ]
    assert choose(HubModel("a/b"), files) == (
        "",
        ["README.md", "config.json", "denoiser.safetensors", "manifest.json"],
    )


@pytest.mark.parametrize(
    ("files", "want"),
    [
        (["README.md", "flux.safetensors"], "flux.safetensors"),
        (["model.ckpt", "model.safetensors"], "model.safetensors"),
        (["DiT.pt"], "DiT.pt"),
    ],
)
def test_of_other_repositories_the_one_file_of_weights(files, want):
    card = [name for name in files if name == "README.md"]  # which states the licence
    assert choose(HubModel("a/b"), files) == (want, [want, *card])


def test_a_file_that_is_named_comes_with_its_shards():
    index = "transformer/m.safetensors.index.json"
    shards = [f"transformer/m-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert choose(HubModel("a/b", file=index), FOLDER) == (index, [index, *shards, "README.md"])
    assert choose(HubModel("a/b", file="v1-5.ckpt"), FOLDER) == (
        "v1-5.ckpt",
        ["v1-5.ckpt", "README.md"],
    )
    with pytest.raises(
        BadInput, match=r"unknown file of a/b: 'v1-5.safetensor'; did you mean 'v1-5.safetensors'"
    ):
        choose(HubModel("a/b", file="v1-5.safetensor"), FOLDER)


@pytest.mark.parametrize(
    ("files", "got"),
    [
        (
            ["b.safetensors", "a.safetensors"],
            "a.safetensors, b.safetensors: name one, as in a/b:a.safetensors",
        ),
        (["README.md"], "neither"),
    ],
)
def test_what_cannot_be_chosen_is_asked_for(files, got):
    with pytest.raises(
        BadInput, match=f"a/b: wanted a folder of parts or one file of weights, got {got}"
    ):
        choose(HubModel("a/b"), files)


def test_what_could_be_on_the_hub():
    assert all(
        map(
            is_identifier,
            ["a/b", "a/b@main", "a/b@refs/pr/1", "a/b:c/d.safetensors", "a/b-1.0@v1:x.ckpt"],
        )
    )
    assert not any(
        map(
            is_identifier,
            [
                "stickers",
                "a/b/c",
                "/a/b",
                "./a",
                "../a",
                "a/b:",
                "a/b@",
                "",
                "a/b.safetensors",
                "a/b.ckpt",
            ],
        )
    )
    with pytest.raises(BadInput, match="'a/b/c' names no model on the hub"):
        fetch("a/b/c")


@pytest.fixture
def remote(monkeypatch, tmp_path):
    """The hub with these files, what it was asked, and the cache."""
    there = SimpleNamespace(files=FOLDER, asked=[], error=None, cache=tmp_path)

    def info(self, repo, *, revision):
        there.asked.append((repo, revision))
        if there.error:
            raise there.error
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in there.files])

    def download(repo, *, revision, allow_patterns, local_files_only=False):
        if local_files_only and not any(tmp_path.iterdir()):
            raise hub.errors.LocalEntryNotFoundError("nothing here")
        for name in allow_patterns:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr(hub.HfApi, "model_info", info)
    monkeypatch.setattr(hub, "snapshot_download", download)
    return there


def test_a_model_is_fetched_and_found_again_without_a_network(remote):
    assert fetch("a/b@v1") == remote.cache
    assert remote.asked == [("a/b", "v1")]
    assert {path.relative_to(remote.cache).as_posix() for path in remote.cache.rglob("*.*")} == set(
        WANTED
    )
    remote.error = ConnectionError("no network")
    assert fetch("a/b@v1") == remote.cache
    assert fetch("a/b:unet/config.json") == remote.cache / "unet/config.json"
    with pytest.raises(BadInput, match=r"a/b:v1-5\.ckpt cannot be downloaded here"):
        fetch("a/b:v1-5.ckpt")


def test_without_a_network_one_sentence_says_what_to_download_to_where(remote):
    remote.error = ConnectionError("no network\nand more")
    with pytest.raises(BadInput) as caught:
        fetch("owner/model@v1:weights/x.safetensors")
    assert str(caught.value) == (
        "owner/model@v1:weights/x.safetensors cannot be downloaded here (no network): "
        "where there is a network, run "
        "`hf download owner/model weights/x.safetensors --revision v1 --local-dir model`, "
        "copy that folder here "
        "and load 'model/weights/x.safetensors' instead."
    )
    with pytest.raises(
        BadInput, match=r"run `hf download a/b --local-dir b`, copy that folder here and load 'b'"
    ):
        fetch("a/b")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "GatedRepoError",
            "a/b wants its terms accepted: do so at https://huggingface.co/a/b, "
            "then `hf auth login`",
        ),
        ("RepositoryNotFoundError", "the hub has no a/b, or it is private"),
        ("RevisionNotFoundError", "a/b has no revision 'v1'; see https://huggingface.co/a/b/tree"),
    ],
)
def test_a_refusal_of_the_hub_is_one_sentence(remote, name, sentence):
    kind = vars(hub.errors)[name]
    remote.error = kind.__new__(kind)
    with pytest.raises(BadInput, match=sentence):
        fetch("a/b@v1")


def test_a_full_disk_and_a_missing_library_are_named(remote, monkeypatch):
    remote.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(
        CannotSave, match="a/b cannot be kept: No space left on device; make room or set HF_HOME"
    ):
        fetch("a/b")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        BadInput, match=r"'a/b' would come from the hub; pip install safelight\[hub\]"
    ):
        fetch("a/b")
    assert list(Path(remote.cache).iterdir()) == []
