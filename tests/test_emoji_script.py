"""The decisions of scripts/emoji.py, on made-up entries and an unreliable server."""

import gzip
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import emoji  # noqa: E402

GROUPS = {
    "groups": {"0": "smileys-emotion", "2": "component", "9": "flags"},
    "subgroups": {"1": "face", "7": "hair"},
}
FACE = {
    "label": "grinning face",
    "tags": ["grin"],
    "group": 0,
    "subgroup": 1,
    "hexcode": "1F600",
    "emoji": "😀",
}
HAIR = {"label": "red hair", "group": 2, "subgroup": 7, "hexcode": "1F9B0", "emoji": "🦰"}
LETTER = {"label": "regional indicator A", "hexcode": "1F1E6", "emoji": "🇦"}
HELD_OUT = {"val_concept": ["1F9"], "val_pair": {"noto": ["1F600", "1F9"], "fluent": []}}


def test_the_table_leaves_out_components_and_bare_letters():
    [face] = emoji.concepts([LETTER, FACE, HAIR], GROUPS)
    assert emoji.record(face, "noto", HELD_OUT) == {
        "file_name": "images/noto/1F600.webp",
        "text": "grinning face, cartoon emoji with soft shading",
        "name": "grinning face",
        "tags": ["grin"],
        "style": "noto",
        "group": "smileys-emotion",
        "subgroup": "face",
        "hexcode": "1F600",
        "emoji": "😀",
        "split": "val_pair",
    }


def test_flags_are_flags_of_somewhere():
    assert (
        emoji.caption("flag: St. Kitts & Nevis", "flat emoji")
        == "flag of St. Kitts & Nevis, flat emoji"
    )
    assert emoji.caption("pirate flag: mine", "flat emoji") == "pirate flag: mine, flat emoji"


def test_a_concept_is_held_out_everywhere_and_a_pair_in_its_style():
    assert (
        emoji.split("noto", "1F9", HELD_OUT)
        == emoji.split("fluent", "1F9", HELD_OUT)
        == "val_concept"
    )
    assert emoji.split("noto", "1F600", HELD_OUT) == "val_pair"
    assert emoji.split("fluent", "1F600", HELD_OUT) == "train"


def test_the_held_out_table_and_the_manifest_that_ships_agree():
    held_out = json.loads((ROOT / "scripts/emoji_held_out.json").read_text("utf-8"))
    lines = gzip.decompress(
        (ROOT / "src/safelight/models/stickers/data.jsonl.gz").read_bytes()
    ).splitlines()
    rows = [json.loads(line) for line in lines]
    assert {style: sum(row["style"] == style for row in rows) for style in emoji.SHIPPED} == {
        style: emoji.STYLES[style].pictures for style in emoji.SHIPPED
    }
    assert [row["split"] for row in rows] == [
        emoji.split(row["style"], Path(row["file"]).stem, held_out) for row in rows
    ]


@pytest.mark.parametrize(
    ("style", "hexcode", "name"),
    [
        ("noto", "1F3F3-FE0F-200D-1F308", "png/128/emoji_u1f3f3_200d_1f308.png"),
        ("fluent", "261D", "assets/261d-fe0f_3d.png"),
        ("fluent", "0023-FE0F-20E3", "assets/0023-20e3_3d.png"),
        ("fluent", "1F600", "assets/1f600_3d.png"),
        ("twemoji", "0023-FE0F-20E3", "packages/svgmoji__twemoji/svg/23-20E3.svg"),
        ("blob", "0023-FE0F-20E3", "packages/svgmoji__blob/svg/0023-FE0F-20E3.svg"),
    ],
)
def test_pictures_are_found_however_a_source_spells_them(tmp_path, style, hexcode, name):
    assert emoji.find(tmp_path, style, hexcode) is None
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert emoji.find(tmp_path, style, hexcode) == tmp_path / name


def pixels(path: Path) -> np.ndarray:
    picture = Image.open(io.BytesIO(emoji.webp(path, Path.read_bytes)))
    assert (picture.size, picture.mode) == ((128, 128), "RGBA")
    return np.asarray(picture)


def test_a_picture_of_the_right_size_keeps_its_pixels(tmp_path):
    noise = np.random.default_rng(0).integers(1, 256, (128, 128, 4), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    np.testing.assert_array_equal(pixels(tmp_path / "noise.png"), noise)


def test_an_oblong_picture_lies_in_the_middle_of_a_clear_square(tmp_path):
    Image.new("RGB", (256, 128), (200, 30, 30)).save(tmp_path / "flag.png")
    alpha = pixels(tmp_path / "flag.png")[..., 3]
    assert (alpha[36:92] == 255).all()
    assert (alpha[:28] == 0).all()
    assert (alpha[100:] == 0).all()


def test_an_unreadable_picture_is_left_out_and_named(tmp_path):
    table = [{"hexcode": "1F600"}, {"hexcode": "1F601"}, {"hexcode": "1F602"}]
    (tmp_path / "png/128").mkdir(parents=True)
    Image.new("RGBA", (128, 128)).save(tmp_path / "png/128/emoji_u1f600.png")
    (tmp_path / "png/128/emoji_u1f601.png").write_bytes(b"not a picture")
    drawn, refused = emoji.pictures("noto", table, tmp_path, Path.read_bytes)
    assert list(drawn) == ["1F600"]
    assert refused == ["1F601"]


def test_an_archive_cannot_write_where_it_wants(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name in (
            "top/LICENSE",
            "top/../LICENSE",
            "../LICENSE",
            "/LICENSE",
            "top/png/LICENSE",
            "top/other",
        ):
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"ok"))
        link = tarfile.TarInfo("top/link")
        link.type, link.linkname = tarfile.SYMTYPE, "LICENSE"
        archive.addfile(link)
    emoji.extract(tmp_path / "a.tar.gz", tmp_path / "out" / "in", r"LICENSE|link|png/LICENSE")
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"a.tar.gz", "out/in/LICENSE", "out/in/png/LICENSE"}


@pytest.fixture
def hanging_up() -> Iterator[str]:
    """The address of a server that interrupts its first answer and then continues it."""
    whole = bytes(range(256)) * 40

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(whole) - start))
            self.end_headers()
            self.wfile.write(whole[start:] if start else whole[:5000])

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/archive"
        server.shutdown()


def test_a_broken_download_is_continued_and_whole_at_once(hanging_up, tmp_path, monkeypatch):
    monkeypatch.setattr(emoji.time, "sleep", lambda _: None)
    with pytest.raises(SystemExit, match="5240 bytes are missing"):
        emoji.download(hanging_up, tmp_path / "file", tries=1)
    assert not (tmp_path / "file").exists()
    emoji.download(hanging_up, tmp_path / "file", tries=1)
    assert (tmp_path / "file").read_bytes() == bytes(range(256)) * 40
    emoji.download(hanging_up, tmp_path / "again", tries=2)
    assert (tmp_path / "again").read_bytes() == bytes(range(256)) * 40


def test_zips_and_manifests_are_the_same_every_time(tmp_path):
    members = {"b": b"1", "a": b"2"}
    for name in ("one", "two"):
        emoji.write_zip(tmp_path / f"{name}.zip", members)
        emoji.manifest([{"file": "b"}], tmp_path / f"{name}.gz")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["b", "a"]
        assert archive.infolist()[0].compress_type == zipfile.ZIP_STORED
    assert gzip.decompress((tmp_path / "one.gz").read_bytes()) == b'{"file":"b"}\n'
