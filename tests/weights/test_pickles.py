"""PyTorch's own files: what they hold is read, whatever else they hold is left alone, and nothing
is ever executed."""

import argparse
import json
import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from recorded import Recording
from safelight.errors import BadInput
from safelight.weights.files import open_weights


def flat(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors by their path."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict | list | tuple):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(one, f"{path}.{key}" if path else str(key))


def check(path: Path, want: dict) -> None:
    weights = open_weights(path)
    assert list(weights) == list(want)
    for name, one in want.items():
        assert weights.shapes[name] == tuple(one.shape)
        assert weights[name].dtype == one.dtype
        assert torch.equal(weights[name].float(), one.detach().float())


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
def test_a_state_dict_is_read_with_all_its_types_and_strides(tmp_path, new):
    whole = torch.randn(40, 50, 30)
    state = OrderedDict(
        plain=whole,
        tied=whole,
        turned=whole.transpose(0, 2),
        part=whole[3:7, ::5],
        last=torch.randn(8, 6, 3, 3).to(memory_format=torch.channels_last),
        parameter=torch.nn.Parameter(torch.randn(3)),
        scalar=torch.tensor(7),
        empty=torch.empty(0, 3),
        half=torch.randn(5).half(),
        brain=torch.randn(5).bfloat16(),
        truth=torch.tensor([True, False]),
        bytes=torch.arange(9, dtype=torch.uint8),
        double=torch.randn(2).double(),
    )
    state |= (
        {"eight": torch.randn(5).to(torch.float8_e4m3fn), "wide": torch.arange(5).to(torch.uint32)}
        if new
        else {}
    )
    state["parameter"].extra = "attributes are dropped"
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    check(tmp_path / "a.pt", state)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_whole_training_file_gives_its_tensors_and_leaves_objects_alone(tmp_path, new, protocol):
    layer = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimiser.step()
    tensors = {
        "state_dict": layer.state_dict(),
        "optimizer_states": [optimiser.state_dict()],
        "ema": {"a": {"b": layer.bias}},
    }
    others = {
        "epoch": 7,
        "lr": 0.5,
        "note": "füchse",
        "args": argparse.Namespace(path=Path("x"), numbers=[1, 2]),
        "seen": {1, 2},
        "callbacks": {argparse.Namespace: {"best": Path("x"), "score": 1 + 2j}},
        "default": defaultdict(list, a=[1]),
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
    }
    path = tmp_path / "last.ckpt"
    torch.save(tensors | others, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    check(path, dict(flat(tensors)))
    said = open_weights(path).metadata
    assert (said["epoch"], said["lr"], said["note"]) == ("7", "0.5", "füchse")
    assert "argparse.Namespace" in said["unread"]
    assert set(open_weights(path).under("state_dict.")) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("folder", "name", "count"),
    [
        ("ldm-kl", "f4.ckpt", 153),
        ("dit", "DiT.pt", 32),
        ("dit", "training.pt", 64),
        ("lora", "ti-a1111.pt", 1),
        ("real-files", "birb-style_learned_embeds.bin", 1),
    ],
)
def test_recorded_files_give_what_pytorch_reads(folder, name, count):
    path = Recording(folder).file(name)
    with torch.serialization.safe_globals([argparse.Namespace]):
        want = dict(flat(torch.load(path, weights_only=True)))
    assert len(want) == count
    check(path, want)


def test_parts_of_a_trainer_are_left_alone_and_a_canary_is_refused():
    weights = open_weights(Recording("ldm-kl").file("lightning-parts.ckpt"))
    assert len(weights.under("state_dict.")) == 3
    assert all(bool(one.isfinite().all()) for one in weights.values())
    before = dict(os.environ)
    with pytest.raises(BadInput, match=r"canary.ckpt asks for __builtin__\.exec"):
        open_weights(Recording("ldm-kl").file("canary.ckpt"))
    assert dict(os.environ) == before


# What would harm, were it executed.


class Calls:
    """An object that a pickle makes by a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def live(canary: Path) -> dict[str, object]:
    """Objects that write the canary when an ordinary reader meets them."""
    touch = f"open({str(canary)!r}, 'w').close()"
    nested: object = Calls(eval, touch)
    for _ in range(30):
        nested = {"a": [nested, (nested,)]} if _ == 0 else [nested]
    return {
        "system": Calls(os.system, f"touch {canary}"),
        "eval": Calls(eval, touch),
        "exec": Calls(exec, touch),
        "open": Calls(open, str(canary), "w"),
        "state": {"state_dict": {"a": torch.zeros(1).numpy().tobytes(), "b": Calls(exec, touch)}},
        "nested": nested,
        "key": {("a", Calls(exec, touch)): 1},
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "map": Calls(list, Calls(map, eval, [touch])),
        "namespace": argparse.Namespace(a=Calls(exec, touch)),
        "inside a tensor": Calls(
            torch._utils._rebuild_tensor_v2, Calls(exec, touch), 0, (1,), (1,), False, None
        ),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["bare", "zip", "stream", "zip named safetensors"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", list(live(Path("x"))))
def test_a_hostile_object_never_runs(tmp_path, kind, protocol, form):
    canary = tmp_path / "canary"
    data = pickle.dumps({"x": live(canary)[kind]}, protocol)
    if kind not in (
        "getattr",
        "inside a tensor",
    ):  # the others must be live, or this proves nothing
        pickle.loads(data)
        assert canary.exists()
        canary.unlink()
    path = tmp_path / ("a.safetensors" if "named" in form else "a.ckpt")
    if form == "stream":
        path.write_bytes(stream(data))
    elif form == "bare":
        path.write_bytes(data)
    else:
        zipped(path, data)
    with pytest.raises(BadInput) as caught:
        open_weights(path)
    assert not canary.exists()
    assert str(caught.value).startswith(f"{tmp_path.name}/{path.name}")
    if "named" in form:
        assert "is named safetensors and is a PyTorch pickle" in str(caught.value)
    elif form != "bare" or protocol > 1:  # the oldest pickles cannot be told from any other file
        assert "which no state dict needs; nothing was executed" in str(caught.value)


def zipped(
    path: Path, data: bytes, *storages: bytes, compression: int = zipfile.ZIP_STORED
) -> Path:
    """PyTorch's newer form around any pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x/data.pkl", data)
        for number, storage in enumerate(storages):
            archive.writestr(f"x/data/{number}", storage)
    return path


def stream(data: bytes, keys: object = (), version: int = 1001, little: object = True) -> bytes:
    """PyTorch's older form around any pickle."""
    head = [0x1950A86A20F9469CFC6C, version, {"little_endian": little}]
    return b"".join(pickle.dumps(one, 2) for one in head) + data + pickle.dumps(list(keys), 2)


def op(value: object) -> bytes:
    """The opcodes of a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def storage(key: object = "0", count: object = 4, kind: bytes = b"torch\nFloatStorage") -> bytes:
    return b"(" + op("storage") + b"c" + kind + b"\n" + op(key) + op("cpu") + op(count) + b"tQ"


def tensor(place: bytes, offset: object = 0, shape: object = (4,), strides: object = (1,)) -> bytes:
    numbers = op(offset) + op(shape) + op(strides) + op(False)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + place
        + numbers
        + b"ccollections\nOrderedDict\n)RtR"
    )


def holding(*values: bytes) -> bytes:
    """The pickle of a dictionary of these values."""
    return (
        b"\x80\x02}("
        + b"".join(op(f"n{number}") + one for number, one in enumerate(values))
        + b"u."
    )


def test_the_opcodes_written_here_by_hand_are_those_of_a_tensor(tmp_path):
    want = torch.arange(4.0)
    zipped(tmp_path / "a", holding(tensor(storage())), want.numpy().tobytes())
    check(tmp_path / "a", {"n0": want})
    data = stream(holding(tensor(storage())), ["0"]) + struct.pack("<q", 4) + want.numpy().tobytes()
    (tmp_path / "b").write_bytes(data)
    check(tmp_path / "b", {"n0": want})


GOOD = tensor(storage())
HOSTILE = {
    "INST": (b"(S'true'\nios\nsystem\n", "asks for os.system"),
    "OBJ": (b"(cos\nsystem\nS'true'\no", "asks for os.system"),
    "NEWOBJ": (b"csubprocess\nPopen\n" + op(("true",)) + b"\x81", "asks for subprocess.Popen"),
    "NEWOBJ_EX": (b"csubprocess\nPopen\n" + op(("true",)) + b"}\x92", "asks for subprocess.Popen"),
    "STACK_GLOBAL": (b"\x8c\x08builtins\x8c\x04eval\x93", "asks for builtins.eval"),
    "STACK_GLOBAL of pieces": (op("nt") + op("system") + b"\x93", "asks for nt.system"),
    "STACK_GLOBAL with dots": (
        op("collections") + op("OrderedDict.__init__.__globals__") + b"\x93",
        "asks for",
    ),
    "STACK_GLOBAL of numbers": (op(1) + op(2) + b"\x93", "names a global by what is not a word"),
    "a long global": (
        op("torch") + op("x" * 1000) + b"\x93",
        "names a global of more than 300 characters",
    ),
    "BUILD of a class": (
        b"ctorch.nn.modules.linear\nLinear\n}b",
        "changes torch.nn.modules.linear.Linear",
    ),
    "EXT1": (b"\x82\x01", "uses the opcode EXT1"),
    "EXT2": (b"\x83\x01\0", "uses the opcode EXT2"),
    "EXT4": (b"\x84\x01\0\0\0", "uses the opcode EXT4"),
    "PERSID": (b"Pstorage\n", "uses the opcode PERSID"),
    "NEXT_BUFFER": (b"\x97", "uses the opcode NEXT_BUFFER"),
    "an id that is a word": (op("x") + b"Q", "refers to something outside itself"),
    "an id that is a number": (op(7) + b"Q", "refers to something outside itself"),
    "an id of another kind": (
        op(("module", "os", "x", "y", 1)) + b"Q",
        "refers to something outside itself",
    ),
    "an id with a class for a key": (
        storage("0").replace(op("0"), b"cos.path\njoin\n"),
        "asks for os.path.join",
    ),
    "a number called": (op(3) + b")R", "calls a int"),
    "a call of a tensor": (GOOD + b")R", "calls a View"),
    "a call of too much": (
        b"ctorch\nSize\n" + op(tuple(range(99))) + b"R",
        "with what it does not take",
    ),
    "a storage that is unknown": (
        tensor(storage(kind=b"torch\nQInt8Storage")),
        "a storage of torch.QInt8Storage",
    ),
    "a storage without end": (tensor(storage(count=1 << 60)), "of a length that cannot be"),
    "a storage of less than nothing": (tensor(storage(count=-1)), "of a length that cannot be"),
    "a storage that is not there": (tensor(storage("7")), "lacks the member data/7"),
    "a storage elsewhere": (tensor(storage("../../../etc/passwd")), "lacks the member data/../"),
    "a storage that is short": (tensor(storage(count=5)), "holds 16 of the 20 bytes of n0"),
    "a tensor beyond its storage": (
        tensor(storage(), shape=(5,)),
        "goes beyond its storage of 16 bytes",
    ),
    "an offset beyond": (tensor(storage(), offset=1), "goes beyond its storage"),
    "an offset before": (tensor(storage(), offset=-1), "shape or strides that cannot be"),
    "strides beyond": (tensor(storage(), shape=(2, 2), strides=(3, 1)), "goes beyond its storage"),
    "strides back": (
        tensor(storage(), shape=(2, 2), strides=(-1, 1)),
        "shape or strides that cannot be",
    ),
    "strides of nothing": (
        tensor(storage(), shape=(10**9,), strides=(0,)),
        "goes beyond its storage",
    ),
    "strides for other axes": (tensor(storage(), shape=(2, 2)), "shape or strides that cannot be"),
    "a shape of words": (tensor(storage(), shape=("a",)), "shape or strides that cannot be"),
    "many axes": (
        tensor(storage(), shape=(1,) * 65, strides=(1,) * 65),
        "shape or strides that cannot be",
    ),
    "no shape": (tensor(storage(), shape=None), "without a storage, a shape or strides"),
    "no storage": (tensor(op(None)), "without a storage, a shape or strides"),
    "a type that is none": (
        b"ctorch._utils\n_rebuild_tensor_v3\n("
        + storage()
        + op(0)
        + op((4,))
        + op((1,))
        + op(False)
        + op(None)
        + b"ctorch\nx\ntR",
        "a tensor of type torch.x",
    ),
    "a subclass": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cmine\nmake\ncmine\nKind\n)}tR",
        "made in a way that is not known",
    ),
    "an older dictionary": (
        b"ccollections\nOrderedDict\n" + op(([],)) + b"R",
        "as Python 2 wrote it",
    ),
    "a stack that is empty": (b"00000R", "cannot be followed"),
    "a memo that is empty": (b"h\x07", "cannot be followed"),
    "no mark": (b"t", "cannot be followed"),
    "items for a number": (op(3) + op("a") + op("b") + b"s", "cannot be followed"),
    "an opcode that is none": (b"\xff", "cannot be followed"),
    "a number without end": (b"I" + b"9" * 10_000 + b"\n", "cannot be followed"),
    "words that end early": (b"X\xff\xff\xff\x7fabc", "cannot be followed"),
    "a long name": (b"}" + op("x" * 301) + GOOD + b"s", "a name of more than 300 characters"),
}


@pytest.mark.parametrize(("value", "sentence"), HOSTILE.values(), ids=HOSTILE)
def test_what_a_state_dict_does_not_need_is_refused_by_its_name(tmp_path, value, sentence):
    path = zipped(tmp_path / "a.ckpt", holding(value, GOOD), bytes(16))
    with pytest.raises(BadInput) as caught:
        open_weights(path)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path.name}/a.ckpt")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def again(value: bytes, times: int, count: int, end: bytes) -> bytes:
    """A container that holds the one before it many times, so often over."""
    data = value
    for level in range(times):
        data += b"q" + bytes([level]) + b"0(" + (b"h" + bytes([level])) * count + end
    return data


BOMBS = {
    "lists of lists": again(b"]", 30, 10, b"l"),
    "a list of itself": b"]q\0(" + b"h\0" * 150_000 + b"e",
    "dictionaries of dictionaries": b"}q\0"
    + b"("
    + b"".join(op(str(i)) + b"h\0" for i in range(9))
    + b"u",
    "depth": b"]" * 100_000 + b"a" * 99_999,
    "tuples in tuples": b")" + b"\x85" * 100_000,
    "steps": b"N0" * 250_001,
    "keys of tuples": b"}" + again(b")", 30, 10, b"t") + op(1) + b"s",
    "one long global": b"X"
    + struct.pack("<I", 1 << 20)
    + b"x" * (1 << 20)
    + b"q\0"
    + b"h\0\x93h\0" * 9,
    "a list called": b"](" + op(1) * 100_000 + b"eq\0" + b"0ctorch\nSize\nh\0R" * 50_000,
    "a great memo": b"N" + b"r\xff\xff\xff\xff" * 10,
    "a wide type": b"ctorch._utils\n_rebuild_tensor_v3\n("
    + storage()
    + op(0) * 5
    + again(b")", 40, 9, b"t")
    + b"tR",
}


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux does"
)
@pytest.mark.parametrize("value", BOMBS.values(), ids=BOMBS)
def test_a_small_file_takes_little_time_and_memory(tmp_path, value):
    path = zipped(tmp_path / "a.ckpt", holding(value), bytes(16))
    start = time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak()
    with pytest.raises(BadInput):
        open_weights(path)
    assert time.process_time() - start < 20
    assert peak() - before < 200_000


def peak() -> int:
    """Of this process's memory, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_damaged_files_are_one_sentence(tmp_path):
    def refused(data: bytes, sentence: str) -> None:
        (tmp_path / "a.ckpt").write_bytes(data)
        with pytest.raises(BadInput, match=sentence) as caught:
            open_weights(tmp_path / "a.ckpt")
        assert str(caught.value).startswith(f"{tmp_path.name}/a.ckpt")

    path = tmp_path / "whole"
    whole = zipped(path, holding(GOOD), bytes(16)).read_bytes()
    refused(whole[: len(whole) // 2], "is a zip that ends early")
    refused(whole[:60] + whole[80:], "zip directory that is not whole")
    refused(
        zipped(path, holding(GOOD), bytes(16), compression=zipfile.ZIP_DEFLATED).read_bytes(),
        "is compressed",
    )
    refused(whole.replace(b"x/data.pkl", b"x/else.pkl"), "not one of PyTorch's")
    refused(
        whole.replace(b"PK\3\4", b"PK\3\5").replace(b"PK\3\5", b"PK\3\4", 1),
        "not where the zip's directory says",
    )
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data.pkl", b"N.")
    refused(path.read_bytes(), "holds x/data.pkl twice")
    zipped(path, bytes(20 << 20))
    refused(path.read_bytes(), "has a pickle of 20,971,520 bytes")
    with zipfile.ZipFile(zipped(path, holding(GOOD), bytes(16)), "a") as archive:
        archive.writestr("x/byteorder", "big")
    refused(path.read_bytes(), "the other way round")
    refused(
        zipped(path, holding(op("words alone"))).read_bytes(), "wanted tensors with names, got none"
    )
    refused(
        zipped(path, b"\x80\x02cmine\nModel\n)\x81}b.").read_bytes(), "got objects of mine.Model"
    )
    older = stream(holding(GOOD), ["0"]) + struct.pack("<q", 4) + bytes(16)
    refused(older[:-1], "ends after")
    refused(older[:40], "cannot be followed|without an end")
    refused(pickle.dumps({"a": 1}), "is a pickle, but not of PyTorch")
    refused(stream(holding(GOOD), ["7"]), "lists storages that its tensors do not use")
    refused(stream(holding(GOOD)), "lacks the storage 0")
    refused(stream(holding(GOOD), ["0"], version=3), "of a PyTorch or a machine that is not known")
    refused(
        stream(holding(GOOD), ["0"], little=False), "of a PyTorch or a machine that is not known"
    )


def test_a_large_file_is_known_by_its_directory_alone(tmp_path):
    count = 1_000_000_000
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x/data.pkl", holding(tensor(storage(count=count), shape=(count,))))
        archive.writestr("x/data/0", b"")
    directory = path.read_bytes()
    at = directory.rindex(b"PK\1\2")
    with path.open(
        "rb+"
    ) as file:  # the last member made four gigabytes of nothing, and the directory moved behind it
        file.seek(directory.index(b"PK\1\2") + 4 * count)
        entry = bytearray(directory[at:-22])
        extra = struct.pack("<2H2Q", 1, 16, 4 * count, 4 * count)
        entry[20:28] = (
            b"\xff" * 8 if 4 * count > 0xFFFFFFFE else struct.pack("<2L", 4 * count, 4 * count)
        )
        entry[30:32] = struct.pack("<H", len(extra))
        start = file.tell()
        file.write(directory[directory.index(b"PK\1\2") : at] + bytes(entry) + extra)
        length = file.tell() - start
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, length, start, 0))
    begin = time.perf_counter()
    weights = open_weights(path)
    assert time.perf_counter() - begin < 1
    assert weights.bytes == 4 * count


def test_a_tensor_taken_from_a_pickle_is_the_one_of_the_safetensors_twin(tmp_path):
    want = load_file(Recording("ldm-kl").file("f8.safetensors"))
    torch.save({"state_dict": want}, tmp_path / "f8.ckpt")
    check(tmp_path / "f8.ckpt", {f"state_dict.{name}": one for name, one in want.items()})
    assert json.dumps(open_weights(tmp_path / "f8.ckpt").metadata) == "{}"
