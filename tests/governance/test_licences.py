"""Licences: who states them, what they make up together, what is said aloud."""

import json
import subprocess
import sys
import warnings

import pytest

from safelight.errors import Note, notes
from safelight.governance.licences import (
    Licensed,
    front_matter,
    known,
    listed,
    restated,
    say_restricted,
    say_unstated,
    stated,
    whole,
)

FREE = Licensed("autoencoder", "ae.safetensors", "Apache-2.0")
BOUND = Licensed(
    "denoiser", "dev.safetensors", usual="FLUX.1 dev: FLUX.1 [dev] Non-Commercial License"
)


def test_what_all_share_is_one_line_and_what_differs_is_told_by_part():
    assert whole([]) == "not stated"
    assert whole([FREE, Licensed("denoiser", "x", "Apache-2.0")]) == "Apache-2.0"
    lora = Licensed("adapter", "fox.safetensors", "MIT")
    assert whole([FREE, Licensed("conditioner", "t5", "Apache-2.0"), BOUND, lora]) == (
        "autoencoder, conditioner: Apache-2.0; denoiser: not stated (public weights of FLUX.1 dev: FLUX.1 [dev] "
        "Non-Commercial License); adapter fox.safetensors: MIT"
    )
    assert listed([]) == []
    assert listed([FREE])[2] == "| autoencoder | ae.safetensors | Apache-2.0 |"


def test_a_card_of_one_licence_is_under_it_in_every_part_that_is_here():
    assert known((), "CC0", "foxes", ["denoiser"]) == (Licensed("denoiser", "foxes", "CC0"),)
    assert not known((), "denoiser: not stated", "foxes", ["denoiser"])[0].is_stated
    lora = Licensed("adapter", "fox.safetensors")
    assert known((FREE, BOUND, lora), "", "", ["autoencoder"]) == (FREE, lora)


def test_the_user_knows_better_of_all_or_of_a_part():
    lora = Licensed("adapter", "fox.safetensors")
    mine = restated([FREE, BOUND, lora], {"licence": "mine"})
    assert [one.licence for one in mine] == ["mine", "mine", ""]
    one = restated([FREE, BOUND], {"licence.denoiser": "MIT", "prediction": "v"})
    assert [str(it) for it in one] == ["Apache-2.0", "MIT"]


def test_a_model_card_states_it_in_its_front_matter_alone(tmp_path):
    card = tmp_path / "README.md"
    for text, want in (
        ("---\nlicense: mit\n---\n", "mit"),
        ('---\ntags:\n- x\nlicense: other\nlicense_name: "a: \\"b\\""\n---\n', 'a: "b"'),
        ("---\nlicense_name: 'sai-nc-community'\nlicense: other\n---\n", "sai-nc-community"),
        ("# A model\n\nlicense: mit\n", ""),
        ("---\nlicense: mit\n", ""),
        ("---\n---\nlicense: mit\n", ""),
        ('---\nlicense: "mit\n---\n', "mit"),
        ("", ""),
    ):
        card.write_text(text, encoding="utf-8")
        assert front_matter(card) == want
    assert front_matter(tmp_path / "none.md") == ""


def test_a_file_states_it_in_its_metadata_else_its_folder_on_the_hub_does(tmp_path):
    assert stated({"modelspec.license": " MIT "}, tmp_path / "x.safetensors") == "MIT"
    assert stated({"license": "mit"}, tmp_path / "x.safetensors") == "mit"
    plain, kept = tmp_path / "models", tmp_path / "models--a--b" / "snapshots" / "1f3c"
    for folder in (plain, kept / "unet"):
        folder.mkdir(parents=True)
    for folder in (plain, kept):
        (folder / "README.md").write_text("---\nlicense: openrail++\n---\n", encoding="utf-8")
    assert (
        stated({}, kept / "x.safetensors")
        == stated({}, kept / "unet" / "x.safetensors")
        == "openrail++"
    )
    assert (
        stated({}, plain / "x.safetensors") == ""
    )  # a card that lies about may be of any of the files there
    assert stated({}, plain) == "openrail++"
    (plain / ".cache" / "huggingface").mkdir(parents=True)  # what `hf download --local-dir` leaves
    assert stated({}, plain / "x.safetensors") == "openrail++"


@pytest.mark.parametrize(
    ("licence", "is_said"),
    [
        ("FLUX.1 [dev] Non-Commercial License", True),
        ("flux-1-dev-non-commercial-license", True),
        ("CC-BY-NC-4.0", True),
        ("cc by nc 4.0", True),
        ("sai-nc-community", True),
        ("SAI noncommercial", True),
        ("CreativeML OpenRAIL-M", False),
        ("Stability AI Community License", False),
        ("Apache-2.0", False),
        ("MIT, ncnn", False),
    ],
)
def test_what_forbids_commerce_is_said(licence, is_said):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        say_restricted([FREE, Licensed("denoiser", "dev.safetensors", licence)])
        say_restricted([Licensed("denoiser", "dev.safetensors", usual=f"a family: {licence}")])
    assert len(said) == (2 if is_said else 0)
    assert all(
        f"licence of dev.safetensors restricts commercial use: {licence}." in str(said[0].message)
        for _ in said
    )


def test_what_nobody_stated_is_said_in_one_sentence_for_all_parts():
    with pytest.warns(Note) as said:
        say_unstated([FREE, BOUND, Licensed("conditioner", "dev.safetensors", usual=BOUND.usual)])
    assert [str(one.message) for one in said] == [
        "the licence of dev.safetensors is not stated (public weights of FLUX.1 dev: FLUX.1 [dev] Non-Commercial "
        "License): if you know it, state it with --hint licence=…"
    ]


def test_notes_are_handed_on_once_and_other_warnings_are_left_alone():
    told = []

    def say_both():
        with notes(told.append):
            for _ in range(2):
                say_restricted([BOUND])
            warnings.warn("old", DeprecationWarning, stacklevel=1)

    with pytest.warns(DeprecationWarning, match="old"):
        say_both()
    assert told == [f"note: the licence of dev.safetensors restricts commercial use: {BOUND}."]


def test_no_torch_is_imported():
    code = (
        "import sys, json, safelight.governance.licences; print(json.dumps('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
