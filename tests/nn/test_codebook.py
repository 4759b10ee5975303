"""Nearest codes, running means and restarts, against sums written out."""

import pytest
import torch

from safelight.nn import codebook
from safelight.nn.codebook import Codebook
from safelight.nn.configs import Codes


def made(channels=3, **options):
    torch.manual_seed(0)
    book = Codebook(Codes(**{"number": 16} | options), channels)
    with torch.no_grad():
        book.codes.copy_(book.placed(torch.randn(book.codes.shape)))
    return book


def latents(batch=4, channels=3, seed=1, height=5):
    return torch.randn(batch, channels, height, 6, generator=torch.Generator().manual_seed(seed))


def rows(tensor):
    return tensor.movedim(1, -1).flatten(0, -2)


@pytest.mark.parametrize("at_once", [1, 50, 2**22])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (2, 3, 7), (2, 3, 2, 3, 4)])
def test_the_nearest_code_is_the_nearest_in_any_rank_and_any_portions(at_once, shape, monkeypatch):
    monkeypatch.setattr(codebook, "_AT_ONCE", at_once)
    book, given = made(), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = book.nearest(given)
    assert found.dtype == torch.int64
    assert found.shape == (shape[0], *shape[2:])
    want = (rows(given)[:, None] - book.codes).square().sum(-1).argmin(1)
    assert torch.equal(found.flatten(), want)


def test_the_first_of_equal_codes_wins_also_in_bf16():
    book = made()
    with torch.no_grad():
        book.codes[9] = book.codes[4]
    given = book.codes[9].view(1, 3, 1, 1)
    assert book.nearest(given).item() == 4
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(book.nearest(latents()), made_like(book).nearest(latents()))


def made_like(book):
    other = Codebook(book.options, book.codes.shape[1])
    other.load_state_dict(book.state_dict())
    return other


def test_running_means_are_those_of_the_latents_that_chose_the_code():
    book, reference = made(decay=0.8), made(decay=0.8)
    count, total, codes = torch.zeros(16), torch.zeros(16, 3), reference.codes.clone()
    for update in range(3):
        for part in (
            latents(seed=update),
            latents(seed=10 + update, height=3),
        ):  # two micro-batches
            book.distances(part)
        flat = torch.cat([rows(latents(seed=update)), rows(latents(seed=10 + update, height=3))])
        chosen = torch.nn.functional.one_hot(
            (flat[:, None] - codes).square().sum(-1).argmin(1), 16
        ).float()
        count, total = 0.8 * count + 0.2 * chosen.sum(0), 0.8 * total + 0.2 * chosen.T @ flat
        codes = torch.where(chosen.sum(0)[:, None] > 0, total / count[:, None], codes)
        book.after_update(0, update)
        torch.testing.assert_close(book.codes, codes)
    assert not list(book.parameters())


def test_two_processes_settle_as_one():
    parts = latents(seed=1)[:2], latents(seed=1)[2:]
    one, others = made(decay=0.8, restart=1), [made(decay=0.8, restart=1) for _ in parts]
    one.distances(latents(seed=1))
    for book, part in zip(others, parts, strict=True):
        book.distances(part)
    sums = iter(
        [[getattr(book, name).clone() for book in others] for name in ("chosen", "sums", "squares")]
    )
    one.after_update(5, 7)
    for book in others[:1]:
        book.after_update(5, 7, lambda _: torch.stack(next(sums)).sum(0))
    torch.testing.assert_close(others[0].codes, one.codes)


@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("normalise", [False, True])
def test_codes_long_idle_move_to_where_latents_are(decay, normalise):
    book = made(decay=decay, restart=3, number=64, normalise=normalise)
    given = latents() + 40  # far from all codes: one takes all
    for update in range(8):
        before = book.codes.detach().clone()
        book.distances(given)
        book.after_update(0, update)
        used = len(book.nearest(given).unique())
        moved = (book.codes != before).any(1).sum()
        if update == 2:  # the third without a latent
            assert moved > 40
        elif update < 2 and not decay:
            assert moved == 0
    assert used > 20
    assert book.distances(given)[0].mean() < (0.01 if normalise else 0.5)


def test_a_restart_depends_on_seed_and_update_only():
    def after(seed, update):
        book = made(restart=1, number=64)
        book.distances(latents())
        torch.rand(3)  # the global stream has no part in it
        book.after_update(seed, update)
        return book.codes.detach()

    assert torch.equal(after(1, 2), after(1, 2))
    assert not torch.equal(after(1, 2), after(1, 3))
    assert not torch.equal(after(1, 2), after(2, 2))


def test_a_code_that_one_latent_chose_passes_on_that_latent():
    book = made(restart=1)
    lone = latents(1, height=1)[..., :1]
    taken = book.nearest(lone).item()
    book.distances(lone)
    book.after_update(0, 0)
    rest = torch.arange(16) != taken
    torch.testing.assert_close(book.codes[rest], rows(lone).expand(15, 3))


def test_nothing_is_taken_down_but_while_training():
    book = made(decay=0.9, restart=2)
    with torch.no_grad():
        book.distances(latents())
    book.eval().distances(latents())
    before = book.codes.clone()
    for update in range(3):
        book.after_update(0, update)
    assert not book.chosen.any()
    assert torch.equal(book.codes, before)
    assert not book.idle.any()
