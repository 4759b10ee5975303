"""``safelight samplers``: the samplers that there are to choose from."""

import json
import sys

import typer
from rich.console import Console
from rich.table import Table

from safelight.cli.options import JSON

COLUMNS = {
    "kind": "kind",
    "name": "name",
    "order": "order",
    "passes": "passes a step",
    "draws": "draws noise",
    "options": "options",
    "paper": "paper",
}


def samplers(as_json: JSON = False) -> None:
    """List the samplers: kind, order, network passes a step, when it draws noise, options, paper.

    Example: safelight generate "fox" --sampler dpmpp2m
    """
    from safelight import listing

    rows = listing.samplers()
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table(*COLUMNS.values(), box=None)
    for row in rows:
        table.add_row(*(row[key] for key in COLUMNS))
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)
