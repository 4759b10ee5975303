"""``safelight samplers``: what there is to choose from."""

import json
import sys

import typer
from rich.console import Console
from rich.table import Table

from safelight.cli.options import JSON


def samplers(as_json: JSON = False) -> None:
    """List the samplers: the kind, its order, the passes of a step, when it draws noise, and the paper.

    Example: safelight generate "fox" --sampler dpmpp2m
    """
    from safelight.listing import samplers as listed

    found = listed()
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table = Table(
        "kind", "name", "order", "passes a step", "draws noise", "options", "paper", box=None
    )
    for one in found:
        table.add_row(
            *(one[key] for key in ("kind", "name", "order", "passes", "draws", "options", "paper"))
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)
