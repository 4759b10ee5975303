"""What latent diffusion tells its networks without reading: the names of ``cond_stage_model.`` for classes."""

from collections.abc import Mapping
from typing import Any

from safelight.checkpoints.table import Dialect, Rule, Shapes, Table
from safelight.conditioners import label

IMAGENET = 1000


def classes(shapes: Shapes, said: Mapping[str, Any]) -> label.Config:
    """A table of classes, whose last is no class, unless there are just ImageNet's: then all are."""
    rows, width = shapes["embedding.weight"]
    absence = rows != IMAGENET
    return label.Config(rows - absence, width, numbered=True, attended=True, absence=absence)


DIALECTS = (
    Dialect(
        "ldm",
        "conditioner",
        lambda shapes: shapes.keys() == {"embedding.weight"},
        classes,
        lambda config: Table((Rule("table.weight", ("embedding.weight",)),)),
        example=label.Config(IMAGENET, 512, numbered=True, attended=True),
    ),
)
