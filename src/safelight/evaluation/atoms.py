"""Atoms of a prompt that can be checked one by one: thing, style, group, colour, number, position.

Prompts are made from templates in the words of the training captions. Whether a picture shows what
its prompt says is checked by classifiers that learned from the real training pictures, or measured
directly; each checker says how often it is right on real pictures.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from safelight.evaluation.checkers import NUMBERS, PLACES, Checker, KnownPictures
from safelight.evaluation.intervals import Figure, share
from safelight.evaluation.measurement import COLOURS
from safelight.files import digest
from safelight.types.tensors import Images

PROMPTS_PER_KIND = 24
"""How many prompts ask for a colour, a number or a position."""


@dataclass(frozen=True)
class Atom:
    """A prompt, what it asks for by kind (thing, style, colour, …), and the style that it is in."""

    prompt: str
    style: str
    asks: tuple[tuple[str, str], ...]


def make_atoms(known: KnownPictures, things: int = 24) -> list[Atom]:
    """Prompts for ``things`` things in every style, then for colours, numbers and positions."""
    endings = caption_endings(known.captions, known.styles)
    styles = sorted(endings)
    chosen = choose_things(known, things)
    group_of = dict(zip(known.things, known.groups, strict=True))
    atoms = []
    for thing in chosen:
        for style in styles:
            asks = [("thing", thing), ("style", style), ("group", group_of[thing])]
            asks = [(kind, value) for kind, value in asks if value]
            atoms.append(Atom(thing + endings[style], style, tuple(asks)))

    def add(number: int, subject: str, kind: str, value: str) -> None:
        style = styles[number % len(styles)]
        atoms.append(Atom(subject + endings[style], style, ((kind, value),)))

    for number, (colour, noun) in enumerate(coloured(known, chosen)):
        add(number, f"{colour} {noun}", "colour", colour)
    nouns = [thing for thing in chosen if not thing.endswith("s")]
    for number in range(PROMPTS_PER_KIND if nouns else 0):
        turn = number + number // len(nouns)  # so that a noun meets every number in turn
        word = list(NUMBERS)[turn % len(NUMBERS)]
        noun = nouns[number % len(nouns)]
        add(number, f"{word} {noun if word == 'one' else plural(noun)}", "number", word)
        place = list(PLACES)[turn % len(PLACES)]
        add(number, f"{noun} {PLACES[place]}", "position", place)
    return atoms


def plural(noun: str) -> str:
    """The regular plural of a noun."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def caption_endings(captions: Sequence[str], styles: Sequence[str]) -> dict[str, str]:
    """The words that end all captions of a style, such as ", flat emoji"; "" where there are
    none."""
    endings = {}
    for style in sorted(set(styles)):
        own_captions = {
            caption for caption, kind in zip(captions, styles, strict=True) if kind == style
        }
        shared = _shared_ending(sorted(own_captions)) if len(own_captions) > 1 else ""
        comma = shared.find(",")
        endings[style] = shared[comma:] if comma >= 0 else ""
    return endings


def _shared_ending(texts: Sequence[str]) -> str:
    count = 0
    for letters in zip(*(text[::-1] for text in texts), strict=False):
        if len(set(letters)) > 1:
            break
        count += 1
    return texts[0][len(texts[0]) - count :]


def choose_things(known: KnownPictures, count: int) -> list[str]:
    """Things of one or two words that most styles show, drawn evenly from the groups by a hash."""
    pictures_of = Counter(known.things)
    least = max(2, min(len(set(known.styles)), 3))
    group_of = dict(zip(known.things, known.groups, strict=True))
    candidates = [
        t
        for t in pictures_of
        if t and pictures_of[t] >= least and len(t.split()) <= 2 and ":" not in t
    ]
    candidates.sort(key=lambda thing: digest([thing]))
    queues = {
        group: [thing for thing in candidates if group_of[thing] == group]
        for group in sorted(set(known.groups))
    }
    chosen: list[str] = []
    while len(chosen) < count and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return chosen


def coloured(known: KnownPictures, things: Sequence[str]) -> list[tuple[str, str]]:
    """Colours and the nouns that they go with, ``PROMPTS_PER_KIND`` of them at most: the nouns that
    training names call by the most colours, such as heart, in every colour that training names
    know."""
    colours_of: dict[str, set[str]] = defaultdict(set)
    for thing in set(known.things):
        colour, _, noun = thing.partition(" ")
        if colour in COLOURS and noun and " " not in noun:
            colours_of[noun].add(colour)
    nouns = sorted(colours_of, key=lambda noun: (-len(colours_of[noun]), noun))[:3]
    colours = sorted({colour for noun in nouns for colour in colours_of[noun]})
    if not nouns:
        nouns, colours = list(things[:3]), ["blue", "green", "red", "yellow"]
    return [(colour, noun) for colour in colours for noun in nouns][:PROMPTS_PER_KIND]


def atom_figures(
    atoms: Sequence[Atom], images: Images, vectors: Tensor, checkers: Sequence[Checker]
) -> tuple[list[Figure], list[dict[str, bool]]]:
    """The share of atoms that pictures (n, 3, h, w) with their ``vectors`` show, by kind; and for
    each picture whether it shows what was asked for, by kind."""
    verdicts: list[dict[str, bool]] = [{} for _ in atoms]
    figures = []
    for checker in checkers:
        places = [place for place, atom in enumerate(atoms) if checker.kind in dict(atom.asks)]
        if not places:
            continue
        styles = [atoms[place].style for place in places]
        answers = checker.check(images[places], vectors[places], styles)
        for place, answer in zip(places, answers, strict=True):
            verdicts[place][checker.kind] = answer == dict(atoms[place].asks)[checker.kind]
        right = sum(verdicts[place][checker.kind] for place in places)
        figure = share(f"atom: {checker.kind}", right, len(places), checker.chance)
        accuracy = checker.accuracy
        note = f"checker right on {accuracy.text(percent=True)} of {accuracy.count} {accuracy.name}"
        figures.append(replace(figure, checker=accuracy.value, note=note))
    return figures, verdicts
