"""Checkers of what a picture shows, each with how often it is right on real pictures.

A checker that learns does so from real training pictures, and is tested on others.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from safelight.evaluation import measurement
from safelight.evaluation.classifier import kind_means, logistic_regression, nearest_mean
from safelight.evaluation.intervals import Figure, share
from safelight.types.tensors import Images

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
PLACES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
SCENES = 64
"""How many composed scenes of each kind test a measurement, at most."""

Check = Callable[[Images, Tensor, Sequence[str]], Sequence[str]]
"""Pictures, their vectors and the styles that their prompts asked for → what each shows."""


@dataclass(frozen=True, eq=False)
class KnownPictures:
    """Real pictures as the checkers know them: vectors (n, d) and, row by row, what they show."""

    images: Callable[[Sequence[int]], Images]
    vectors: Tensor
    captions: Sequence[str]
    styles: Sequence[str]
    things: Sequence[str]
    groups: Sequence[str]


@dataclass(frozen=True, eq=False)
class Checker:
    """``kind`` is what it tells (thing, style, …), ``accuracy`` how often it is right on real
    pictures, which the figure's name says, and ``chance`` how often a guess would be."""

    kind: str
    check: Check
    accuracy: Figure
    chance: float


def checkers(
    training: KnownPictures, held_out: KnownPictures, things: Sequence[str]
) -> list[Checker]:
    """All checkers that these pictures allow: of the ``things`` and styles that they name, of
    groups, and of what can be measured."""
    available = [_thing(training, things)] if len(things) > 1 else []
    for kind, labels, test_labels in (
        ("style", training.styles, held_out.styles),
        ("group", training.groups, held_out.groups),
    ):
        if len(set(labels)) > 1:
            available.append(
                _learned(kind, training.vectors, labels, held_out.vectors, test_labels)
            )
    cut_outs = held_out.images(range(min(SCENES, len(held_out.captions))))
    return [*available, *_colour(training), _number(cut_outs), _position(cut_outs)]


def _thing(training: KnownPictures, things: Sequence[str]) -> Checker:
    places = [place for place, thing in enumerate(training.things) if thing in things]
    labels = [training.things[place] for place in places]
    styles = [training.styles[place] for place in places]
    means = kind_means(training.vectors, training.styles)
    model, right = nearest_mean(training.vectors[places], labels, styles, means)
    accuracy = share("training pictures, each left out", right, len(places))

    def check(images: Images, vectors: Tensor, styles: Sequence[str]) -> Sequence[str]:
        return model(vectors, styles)

    return Checker("thing", check, accuracy, 1 / len(model.names))


def _learned(
    kind: str, vectors: Tensor, labels: Sequence[str], test: Tensor, answers: Sequence[str]
) -> Checker:
    model = logistic_regression(vectors, labels)
    predicted = model(test)
    right = sum(a == b for a, b in zip(predicted, answers, strict=True))
    accuracy = share("held-out pictures", right, len(answers))

    def check(images: Images, vectors: Tensor, styles: Sequence[str]) -> Sequence[str]:
        return model(vectors)

    return Checker(kind, check, accuracy, 1 / len(model.names))


def _colour(training: KnownPictures) -> list[Checker]:
    """Measured; tested on real pictures whose name is one colour and one noun."""
    pattern = rf"({'|'.join(measurement.COLOURS)}) \w+"
    named = [re.fullmatch(pattern, thing) for thing in training.things]
    places = [place for place, match in enumerate(named) if match]
    if not places:
        return []
    truth = [match[1] for match in named if match]
    right = _agreement(measurement.colours(training.images(places)), truth)
    accuracy = share("real pictures named by a colour", right, len(places))
    check = _measuring(measurement.colours)
    return [Checker("colour", check, accuracy, 1 / len(set(truth)))]


def _number(cut_outs: Images) -> Checker:
    words = list(NUMBERS)

    def named(images: Images) -> list[str]:
        counts = measurement.counts(images)
        return [words[count - 1] if 1 <= count <= len(words) else str(count) for count in counts]

    right = sum(
        _agreement(named(composed(cut_outs, NUMBERS[word])), [word] * len(cut_outs))
        for word in words
    )
    accuracy = share("scenes composed of real pictures", right, len(words) * len(cut_outs))
    return Checker("number", _measuring(named), accuracy, 1 / len(words))


def _position(cut_outs: Images) -> Checker:
    right = sum(
        _agreement(measurement.positions(composed(cut_outs, 1, place)), [place] * len(cut_outs))
        for place in PLACES
    )
    accuracy = share("scenes composed of real pictures", right, len(PLACES) * len(cut_outs))
    return Checker("position", _measuring(measurement.positions), accuracy, 1 / len(PLACES))


def _measuring(measure: Callable[[Images], Sequence[str]]) -> Check:
    def check(images: Images, vectors: Tensor, styles: Sequence[str]) -> Sequence[str]:
        return measure(images)

    return check


def _agreement(answers: Sequence[str], truth: Sequence[str]) -> int:
    return sum(a == b for a, b in zip(answers, truth, strict=True))


def composed(cut_outs: Images, number: int, place: str = "") -> Images:
    """Scenes of real pictures on white whose number or place of things is known: (n, 3, h, w).

    Each scene shows ``number`` pictures, its own and those that follow it, in the corners, or one
    at ``place``; each is 0.4 of the side.
    """
    side = cut_outs.shape[-1]
    small = round(0.4 * side)
    shrunk = F.interpolate(
        cut_outs, (small, small), mode="bilinear", antialias=True, align_corners=False
    )
    middle, near = (side - small) // 2, round(0.06 * side)
    far = side - small - near
    spots = {
        "left": [(middle, near)],
        "right": [(middle, far)],
        "top": [(near, middle)],
        "bottom": [(far, middle)],
        "": [(near, near), (near, far), (far, near), (far, far)][:number],
    }[place]
    scenes = torch.ones_like(cut_outs)
    for offset, (top, left) in enumerate(spots):
        scenes[:, :, top : top + small, left : left + small] = shrunk.roll(-offset, 0)
    return scenes
