"""Files of weights that are written tensor by tensor: the library's own to the byte, whole or
absent, and counted."""

import pytest
import torch
from safetensors.torch import save_file

from recorded import Recording
from safelight import checkpoints
from safelight.weights import progress
from safelight.weights.progress import ByteProgress
from safelight.weights.stored import TYPES
from safelight.weights.writing import size, write_tensors


def test_the_file_is_the_librarys_to_the_byte(tmp_path):
    tensors = {
        f"a {name}": torch.arange(6).reshape(2, 3).to(kind.dtype) for name, kind in TYPES.items()
    }
    tensors |= {"empty": torch.empty(0, 4), "one": torch.tensor(3.0), "ü\n": torch.tensor([True])}
    tensors |= {"large": torch.randn(70_000), "conv": torch.randn(3, 4, 5, 6)}
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    tensors["conv"] = tensors["conv"].to(memory_format=torch.channels_last)
    tensors["large"] = torch.stack([tensors["large"]] * 2, 1)[:, 0]  # every second number
    heard = []
    write_tensors(dict(list(tensors.items())[::-1]), tmp_path / "ours", count=heard.append)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert sum(heard) == size(tensors)


@pytest.mark.parametrize("layout", checkpoints.FORMATS)
def test_an_interrupted_save_leaves_nothing_half_written(model, tmp_path, layout, monkeypatch):
    def stopped(*given: object, **more: object) -> None:
        write_tensors(*given, **more)
        raise KeyboardInterrupt

    whole = (
        checkpoints.read(Recording("diffusers-folders").file("sd")) if layout != "native" else model
    )
    for module in ("native", "single_file", "diffusers_writing"):
        monkeypatch.setattr(f"safelight.checkpoints.{module}.write_tensors", stopped)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(whole, tmp_path / "out.safetensors", layout)
    assert not list(tmp_path.iterdir())


def test_a_wait_is_told_of_and_a_moment_is_not(monkeypatch):
    now = iter([0.0, 0.5, 2.0, 2.01, 4.0, 4.01])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    heard = []
    count = ByteProgress("reading", 400_000_000, lambda *what: heard.append(what))
    for _ in range(4):
        count(100_000_000)
    assert heard == [("reading (MB)", 200, 400, "100 MB/s"), ("reading (MB)", 400, 400, "100 MB/s")]


def test_reading_and_writing_are_told_of_to_the_end(model, tmp_path, monkeypatch):
    """With no silence first: each of the three comes to all of its bytes."""
    monkeypatch.setattr(progress, "SILENCE", -1.0)
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    heard: dict[str, list[int]] = {}

    def report(what: str, done: int, total: int, note: str) -> None:
        assert note.endswith(" MB/s")
        heard.setdefault(what, []).append(total - done)

    checkpoints.save(model, tmp_path / "saved", progress=report)
    checkpoints.load(tmp_path / "saved", "cpu", "fp32", progress=report)
    checkpoints.read(Recording("diffusers-folders").file("sd"), {}, report)
    assert list(heard) == ["writing (MB)", "hashing (MB)", "reading (MB)"]
    assert all(left[-1] == 0 for left in heard.values())
