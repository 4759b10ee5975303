"""What latent diffusion tells its networks without reading: classes, and maps of classes, in
``cond_stage_model.``."""

from collections.abc import Mapping
from typing import Any

from safelight.conditioners import label, segments
from safelight.layouts.key_mapping import KeyMapping, KeyRule, Layout, layer
from safelight.types.shapes import Shapes

IMAGENET = 1000


def classes(shapes: Shapes, declared: Mapping[str, Any]) -> label.Config:
    """A table of classes, whose last is no class, unless there are just ImageNet's: then all
    are."""
    rows, width = shapes["embedding.weight"]
    null_class = rows != IMAGENET
    return label.Config(
        rows - null_class, width, numeric_labels=True, as_token=True, null_class=null_class
    )


def maps(shapes: Shapes, declared: Mapping[str, Any]) -> segments.Config:
    """The way of a map to the latents; the file does not say that it is halved twice."""
    channels, classes = shapes["channel_mapper.weight"][:2]
    return segments.Config(classes, channels, bias="channel_mapper.bias" in shapes)


LAYOUTS = (
    Layout(
        "ldm",
        "conditioner",
        lambda shapes: shapes.keys() == {"embedding.weight"},
        classes,
        lambda config: KeyMapping((KeyRule("embedding.weight", ("embedding.weight",)),)),
        example=label.Config(IMAGENET, 512, numeric_labels=True, as_token=True),
    ),
    Layout(
        "ldm",
        "conditioner",
        lambda shapes: "channel_mapper.weight" in shapes,
        maps,
        lambda config: KeyMapping(tuple(layer("mapper", "channel_mapper", bias=config.bias))),
        example=segments.Config(),
    ),
)
