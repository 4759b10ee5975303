"""What is the text encoder's own."""

import time

import pytest
import torch

from safelight.conditioners.text import BOS, EOS, PAD, SPECIAL, Config
from safelight.errors import BadInput
from safelight.types.networks import Prompt

SMALL = {"vocabulary": 300, "length": 20, "width": 16, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    encoder = Config(**SMALL).build()
    encoder.fit(Prompt(text) for text in ("a red fox", "a red owl", "the red fox and the owl"))
    return encoder


def ids(encoder, text: str) -> list[int]:
    got, mask = encoder.tokenise([Prompt(text)])
    return got[0][mask[0]].tolist()


def test_lengths_are_multiples_of_eight_within_the_configured_one(encoder):
    for text, n in (
        ("", 8),
        ("a red fox", 8),
        ("xyzxyz", 8),
        ("xyzxyzx", 16),
        ("xyz" * 5, 20),
        ("xyz" * 50, 20),
    ):
        assert encoder.tokenise([Prompt(text)])[0].shape == (1, n), text


def test_markers_are_always_there_and_cannot_be_spelled(encoder):
    assert ids(encoder, "") == [BOS, EOS]
    cut = ids(encoder, "xyz" * 50)
    assert (cut[0], cut[-1], len(cut)) == (BOS, EOS, 20)
    assert all(
        piece >= SPECIAL
        for text in ("<pad>", "[END]", "\0\1\2")
        for piece in ids(encoder, text)[1:-1]
    )
    assert PAD not in ids(encoder, "xyz" * 50)


def test_case_and_composition_of_letters_do_not_matter(encoder):
    assert ids(encoder, "A Red FOX") == ids(encoder, "a red fox")
    assert ids(encoder, "cafe\u0301") == ids(encoder, "café")
    assert ids(encoder, "a red fox") != ids(encoder, "a red owl")


def test_captions_are_learned(encoder):
    assert len(ids(encoder, "a red fox")) < len(ids(encoder, "z qzj kvw")) - 2


def test_few_captions_leave_the_embedding_as_configured():
    encoder = Config(**SMALL | {"vocabulary": 2048}).build()
    encoder.fit([Prompt("hi")])
    assert encoder.embedding.num_embeddings == 2048
    assert encoder([Prompt("never seen 🦊")]).tokens.values.isfinite().all()


def test_any_text_is_legal_and_a_megabyte_stays_fast(encoder):
    begin = time.perf_counter()
    condition = encoder(
        [Prompt("a red fox " * 100_000), Prompt("\ud800"), Prompt("x" * 1_000_000), Prompt("\0")]
    )
    assert time.perf_counter() - begin < 1
    assert condition.tokens.values.isfinite().all()
    assert condition.tokens.mask.sum(dim=1).tolist()[0] == 20


def test_the_vector_is_a_mean_over_real_tokens_alone(encoder):
    condition = encoder([Prompt("a red fox"), Prompt("xyz" * 5)])
    real = condition.tokens.values[0][condition.tokens.mask[0]]
    torch.testing.assert_close(condition.vector[0], encoder.pool(real.mean(dim=0)))
    assert (
        Config(**SMALL, pooled=False).build().encode(*encoder.tokenise([Prompt()])).vector is None
    )


def test_nothing_is_computed_once(encoder):
    rows = []
    handle = encoder.embedding.register_forward_hook(
        lambda module, args, answer: rows.append(len(answer))
    )
    condition = encoder.null_condition([Prompt("a"), Prompt("b"), Prompt("c")])
    handle.remove()
    assert rows == [1]
    assert condition.tokens.values.shape == (3, 8, 16)
    assert condition.vector.shape == (3, 16)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vocabulary": 100}, "vocabulary must be at least 259, not 100"),
        ({"length": 1}, "length must be at least 2, not 1"),
        ({"width": 10, "heads": 4}, "a width of 10 cannot be divided among 4 heads"),
    ],
)
def test_a_config_that_cannot_work_is_refused(given, message):
    with pytest.raises(BadInput, match=message):
        Config(**given)
