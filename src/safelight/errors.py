"""The few exceptions that someone catches. Their text is for people: what was wanted, what was got,
what to do."""

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO


class SafelightError(Exception):
    """Anything that Safelight refuses or cannot finish. ``exit_code`` is what the command line ends
    with."""

    exit_code = 1


class BadInput(SafelightError, ValueError):
    """The user's mistake: a value, a file or a request that cannot be used as it is."""

    exit_code = 2


class Busy(BadInput):
    """Something is in use by another process, such as a run folder."""


class CannotSave(SafelightError, OSError):
    """The machine did not let us write: no space left, no permission. Nothing half-written stays
    behind."""


class Note(UserWarning):
    """Something that a person should know and that stops nothing: a warning, shown once."""


@contextmanager
def notes(show_note: Callable[[str], object]) -> Iterator[None]:
    """Within the block each ``Note`` is passed to ``show_note``, once."""

    def show_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, Note):
            show_note(f"note: {message}")
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("once", Note)
        usual, warnings.showwarning = warnings.showwarning, show_warning
        yield


def unknown(what: str, got: object, known: Iterable[str]) -> BadInput:
    """A refusal of the name ``got`` that suggests the nearest of the ``known`` ones, or lists them
    all."""
    names = sorted(known)
    close = difflib.get_close_matches(str(got), names, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}."
    return BadInput(f"unknown {what} {got!r}; {hint}")
