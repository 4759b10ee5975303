"""Files are whole or absent, whatever happens while they are written."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from safelight import files
from safelight.errors import CannotSave
from safelight.files import (
    cache_folder,
    digest,
    sha256,
    write_bytes,
    write_text,
    writing,
    writing_folder,
)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below, hidden ones as well, and every empty folder."""
    every = folder.rglob("*")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in every
    }


def full(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with writing(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
        assert aside.suffix == ".txt"
    assert tree(tmp_path) == {"new": b"", "new/a.txt": b"whole"}
    write_text(path, "füchse")
    assert path.read_bytes() == "füchse".encode()
    write_bytes(path, b"\x00")
    assert tree(tmp_path / "new") == {"a.txt": b"\x00"}


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    for number in range(2):
        with writing_folder(tmp_path / "model") as aside:
            (aside / "sub").mkdir()
            (aside / "sub" / str(number)).write_text("whole")
            assert tree(tmp_path / "model") == (
                {} if number == 0 else {"sub": b"", "sub/0": b"whole"}
            )
    assert tree(tmp_path) == {"model": b"", "model/sub": b"", "model/sub/1": b"whole"}


def test_an_exception_leaves_what_was_there_and_passes(tmp_path):
    write_text(tmp_path / "a", "old")
    with writing_folder(tmp_path / "model") as aside:
        (aside / "b").write_text("old")
    before = tree(tmp_path)

    def write_file():
        with writing(tmp_path / "a") as aside:
            aside.write_text("half")
            raise KeyError("mine")

    def write_folder():
        with writing_folder(tmp_path / "model") as aside:
            (aside / "b").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyError, match="mine"):
        write_file()
    with pytest.raises(KeyboardInterrupt):
        write_folder()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_leaves_what_was_there_and_is_one_sentence(tmp_path, monkeypatch, call):
    write_text(tmp_path / "a", "old")
    with writing_folder(tmp_path / "model") as aside:
        (aside / "b").write_text("old")
    before = tree(tmp_path)

    def write_folder():
        with writing_folder(tmp_path / "model") as aside:
            (aside / "b").write_text("new")

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(
        CannotSave, match=r"^cannot save '.*a': No space left on device; nothing was changed.$"
    ):
        write_text(tmp_path / "a", "new")
    with pytest.raises(
        CannotSave, match=r"^cannot save '.*model': No space left on device; nothing was changed.$"
    ):
        write_folder()
    monkeypatch.undo()
    assert tree(tmp_path) == before


def test_a_folder_that_cannot_be_put_in_place_gives_way_to_the_old_one(tmp_path, monkeypatch):
    with writing_folder(tmp_path / "model") as aside:
        (aside / "b").write_text("old")
    before, replace = tree(tmp_path), os.replace

    def write_folder():
        with writing_folder(tmp_path / "model") as aside:
            (aside / "b").write_text("new")

    monkeypatch.setattr(
        files.os, "replace", lambda a, b: full() if Path(a).name == "new" else replace(a, b)
    )
    with pytest.raises(CannotSave):
        write_folder()
    monkeypatch.undo()
    assert tree(tmp_path) == before


def test_a_disk_that_is_really_full_changes_nothing(tmp_path):
    """A limit on the size of files stands in for it, in a process of its own."""
    write_text(tmp_path / "a", "old")
    write_text(tmp_path / "b", "old")
    before = tree(tmp_path)
    code = """
import resource, sys
from pathlib import Path
import torch
from safelight.weights.writing import write_tensors
from safelight.errors import CannotSave
from safelight.files import write_bytes, writing
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
a, b = Path(sys.argv[1], "a"), Path(sys.argv[1], "b")
try:
    write_bytes(a, bytes(20_000))
except CannotSave as error:
    print(error)
try:
    with writing(b) as aside:
        write_tensors({"x": torch.zeros(20_000)}, aside)
except CannotSave as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.endswith("a': File too large; nothing was changed.")
    assert "b': " in second
    assert "File too large" in second
    assert tree(tmp_path) == before


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CannotSave, match=r"cannot save '.*file/a': .*; nothing was changed"):
        write_text(tmp_path / "file" / "a", "new")
    assert tree(tmp_path) == {"file": b"in the way"}


def test_saving_within_saving_names_the_inner_place_only(tmp_path, monkeypatch):
    def write():
        with writing_folder(tmp_path / "outer") as aside:
            monkeypatch.setattr(files.os, "replace", full)
            write_text(aside / "inner", "new")

    with pytest.raises(CannotSave) as caught:
        write()
    assert str(caught.value).count("cannot save") == 1


def test_permissions_are_those_of_a_file_that_anyone_makes(tmp_path):
    (tmp_path / "plain").touch()
    (tmp_path / "folder").mkdir()
    with writing(tmp_path / "a") as aside:
        aside.touch(0o600)
    with writing_folder(tmp_path / "model") as aside:
        (aside / "b").touch(0o600)
    plain, folder = ((tmp_path / name).stat().st_mode for name in ("plain", "folder"))
    assert (tmp_path / "a").stat().st_mode == plain
    assert (tmp_path / "model" / "b").stat().st_mode == plain
    assert (tmp_path / "model").stat().st_mode == folder


def test_a_digest_tells_where_parts_end():
    assert digest(["ab", "c"]) != digest(["a", "bc"]) != digest(["abc"])
    assert digest([]) != digest([""]) != digest(["", ""])
    assert digest(["ü"]) == digest(["ü".encode()])
    assert len(digest([])) == 64


def test_the_hash_of_a_file_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_the_cache_lies_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ours"
    monkeypatch.delenv("SAFELIGHT_CACHE")
    assert cache_folder() == tmp_path / "safelight"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "safelight"
