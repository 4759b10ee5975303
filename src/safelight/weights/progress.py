"""How far reading or writing is, for whoever waits."""

import time
from collections.abc import Callable
from threading import Lock

ProgressCallback = Callable[[str, int, int, str], None]
"""What is under way, how many megabytes of it are done, how many there are, and how fast it
goes."""

SILENCE, PAUSE = 1.0, 0.1  # seconds before the first report, and between two


def no_progress(what: str, done: int, total: int, note: str) -> None:
    """The report where nobody waits."""


class ByteProgress:
    """Counts bytes. What takes no second is not worth a word."""

    def __init__(self, what: str, total: int, report: ProgressCallback = no_progress) -> None:
        self._what, self._total, self._report = what, total, report
        self._done, self._began = 0, time.monotonic()
        self._next = self._began + SILENCE
        self._lock = Lock()

    def __call__(self, more: int) -> None:
        """So many bytes more are done; any thread may say so."""
        with self._lock:
            self._done += more
            now = time.monotonic()
            if now >= self._next or (
                self._done == self._total and self._next > self._began + SILENCE
            ):
                self._next = now + PAUSE
                rate = f"{self._done / 1e6 / max(now - self._began, 1e-3):,.0f} MB/s"
                self._report(f"{self._what} (MB)", self._done // 10**6, self._total // 10**6, rate)
