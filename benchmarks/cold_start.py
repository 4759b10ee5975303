"""Measure what a user waits for, each from a new process.

That is importing, --help, loading the embedded model, and a picture.

python benchmarks/cold_start.py [--rounds 5]

Whole processes, in turn, the median of several; each beside a bare ``python -c pass`` and, where
torch is needed, ``import torch`` alone.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import interleaved, machine

LOAD = """
import time, torch, safelight
began = time.perf_counter()
safelight.load("stickers")
print(time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder) / "fox.png")
        cli = ["-m", "safelight.cli"]
        took = interleaved(
            {
                "python": lambda: _run("-c", "pass"),
                "import safelight": lambda: _run("-c", "import safelight"),
                "safelight --help": lambda: _run(*cli, "--help"),
                "import torch": lambda: _run("-c", "import torch"),
                "generate, 20 steps": lambda: _run(
                    *cli, "generate", "fox, flat emoji", "--steps", "20", "-o", picture
                ),
            },
            options.rounds,
        )
    loads = sorted(float(_run("-c", LOAD)) for _ in range(options.rounds))
    print(machine())
    for name, seconds in took.items():
        print(f"{name:20} {seconds:6.2f} s")
    print(f"import safelight, less python: {took['import safelight'] - took['python']:.3f} s")
    print(f"load, torch already imported: {loads[len(loads) // 2]:.2f} s")


def _run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True
    ).stdout


if __name__ == "__main__":
    main()
