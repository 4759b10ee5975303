"""Write docs/samplers.md: what each sampler is, how fast it converges, and pictures.

    python scripts/samplers_page.py              # the table and the curves: a minute
    python scripts/samplers_page.py --pictures   # also the grid: many minutes on a CPU

The curves come from a closed form, so anyone gets the same. The grid's figures are the distance of
pictures from those that 200 steps make from the same noise, as the root mean square over values
from 0 to 1, for several prompts.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from safelight import LatentDiffusion, Settings, generate, load
from safelight.diffusion.ideal import IdealPoints
from safelight.diffusion.schedule import Linear
from safelight.listing import samplers
from safelight.model import CompleteModel
from safelight.settings import SAMPLER
from safelight.task import Start
from safelight.types.diffusion import Estimate, NoiseLevel, NoiseSource
from safelight.types.networks import Prompt
from safelight.types.tensors import Latents

DOCS = Path(__file__).parents[1] / "docs"
FIGURES, SPEED = DOCS / "samplers.json", DOCS / "samplers_speed.json"
DRAWN = (
    *(
        "euler",
        "heun",
        "heun:space=sigma",
        "dpm2",
        "lms",
        "pndm",
        "deis",
        "single",
        "dpmpp2m",
        "dpmpp3m",
    ),
    *("dpmpp3m:published=false", "unipc:order=1", "unipc", "unipc:order=3"),
)
GRID = (
    "euler",
    "heun",
    "lms",
    "pndm",
    "deis",
    "dpmpp2m",
    "dpmpp3m",
    "unipc",
    "unipc:order=3",
    "single",
)
STEPS = (4, 8, 12, 20, 50)
SPACINGS = ("uniform", "shifted:shift=0.5", "shifted:shift=2", "beta")
SPACED, FEW = ("dpmpp3m", "unipc"), (8, 12, 16, 20)
CONVERGED, NEAR = "dpmpp3m", 0.02
PROMPTS = (
    "evergreen tree, cartoon emoji with soft shading",
    "red apple, glossy 3d emoji",
    "grinning face, flat emoji",
    "cat face, soft cartoon blob emoji",
    "fox, flat emoji",
    "birthday cake, glossy 3d emoji",
)
SEED = 3

Pictures: TypeAlias = list[Any]
Found: TypeAlias = dict[str, dict[str, dict[str, Any]]]


def curve(spelled: str) -> Iterator[tuple[int, float]]:
    """Passes of a run and its error: five points in 2 dimensions, from half-log-SNR -3 to 3."""
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
        how = {
            "marker": "osv^D<>PX*hd8p"[index],
            "color": colours(index / len(DRAWN)),
            "label": spelled,
        }
        axes.loglog(*zip(*curve(spelled), strict=True), markersize=4, linewidth=1, **how)
    axes.set_xlabel("passes of the denoiser")
    axes.set_ylabel("root mean square error")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=110)


@dataclass(frozen=True)
class Several:
    """One picture of each prompt, the seed of the i-th being ``seed + i``."""

    def start(self, model: CompleteModel, noise: NoiseSource, count: int) -> Start:
        shape = model.latent_shape(count, model.card.size)
        return Start(noise(shape), [Prompt(text) for text in PROMPTS], [Prompt()] * count)


def made(model: LatentDiffusion, sampler: str, steps: int, spacing: str = "uniform") -> Pictures:
    """A picture of each prompt, values from 0 to 1."""
    how = Settings(steps=steps, sampler=sampler, spacing=spacing, seed=SEED, count=len(PROMPTS))
    return [
        numpy.asarray(item.convert("RGB"), dtype=float) / 255
        for item in generate(model, Several(), how)
    ]


def far(some: Pictures, others: Pictures) -> list[float]:
    """The root mean square distance of each picture."""
    return [
        round(float(((a - b) ** 2).mean() ** 0.5), 4) for a, b in zip(some, others, strict=True)
    ]


def grid(path: Path) -> None:
    """Draw rows of samplers and columns of steps for the first prompt; keep all distances."""
    model = load("stickers")
    converged = made(model, CONVERGED, 200)
    found: Found = {"samplers": {}, "spacings": {}}
    figure = Figure(figsize=(1.6 * len(STEPS) + 1.4, 1.75 * len(GRID)), layout="constrained")
    for row, sampler in enumerate(GRID):
        distances = found["samplers"][sampler] = {}
        for column, steps in enumerate(STEPS):
            pictures = made(model, sampler, steps)
            distances[str(steps)] = far(pictures, converged)
            axes = figure.add_subplot(len(GRID), len(STEPS), row * len(STEPS) + column + 1)
            axes.imshow(pictures[0])
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{steps} steps: {distances[str(steps)][0]:.3f}", fontsize=7)
            if column == 0:
                axes.set_ylabel(sampler, fontsize=7)
        print(sampler, distances, flush=True)
    figure.savefig(path, dpi=100)
    for spacing in SPACINGS:
        of = found["spacings"][spacing] = {}
        for sampler in SPACED:
            of[sampler] = {str(n): far(made(model, sampler, n, spacing), converged) for n in FEW}
            print(spacing, sampler, of[sampler], flush=True)
    FIGURES.write_text(json.dumps(found) + "\n", encoding="utf-8")


def table() -> Iterator[str]:
    yield "| kind | sampler | order | passes a step | draws noise | options | paper |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for sampler in samplers():
        row = (
            f"`{sampler['kind']}`",
            sampler["name"],
            sampler["order"],
            sampler["passes"],
            sampler["draws"],
            sampler["options"],
            sampler["paper"],
        )
        yield f"| {' | '.join(row)} |"


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def pictures() -> Iterator[str]:
    """The part of the page that tells the grid's figures, if it was made."""
    if not FIGURES.exists():
        return
    found: Found = json.loads(FIGURES.read_text("utf-8"))
    yield CAPTION.format(first=PROMPTS[0], count=len(PROMPTS), converged=CONVERGED, seed=SEED)
    yield "| prompt | seed |\n| --- | ---: |"
    yield from (f"| {prompt} | {SEED + index} |" for index, prompt in enumerate(PROMPTS))
    yield f"\n| sampler | passes a step | {' | '.join(f'{steps} steps' for steps in STEPS)} |"
    yield "| --- | ---: |" + " ---: |" * len(STEPS)
    cost = {
        sampler["kind"]: int(sampler["passes"]) if sampler["passes"].isdigit() else 3
        for sampler in samplers()
    }
    passes: dict[tuple[str, str, str], int] = {}
    for sampler, row in found["samplers"].items():
        each = cost[sampler.partition(":")[0]]
        yield f"| `{sampler}` | {each} | {' | '.join(spread(values) for values in row.values())} |"
        passes |= {
            (sampler, "uniform", n): each * int(n)
            for n, values in row.items()
            if statistics.mean(values) < NEAR
        }
    yield (
        "\nOther spacings, the same distances:\n\n| spacing | sampler | "
        f"{' | '.join(f'{n} steps' for n in FEW)} |"
    )
    yield "| --- | --- |" + " ---: |" * len(FEW)
    for spacing, of in found["spacings"].items():
        for sampler, row in of.items():
            yield (
                f"| `{spacing}` | `{sampler}` | "
                f"{' | '.join(spread(values) for values in row.values())} |"
            )
            passes |= {
                (sampler, spacing, n): int(n)
                for n, values in row.items()
                if statistics.mean(values) < NEAR
            }
    best = [key for key, count in passes.items() if count == min(passes.values())]
    told = "; ".join(
        f"`{sampler}` over `{spacing}` times in {n} steps" for sampler, spacing, n in best
    )
    yield (
        f"\nWithin 2 % of converged in the mean, with the fewest passes, {min(passes.values())}: "
        f"{told}."
    )


def speed() -> Iterator[str]:
    """The section on what a step costs, measured by ``benchmarks/samplers.py --write``."""
    found = json.loads(SPEED.read_text("utf-8"))
    yield f"{found['machine']}; medians of {found['rounds']} runs.\n"
    yield "| kind | ms a step | a pass, as a share of diffusers' step |"
    yield "| --- | ---: | ---: |"
    for kind, (step, share) in found["kinds"].items():
        yield f"| `{kind}` | {step:.2f} | {f'{share:.2f}' if share else '–'} |"


CAPTION = """## What they make of a prompt

The embedded model with its own guidance, over even times. Pictures: “{first}”. Figures: the
distance from the converged picture, as the root mean square over values from 0 to 1, mean and
standard deviation over {count} prompts, a seed each. All these samplers solve one equation from the
same noise, so one solution serves for all: `{converged}` in 200 steps.

![Rows of samplers, columns of steps](samplers_grid.png)
"""

PAGE = """# Samplers

A sampler says how a run goes from noise to a picture: how the answers of the network at one noise
level lead to the next. A spacing says at which levels it is asked. Not sure? Leave both to the
model: the figures below are why the embedded one has what it has.

Written by `scripts/samplers_page.py`; `safelight samplers` prints the same table. A kind takes its
options after a colon: `--sampler unipc:order=3`.

{table}

*Passes* are calls of the network; `order` there means as many as that option says, and guidance may
double each.

*Order* is how the error falls with the size of a step, on the probability flow; for those that
always draw noise, how the moments of what they make do. Both are measured by
`tests/diffusion/test_samplers.py`, against closed forms, on variance-preserving, variance-exploding
and flow schedules. A sampler knows the noise level only: one formula serves all three. Most count
in half-log-SNR, log(alpha / sigma), which is infinite at pure noise and at clean: steps from there
or to there are of first order. `ddim`, `euler-ancestral`, `dpm2-ancestral` and the `-sde` kinds are
the names that people know for another kind with `eta`.

Some do not go with everything, and are refused before the first pass: `ddpm:variance=learned` wants
a model that learned a variance, and CFG++ a sampler that puts back the noise that was found, which
the DPM-Solver++ kinds, `ddpm`, `lcm`, `consistency`, `sa-solver` and `unipc` do not.

Where samplers of the same name differ elsewhere, the tests name it:
`tests/diffusion/test_sampler_goldens.py` and `tests/diffusion/test_sampler_peers.py`. DPM-Solver++
3M is of second order as it was published, also when it is started by third-order steps: its
quadratic term is half of the integral. `dpmpp3m:published=false` takes the whole, and is of third
order.

## How fast they converge

Five points as the data, so that the denoiser is known exactly; from half-log-SNR -3 to 3 on the
straight path.

![Error against passes, both logarithmic](samplers.png)

{pictures}

## What the embedded model takes, and why

`unipc` over `beta` times in 12 steps: of all that is measured above, the fewest passes whose
distance from converged is below 0.02 in the mean over the prompts; `dpmpp3m` is below it too, but
farther. The samplers of one pass a step lie within one another's spread; the spacing decides. From
pure noise and to clean each of them makes a plain step, and `beta` times make these two short: of
even times the first alone is a twelfth of the way. With 20 steps the distance is half of that.

## What a step costs

`python benchmarks/samplers.py`: no model, latents of 4×64×64, a batch of 4, one thread, in
processor time, in turn with diffusers' scheduler of that name; other work ran on the machine. A
step of ours may make several passes, theirs is one.

{speed}

The Brownian kinds (`-sde`) pay for one path whatever the number of steps: about 12 draws of noise a
sample for each new time. diffusers draws one, so that other steps see other noise; on such draws
`dpmpp2m-sde` costs what is said above.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", action="store_true", help="Make the grid as well.")
    if parser.parse_args().pictures:
        grid(DOCS / "samplers_grid.png")
    draw(DOCS / "samplers.png")
    text = PAGE.format(
        table="\n".join(table()), pictures="\n".join(pictures()), speed="\n".join(speed())
    )
    (DOCS / "samplers.md").write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
