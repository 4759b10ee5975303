"""Files of weights: lazily read, views of their own memory, and each kind of damage named in one
sentence."""

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recorded import Recording
from safelight.errors import BadInput
from safelight.weights.files import open_weights
from safelight.weights.stored import SMALL, TYPES, finite


def write(path: Path, header, data: bytes = b"", length: int | None = None) -> Path:
    """A file of this header, as it is if it is bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(start: int, end: int, shape: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_every_type_and_size_comes_back_bit_for_bit(tmp_path):
    tensors = {name: torch.arange(6).reshape(2, 3).to(kind.dtype) for name, kind in TYPES.items()}
    tensors |= {"large": torch.randn(SMALL), "empty": torch.empty(0, 4), "one": torch.tensor(3.0)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"who": "me"})
    weights = open_weights(tmp_path / "a.safetensors")
    assert set(weights) == set(tensors)
    assert weights.metadata == {"who": "me"}
    assert weights.bytes == sum(one.nbytes for one in tensors.values())
    for name, want in tensors.items():
        got = weights[name]
        assert got.dtype == want.dtype
        assert got.shape == want.shape == torch.Size(weights.shapes[name])
        assert TYPES[weights.types[name]].dtype == want.dtype
        assert torch.equal(
            got.view(torch.uint8) if got.ndim else got,
            want.view(torch.uint8) if want.ndim else want,
        )


def test_a_fingerprint_is_of_the_weights_and_not_of_their_files(tmp_path):
    """The same in shards, in another order and beside other metadata; another where a weight is
    another."""

    def fingerprint(tensors, file="a.safetensors", **metadata):
        save_file(tensors, tmp_path / file, metadata)
        return open_weights(tmp_path / file).fingerprint

    tensors = {
        "a": torch.randn(30, 50),
        "b": torch.randn(7),
        "none": torch.empty(0, 2),
        "one": torch.tensor(2.0),
    }
    want = fingerprint(tensors)
    assert len(want) == 64
    assert fingerprint(dict(list(tensors.items())[::-1]), "b.safetensors", who="me") == want
    for name in tensors:
        save_file({name: tensors[name]}, tmp_path / f"{name}.shard")
    index = {"weight_map": {name: f"{name}.shard" for name in tensors}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert open_weights(tmp_path / "index.json").fingerprint == want
    torch.save(tensors, tmp_path / "a.pt")
    assert open_weights(tmp_path / "a.pt").fingerprint == want
    others = [
        {**tensors, "a": tensors["a"].half()},
        {**tensors, "a": tensors["a"].view(torch.int32)},
        {**tensors, "a": tensors["a"] * (1 + 1e-6)},
        {**tensors, "a": tensors["a"].reshape(50, 30)},
        {**tensors, "one": torch.tensor(3.0)},
        {("c" if name == "a" else name): one for name, one in tensors.items()},
        {name: one for name, one in tensors.items() if name != "none"},
    ]
    assert len({want, *map(fingerprint, others)}) == len(others) + 1


def test_a_tensor_may_be_changed_and_the_file_stays_as_it_was(tmp_path):
    save_file({"large": torch.zeros(SMALL), "small": torch.zeros(3)}, tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    weights = open_weights(tmp_path / "a.safetensors")
    for name in weights:
        weights[name].add_(1)
        assert not weights[name].any()
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_tensors_that_lie_at_odd_bytes_are_read(tmp_path):
    want = torch.randn(SMALL)
    data = bytes(1) + want.numpy().tobytes()
    header = {"a": entry(0, 1, [1], "U8"), "b": entry(1, len(data), [SMALL])}
    assert torch.equal(open_weights(write(tmp_path / "a", header, data))["b"], want)


def test_names_can_be_taken_apart_and_files_joined(tmp_path):
    save_file(
        {"model.a": torch.zeros(1), "model.b": torch.ones(1), "loss.c": torch.ones(1)},
        tmp_path / "1",
    )
    save_file({"model.b": torch.full((1,), 2.0)}, tmp_path / "2")
    weights = open_weights(tmp_path / "1")
    assert set(weights.under("model.")) == {"a", "b"}
    assert set(weights.without("loss.", "model.a")) == {"model.b"}
    joined = weights | open_weights(tmp_path / "2")
    assert len(joined) == 3
    assert joined["model.b"].item() == 2
    assert "model.a" in joined
    assert "a" not in joined


def test_a_file_of_ten_gigabytes_is_known_by_its_header_within_a_second(tmp_path):
    side = 25_000
    header = {f"{i}": entry(4 * i * side**2, 4 * (i + 1) * side**2, [side, side]) for i in range(4)}
    path = write(tmp_path / "large.safetensors", header)
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size + 16 * side**2)
    start = time.perf_counter()
    assert open_weights(path).bytes == 10_000_000_000
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
)
def test_a_value_that_is_not_finite_is_named_when_its_tensor_is_read(tmp_path, bad, dtype):
    broken = torch.ones(3, 40)
    broken[1, 7] = bad
    save_file({"fine": torch.ones(2), "broken": broken.to(dtype)}, tmp_path / "a.safetensors")
    weights = open_weights(tmp_path / "a.safetensors")
    assert weights["fine"].sum() == 2
    with pytest.raises(BadInput, match=r"a\.safetensors: broken holds values that are not finite"):
        weights["broken"]


def test_a_sum_that_overflows_is_no_infinite_value():
    assert finite(torch.full((100,), 6e4, dtype=torch.float16))
    assert finite(torch.full((100,), -3e38))
    assert not finite(torch.tensor([1, float("inf"), float("-inf")]))


def test_eight_bits_can_hold_nan_too():
    assert finite(torch.tensor([448.0, -1]).to(torch.float8_e4m3fn))
    assert not finite(torch.tensor([1, float("nan")]).to(torch.float8_e4m3fn))
    assert not finite(torch.tensor([1, float("inf")]).to(torch.float8_e5m2))


DAMAGED = {
    "ends within its header, after 14 of 108 bytes": (b'{"a": ', b"", 100),
    "header of 90,000,000 bytes; wanted at most": (b"{" + b" " * 64, b"", 90_000_000),
    "header that is not JSON": (b'{"a": nonsense}', b""),
    "that is not JSON (maximum recursion": (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", b""),
    "that is not JSON ('utf-8' codec": (b'{"\xff": 1}', b""),
    "a is there twice": (
        b'{"a": %s, "a": %s}' % ((json.dumps(entry(0, 4, [1])).encode(),) * 2),
        bytes(4),
    ),
    "b overlaps a": ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
    "b leaves a gap of 4 bytes after a": (
        {"a": entry(0, 4, [1]), "b": entry(8, 12, [1])},
        bytes(12),
    ),
    "a leaves a gap of 4 bytes after the header": ({"a": entry(4, 8, [1])}, bytes(8)),
    "ends after 7 of 8 bytes of tensors": ({"a": entry(0, 8, [2])}, bytes(7)),
    "holds 9 instead of 8 bytes of tensors": ({"a": entry(0, 8, [2])}, bytes(9)),
    "a has 8 bytes; its shape (3,) of F32 needs 12": ({"a": entry(0, 8, [3])}, bytes(8)),
    "a is of type 'F4'; known: BOOL": ({"a": entry(0, 8, [16], "F4")}, bytes(8)),
    "a is of type '7'": ({"a": entry(0, 8, [16], 7)}, bytes(8)),
    "a wants a dtype, a shape and two data_offsets": (
        {"a": {"dtype": "F32", "shape": [1]}},
        bytes(4),
    ),
    "b wants a dtype": ({"b": 3}, b""),
    "c has a shape or offsets": ({"c": entry(0, 4, [-1])}, bytes(4)),
    "d has a shape or offsets": ({"d": entry(0, 4, [True])}, bytes(4)),
    "e has a shape or offsets": ({"e": entry(0, 4, [1] * 65)}, bytes(4)),
    "f has a shape or offsets": ({"f": entry(4, 0, [1])}, bytes(4)),
    "g has a shape or offsets": ({"g": entry(0, 4, [10**30, 0])}, bytes(4)),
    "wanted metadata of words only": ({"__metadata__": {"a": 1}}, b""),
}


@pytest.mark.parametrize(("sentence", "content"), DAMAGED.items(), ids=DAMAGED)
def test_damage_is_one_sentence(tmp_path, sentence, content):
    path = write(tmp_path / "bad.safetensors", *content)
    with pytest.raises(BadInput) as caught:
        open_weights(path)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path.name}/bad.safetensors")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_that_shrank_or_changed_since_is_refused(tmp_path):
    path = write(tmp_path / "a.safetensors", {"a": entry(0, 400_000, [100_000])}, bytes(400_000))
    weights = open_weights(path)
    with path.open("rb+") as file:
        file.truncate(1000)
    with pytest.raises(BadInput, match="changed while it was being read"):
        weights["a"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a pointer of Git LFS",
        ),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"", "is empty"),
        (b"hello there", "begins with b'hello th'"),
    ],
)
def test_other_files_are_named_as_what_they_are(tmp_path, content, sentence):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match=sentence):
        open_weights(tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        open_weights(tmp_path / "none.safetensors")
    with pytest.raises(BadInput, match="is not a file"):
        open_weights(tmp_path)


@pytest.fixture
def shards(tmp_path) -> Path:
    save_file({"a": torch.ones(2)}, tmp_path / "1.safetensors", metadata={"format": "pt"})
    save_file({"b": torch.zeros(3), "unused": torch.zeros(1)}, tmp_path / "2.safetensors")
    return index(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})


def index(folder: Path, places: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 20}, "weight_map": places}))
    return path


def test_shards_are_one(shards):
    weights = open_weights(shards)
    assert (
        {name: tuple(one.shape) for name, one in weights.items()}
        == {"a": (2,), "b": (3,)}
        == weights.shapes
    )
    assert weights.metadata == {"total_size": "20", "format": "pt"}


@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        (
            {"a": "1.safetensors", "b": "3.safetensors"},
            "needs 3.safetensors, which is missing beside it",
        ),
        ({"c": "1.safetensors"}, "says that c is in 1.safetensors, which does not hold it"),
        ({"a": "../1.safetensors"}, "wanted the names of files beside it"),
        ({"a": "/etc/passwd"}, "wanted the names of files beside it"),
        ({"a": 3}, "wanted the names of files beside it"),
        ({"a": "model.safetensors.index.json"}, "is no file of weights"),
        ({"a": []}, "wanted JSON with a weight_map"),
        ([], "wanted JSON with a weight_map"),
    ],
)
def test_a_wrong_index_is_one_sentence(shards, places, sentence):
    with pytest.raises(BadInput, match=sentence):
        open_weights(index(shards.parent, places))


def test_a_real_index_of_shards_gives_what_its_files_hold():
    folder = Recording("diffusers-folders").file("flux/transformer")
    weights = open_weights(folder / "diffusion_pytorch_model.safetensors.index.json")
    files = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    want = {name: one for file in files for name, one in file.items()}
    assert len(files) == 4
    assert set(weights) == set(want)
    assert all(torch.equal(one, want[name]) for name, one in weights.items())
