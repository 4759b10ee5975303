"""The command line in a process of its own, forked from one that has imported torch."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

IMPORTED = (
    "safelight.cli",
    "safelight.training.loop",
    "torch._dynamo",
)  # the last: by optimisers, at their first step


class Forked:
    """The part of ``subprocess.Popen`` that tests use, for a command line with arguments."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="safelight-"))
        self.returncode: int | None = None
        self.pid = answer_of(words=words, environment=environment, folder=str(self._folder))
        atexit.register(self.kill)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = answer_of(ended=self.pid)
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        until = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        self.wait(timeout)
        out, err = ((self._folder / name).read_text("utf-8") for name in ("1", "2"))
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def answer_of(**what: Any) -> Any:
    """The answer of the forking process to a request; it is started at the first one."""
    process = parent()
    assert process.stdin
    assert process.stdout
    print(json.dumps(what), file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


@cache
def parent() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, __file__],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.communicate)  # after its children: it ends with its input
    return process


def serve() -> None:
    """Fork for each request of the tests, and answer which processes have ended."""
    for module in IMPORTED:
        import_module(module)
    for line in sys.stdin:
        what = json.loads(line)
        if "ended" in what:
            pid, status = os.waitpid(what["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif not (answer := os.fork()):
            os._exit(child(**what))
        print(json.dumps(answer), flush=True)


def child(words: list[str], environment: dict[str, str], folder: str) -> int:
    """Run the command line as its module does; returns its exit code."""
    for number in (0, 1, 2):
        path = os.path.join(folder, str(number)) if number else os.devnull
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["safelight", *words]
    try:
        sys.modules["safelight.cli"].main()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    serve()
