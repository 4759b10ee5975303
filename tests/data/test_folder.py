"""Folders and zips of pictures: which pictures, captions and labels, and what is refused."""

import json
import zipfile
from dataclasses import replace

import pytest

from layouts import png, write_folder, write_zip
from safelight.data.examples import Example, examine
from safelight.data.sources.folder import Config
from safelight.errors import BadInput

THREE = {"b/2.png": png(2), "b/10.PNG": png(10), "a.png": png(1)}


def examples(path: str, **options) -> list[Example]:
    source = Config(paths=(path,), **options).build()
    return [source[index] for index in range(len(source))]


def lines(*rows: object) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"


def test_pictures_come_in_the_order_of_their_names(place):
    path = place(THREE | {"notes.md": "no picture", "b/.hidden.png": png(3), ".git/x.png": png(4)})
    assert [(example.name, example.picture) for example in examples(path)] == [
        (name, THREE[name]) for name in sorted(THREE)
    ]


def test_files_that_systems_leave_behind_are_skipped(place):
    path = place(
        {"a.png": png(1), "__MACOSX/a.png": png(2), "._a.png": b"\0", "b/.Trash/c.png": png(3)}
    )
    assert [example.name for example in examples(path)] == ["a.png"]


def test_several_folders_and_zips_follow_each_other(tmp_path):
    write_folder(tmp_path / "z", {"1.png": png(1)})
    write_zip(tmp_path / "a.zip", {"0.png": png(0)})
    source = Config(paths=(str(tmp_path / "z"), str(tmp_path / "a.zip")), licence="CC0").build()
    assert [source[index].name for index in range(2)] == ["1.png", "0.png"]
    origin = source.origin()
    assert origin["licence"] == "CC0"
    assert origin["count"] == 2
    assert list(origin["sha256"]) == ["a.zip"]
    assert len(origin["sha256"]["a.zip"]) == 64


@pytest.mark.parametrize("file", ["metadata.jsonl", "anything.jsonl"])
@pytest.mark.parametrize(
    ("file_key", "text_key", "label_key"),
    [("file_name", "text", "label"), ("file", "caption", "class_name")],
)
def test_json_rows_hold_captions_and_labels(place, file, file_key, text_key, label_key):
    rows = lines(
        {file_key: "b/2.png", text_key: "zwei 🦊", label_key: 7},
        {file_key: "a.png", text_key: "eins"},
    )
    got = examples(place(THREE | {file: rows}))
    assert [(example.name, example.caption, example.label) for example in got] == [
        ("a.png", "eins", None),
        ("b/2.png", "zwei 🦊", "7"),
    ]


def test_csv_rows_hold_captions_and_labels(place):
    csv = '\ufefffile_name,text,label\na.png,"one, ""quoted""\nline",x\nb/2.png,two\n'
    got = examples(place(THREE | {"metadata.csv": csv}))
    assert [(example.caption, example.label) for example in got] == [
        ('one, "quoted"\nline', "x"),
        ("two", None),
    ]


def test_rows_name_files_relative_to_their_own_file(place):
    got = examples(
        place(THREE | {"b/metadata.jsonl": lines({"file_name": "2.png", "text": "two"})})
    )
    assert [(example.name, example.caption) for example in got] == [("b/2.png", "two")]


def test_captions_are_in_text_files_next_to_pictures(place):
    got = examples(place(THREE | {"a.txt": " one \n", "b/2.txt": "\ufeffzwei ü"}))
    assert [example.caption for example in got] == ["one", "", "zwei ü"]


def test_folders_are_labels_where_there_are_no_rows(place):
    assert [example.label for example in examples(place(THREE))] == [None, "b", "b"]


def test_json_rows_that_name_no_files_are_not_metadata(place):
    assert len(examples(place(THREE | {"log.jsonl": lines({"loss": 1}, {"loss": 2})}))) == 3


ROWS = lines(
    {"file": "a.png", "long": "a long one", "kind": "x", "split": "train"},
    {"file": "b/2.png", "long": None, "kind": "y", "split": "test"},
    {"file": "b/10.PNG", "long": "ten", "kind": "y", "split": "train", "part": 3},
)


def test_only_keeps_pictures_with_matching_rows(place):
    path = place(THREE | {"rows.jsonl": ROWS})
    assert [example.name for example in examples(path)] == ["a.png", "b/10.PNG", "b/2.png"]
    assert [example.name for example in examples(path, only={"split": "train"})] == [
        "a.png",
        "b/10.PNG",
    ]
    assert [example.name for example in examples(path, only={"split": "train", "part": "3"})] == [
        "b/10.PNG"
    ]


def test_the_keys_of_captions_and_labels_can_be_chosen(place):
    path = place(THREE | {"rows.jsonl": ROWS})
    got = examples(path, caption="long", label="kind")
    assert [(example.caption, example.label) for example in got] == [
        ("a long one", "x"),
        ("ten", "y"),
        ("", "y"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"only": {"splt": "train"}},
            "unknown metadata key in .*data.*: 'splt'; did you mean 'split'?",
        ),
        (
            {"caption": "lang"},
            "unknown metadata key for captions in .*: 'lang'; did you mean 'long'?",
        ),
        ({"label": "kin"}, "unknown metadata key for labels in .*: 'kin'; did you mean 'kind'?"),
        (
            {"only": {"split": "tran"}},
            r"there are no pictures with {'split': 'tran'} in .*; wanted files such as a.png",
        ),
    ],
)
def test_a_key_that_nothing_has_is_refused(place, options, message):
    with pytest.raises(BadInput, match=message):
        examples(place(THREE | {"rows.jsonl": ROWS}), **options)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.md": "no picture"}, "there are no pictures in .*data"),
        (
            {"a.jsonl": lines({"file": "a.png"}, {"file": "x.png"})},
            "a.jsonl names the picture 'x.png', which is not",
        ),
        (
            {"a.jsonl": lines({"file": "../a.png"})},
            "names the picture '../a.png', which is not there",
        ),
        ({"a.jsonl": lines({"file": "/a.png"})}, "names the picture '/a.png', which is not there"),
        ({"a.jsonl": '{"file": "a.png"}\n{"file": \n'}, "line 2 of a.jsonl is not JSON"),
        (
            {"a.jsonl": lines({"file": "a.png"}, ["a.png"])},
            "line 2 of a.jsonl is not a JSON object",
        ),
        ({"a.jsonl": lines({"file": "a.png"}, {"text": "x"})}, "row 2 of a.jsonl has no file_name"),
        ({"metadata.jsonl": lines({"name": "a.png"})}, "row 1 of metadata.jsonl has no file_name"),
        ({"metadata.csv": "name,text\na.png,x\n"}, "row 1 of metadata.csv has no file_name"),
        ({"metadata.csv": "file_name,text\na.png," + "x" * 200_000}, "metadata.csv is not CSV"),
        ({"metadata.csv": b"file_name,text\na.png,\xff"}, "metadata.csv is not UTF-8 text"),
        ({"a.txt": b"caf\xe9"}, "a.txt is not UTF-8 text"),
    ],
)
def test_malformed_metadata_is_refused(place, files, message):
    with pytest.raises(BadInput, match=message):
        examples(place(files if "notes.md" in files else {"a.png": png(1)} | files))


def test_a_missing_folder_or_zip_is_refused(tmp_path):
    with pytest.raises(BadInput, match="wanted at least one folder or zip"):
        Config(paths=()).build()
    with pytest.raises(BadInput, match=r"there is no folder or zip file '.*none'"):
        examples(str(tmp_path / "none"))
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(
        BadInput, match=r"a.zip' is neither a folder nor a zip file that can be read"
    ):
        examples(str(tmp_path / "a.zip"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="there are no pictures in"):
        examples(str(tmp_path / "empty"))


def test_broken_pictures_are_named_and_counted(place):
    broken = {f"x{number}.png": b"no picture" for number in range(4)}
    source = Config(paths=(place({"a.png": png(1)} | broken | {"z.png": png(2)}),)).build()
    with pytest.raises(
        BadInput, match=r'4 of 6 pictures .*: x0.png: .* x2.png: [^:]* … .* set broken = "skip"'
    ):
        examine(source)
    seen = []
    examination = examine(
        replace(source.config, broken="skip").build(),
        progress=lambda done, of: seen.append((done, of)),
    )
    assert examination.good == (0, 5)
    assert [text.split(":")[0] for text in examination.broken] == sorted(broken)
    assert seen == [(done, 6) for done in range(1, 7)]


def test_data_without_a_good_picture_is_refused(place):
    source = Config(paths=(place({"a.png": b"no picture"}),), broken="skip").build()
    with pytest.raises(BadInput, match=r"none of the 1 pictures can be read; the first: a.png: "):
        examine(source)


def test_a_zip_that_is_damaged_inside_has_broken_pictures(tmp_path):
    write_zip(tmp_path / "a.zip", {"a.png": png(1), "b.png": png(2)})
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(png(2)) + 50] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    source = Config(paths=(str(tmp_path / "a.zip"),), broken="skip").build()
    examination = examine(source)
    assert examination.good == (0,)
    assert examination.broken[0].startswith("b.png: cannot be read from")


def test_names_that_point_out_of_a_zip_write_nothing(tmp_path):
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    with zipfile.ZipFile(inside / "a.zip", "w") as archive:
        for number, name in enumerate(["../../evil.png", "/evil.png", "a/../b.png"]):
            archive.writestr(name, png(number))
        archive.writestr("../../evil.txt", "a caption")
    before = sorted(tmp_path.rglob("*"))
    got = examples(str(inside / "a.zip"))
    assert sorted(example.picture for example in got) == sorted(png(number) for number in range(3))
    assert {example.caption for example in got} == {"", "a caption"}
    assert sorted(tmp_path.rglob("*")) == before


def test_the_digest_depends_on_pictures_captions_and_labels(tmp_path):
    def of(name: str, **files: bytes | str) -> str:
        data = {
            key.replace("_", "."): text.encode() if isinstance(text, str) else text
            for key, text in files.items()
        }
        write_folder(tmp_path / name, data)
        return examine(Config(paths=(str(tmp_path / name),)).build()).digest

    same = of("one", a_png=png(1), a_txt="x")
    assert same == of("two", b_png=png(1), b_txt="x")
    others = [
        of("three", a_png=png(1), a_txt="y"),
        of("four", a_png=png(2), a_txt="x"),
        of("five", a_png=png(1)),
    ]
    row = lines({"file": "a.png", "text": "x", "label": "fox"})
    others.append(of("six", a_png=png(1), rows_jsonl=row))
    assert len({same, *others}) == 5
