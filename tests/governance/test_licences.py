"""Licences: who states them, what they make up together, what users are told."""

import json
import subprocess
import sys
import warnings

import pytest

from safelight.errors import Note, notes
from safelight.governance.licences import (
    PartLicence,
    combined,
    front_matter_licence,
    licences_of_parts,
    markdown_table,
    overridden,
    read_licence,
    warn_restricted,
    warn_unstated,
)

PERMISSIVE = PartLicence("autoencoder", "ae.safetensors", "Apache-2.0")
RESTRICTED = PartLicence(
    "denoiser", "dev.safetensors", usual="FLUX.1 dev: FLUX.1 [dev] Non-Commercial License"
)


def test_a_shared_licence_is_one_line_and_different_ones_are_listed_by_part():
    assert combined([]) == "not stated"
    assert combined([PERMISSIVE, PartLicence("denoiser", "x", "Apache-2.0")]) == "Apache-2.0"
    lora = PartLicence("adapter", "fox.safetensors", "MIT")
    assert combined(
        [PERMISSIVE, PartLicence("conditioner", "t5", "Apache-2.0"), RESTRICTED, lora]
    ) == (
        "autoencoder, conditioner: Apache-2.0; denoiser: not stated (public weights of FLUX.1 "
        "dev: FLUX.1 [dev] "
        "Non-Commercial License); adapter fox.safetensors: MIT"
    )
    assert markdown_table([]) == []
    assert markdown_table([PERMISSIVE])[2] == "| autoencoder | ae.safetensors | Apache-2.0 |"


def test_the_one_licence_of_a_card_is_that_of_each_of_its_parts():
    assert licences_of_parts((), "CC0", "foxes", ["denoiser"]) == (
        PartLicence("denoiser", "foxes", "CC0"),
    )
    assert not licences_of_parts((), "denoiser: not stated", "foxes", ["denoiser"])[0].is_stated
    lora = PartLicence("adapter", "fox.safetensors")
    assert licences_of_parts((PERMISSIVE, RESTRICTED, lora), "", "", ["autoencoder"]) == (
        PERMISSIVE,
        lora,
    )


def test_the_user_may_state_the_licence_of_all_parts_or_of_one():
    lora = PartLicence("adapter", "fox.safetensors")
    for_all = overridden([PERMISSIVE, RESTRICTED, lora], {"licence": "mine"})
    assert [item.licence for item in for_all] == ["mine", "mine", ""]
    for_one = overridden([PERMISSIVE, RESTRICTED], {"licence.denoiser": "MIT", "prediction": "v"})
    assert [str(item) for item in for_one] == ["Apache-2.0", "MIT"]


def test_a_model_card_states_its_licence_in_its_front_matter_only(tmp_path):
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
        assert front_matter_licence(card) == want
    assert front_matter_licence(tmp_path / "none.md") == ""


def test_the_licence_of_a_file_is_in_its_metadata_or_in_the_card_of_its_hub_folder(tmp_path):
    assert read_licence({"modelspec.license": " MIT "}, tmp_path / "x.safetensors") == "MIT"
    assert read_licence({"license": "mit"}, tmp_path / "x.safetensors") == "mit"
    plain, kept = tmp_path / "models", tmp_path / "models--a--b" / "snapshots" / "1f3c"
    for folder in (plain, kept / "unet"):
        folder.mkdir(parents=True)
    for folder in (plain, kept):
        (folder / "README.md").write_text("---\nlicense: openrail++\n---\n", encoding="utf-8")
    assert (
        read_licence({}, kept / "x.safetensors")
        == read_licence({}, kept / "unet" / "x.safetensors")
        == "openrail++"
    )
    # in an ordinary folder the card may belong to any of its files
    assert read_licence({}, plain / "x.safetensors") == ""
    assert read_licence({}, plain) == "openrail++"
    (plain / ".cache" / "huggingface").mkdir(parents=True)  # what `hf download --local-dir` leaves
    assert read_licence({}, plain / "x.safetensors") == "openrail++"


@pytest.mark.parametrize(
    ("licence", "is_restricted"),
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
def test_a_licence_that_forbids_commercial_use_is_warned_about(licence, is_restricted):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warn_restricted([PERMISSIVE, PartLicence("denoiser", "dev.safetensors", licence)])
        warn_restricted([PartLicence("denoiser", "dev.safetensors", usual=f"a family: {licence}")])
    assert len(warned) == (2 if is_restricted else 0)
    if is_restricted:
        first, second = (str(warning.message) for warning in warned)
        assert f"licence of dev.safetensors restricts commercial use: {licence}." in first
        assert f"(public weights of a family: {licence})." in second


def test_an_unstated_licence_is_one_sentence_for_all_its_parts():
    with pytest.warns(Note) as warned:
        warn_unstated(
            [
                PERMISSIVE,
                RESTRICTED,
                PartLicence("conditioner", "dev.safetensors", usual=RESTRICTED.usual),
            ]
        )
    assert [str(warning.message) for warning in warned] == [
        "the licence of dev.safetensors is not stated (public weights of FLUX.1 dev: FLUX.1 [dev] "
        "Non-Commercial "
        "License): if you know it, state it with --hint licence=…"
    ]


def test_notes_are_passed_on_once_and_other_warnings_are_left_alone():
    messages = []

    def warn_of_both():
        with notes(messages.append):
            for _ in range(2):
                warn_restricted([RESTRICTED])
            warnings.warn("old", DeprecationWarning, stacklevel=1)

    with pytest.warns(DeprecationWarning, match="old"):
        warn_of_both()
    assert messages == [
        f"note: the licence of dev.safetensors restricts commercial use: {RESTRICTED}."
    ]


def test_no_torch_is_imported():
    code = (
        "import sys, json, safelight.governance.licences; print(json.dumps('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
