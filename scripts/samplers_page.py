"""Write docs/samplers.md with its pictures: what each sampler is, how fast it converges, what it makes of a prompt.

    python scripts/samplers_page.py              # the table and the curves: a minute
    python scripts/samplers_page.py --pictures   # also the grid of the embedded model: many minutes on a CPU

The curves come from a closed form, so anyone gets the same. The grid's figures are the distance of a picture from the
one that the same sampler makes in 200 steps from the same noise, as the root mean square over values from 0 to 1.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

import safelight
from safelight.diffusion.ideal import IdealPoints
from safelight.diffusion.schedule import Linear
from safelight.listing import samplers
from safelight.settings import SAMPLER
from safelight.types import Estimate, Latents, NoiseLevel

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = DOCS / "samplers.json"
DRAWN = (
    *("euler", "heun", "heun:space=sigma", "dpm2", "lms", "pndm", "deis", "single", "dpmpp2m", "dpmpp3m"),
    *("dpmpp3m:published=false", "unipc:order=1", "unipc", "unipc:order=3"),
)
GRID = ("euler", "heun", "dpm2", "lms", "pndm", "deis", "dpmpp2m", "dpmpp3m", "unipc", "unipc:order=3", "single")
STEPS = (4, 8, 12, 20, 50)
PROMPT = "a red fox, flat emoji"


def curve(spelled: str) -> Iterator[tuple[int, float]]:
    """Passes of a run and its error: five points in two dimensions, half-log-SNR -3 to 3 on the straight path."""
    points = torch.randn(5, 2, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    noisy = torch.randn(16, 2, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ideal, schedule = IdealPoints(points), Linear()

    def run(sampler: str, steps: int) -> tuple[int, Latents]:
        passes = 0

        def denoise(at: Latents, level: NoiseLevel) -> Estimate:
            nonlocal passes
            passes += 1
            return ideal(at, level)

        times = schedule.when(torch.linspace(-3, 3, steps + 1, dtype=torch.float64))
        *_, step = SAMPLER.read(sampler)(denoise, noisy, times, schedule, lambda *_: noisy)
        return passes, step.noisy

    _, exact = run("single", 2000)
    for steps in (5, 8, 12, 20, 32, 50, 80, 125):
        passes, reached = run(spelled, steps)
        yield passes, float((reached - exact).square().mean().sqrt())


def draw(path: Path) -> None:
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.add_subplot()
    colours = colormaps["nipy_spectral"]
    for index, spelled in enumerate(DRAWN):
        how = {"marker": "osv^D<>PX*hd8p"[index], "color": colours(index / len(DRAWN)), "label": spelled}
        axes.loglog(*zip(*curve(spelled), strict=True), markersize=4, linewidth=1, **how)
    axes.set_xlabel("passes of the denoiser")
    axes.set_ylabel("root mean square error")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=110)


def grid(path: Path) -> dict[str, list[float]]:
    """Draw rows of samplers and columns of steps; the distance of each picture to that of 200 steps."""
    import numpy

    model, task = safelight.load("stickers"), safelight.TextToImage(PROMPT)

    def made(sampler: str, steps: int) -> Any:
        picture = safelight.generate(model, task, safelight.Settings(steps=steps, sampler=sampler, seed=3))[0]
        return numpy.asarray(picture.convert("RGB"), dtype=float) / 255

    figure = Figure(figsize=(1.6 * len(STEPS) + 1.4, 1.75 * len(GRID)), layout="constrained")
    found: dict[str, list[float]] = {}
    for row, sampler in enumerate(GRID):
        converged, found[sampler] = made(sampler, 200), []
        for column, steps in enumerate(STEPS):
            picture = made(sampler, steps)
            found[sampler].append(float(((picture - converged) ** 2).mean() ** 0.5))
            axes = figure.add_subplot(len(GRID), len(STEPS), row * len(STEPS) + column + 1)
            axes.imshow(picture)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{steps} steps: {found[sampler][-1]:.3f}", fontsize=7)
            if column == 0:
                axes.set_ylabel(sampler, fontsize=7)
        print(sampler, found[sampler], flush=True)
    figure.savefig(path, dpi=100)
    return found


def table() -> Iterator[str]:
    yield "| kind | sampler | order | passes a step | draws noise | options | paper |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for one in samplers():
        row = (f"`{one['kind']}`", one["name"], one["order"], one["passes"], one["draws"], one["options"], one["paper"])
        yield f"| {' | '.join(row)} |"


def pictures() -> Iterator[str]:
    """The part of the page that tells the grid's figures, if it was made."""
    if not FIGURES.exists():
        return
    figures: dict[str, list[float]] = json.loads(FIGURES.read_text("utf-8"))
    yield "## What they make of a prompt\n"
    yield f"The embedded model, “{PROMPT}”, seed 3, with the model's own spacing and guidance. The figure is the"
    yield "distance from the same sampler's picture at 200 steps: the root mean square over values from 0 to 1.\n"
    yield "![Rows of samplers, columns of steps](samplers_grid.png)\n"
    yield f"| sampler | {' | '.join(f'{steps} steps' for steps in STEPS)} |"
    yield "| --- |" + " ---: |" * len(STEPS)
    for sampler, row in figures.items():
        yield f"| `{sampler}` | {' | '.join(f'{value:.3f}' for value in row)} |"
    costs = {one["kind"]: int(one["passes"]) if one["passes"].isdigit() else 3 for one in samplers()}
    near = {
        sampler: costs[sampler.partition(":")[0]] * next(n for n, value in zip(STEPS, row, strict=True) if value < 0.02)
        for sampler, row in figures.items()
        if min(row) < 0.02
    }
    best = ", ".join(f"`{sampler}`" for sampler, passes in near.items() if passes == min(near.values()))
    yield f"\nWithin 2 % of converged with the fewest passes, {min(near.values())}: {best}."


PAGE = """# Samplers

Written by `scripts/samplers_page.py`; `safelight samplers` prints the same table. A kind takes its options after a
colon: `--sampler unipc:order=3`.

{table}

The order is how the error falls with the size of a step, on the probability flow; for those that always draw noise, how
the moments of what they make do. Both are measured by `tests/diffusion/test_samplers.py`, against closed forms, on
variance-preserving, variance-exploding and flow schedules. A sampler knows the noise level only: one formula serves
all three. Steps from pure noise and to clean are endless in half-log-SNR, and are of first order. `ddim`,
`euler-ancestral`, `dpm2-ancestral` and the `-sde` kinds are the names that people know for another kind with `eta`.

Where samplers of the same name differ elsewhere, the tests name it:
`tests/diffusion/test_sampler_goldens.py` and `tests/diffusion/test_sampler_peers.py`.
DPM-Solver++ 3M is of second order as it was published, also when it is started by third-order steps: its quadratic term
is half of the integral. `dpmpp3m:published=false` takes the whole, and is of third order.

## How fast they converge

Five points as the data, so that the denoiser is known exactly; from half-log-SNR -3 to 3 on the straight path.

![Error against passes, both logarithmic](samplers.png)

{pictures}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", action="store_true", help="Make the grid as well.")
    if parser.parse_args().pictures:
        FIGURES.write_text(json.dumps(grid(DOCS / "samplers_grid.png"), indent=1) + "\n", encoding="utf-8")
    draw(DOCS / "samplers.png")
    text = PAGE.format(table="\n".join(table()), pictures="\n".join(pictures()))
    (DOCS / "samplers.md").write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
