"""Atoms of prompts and their checkers, on drawn pictures of known colour, number and place."""

import pytest
import torch

import making
from safelight.evaluation import atoms, checkers
from safelight.media.pictures import to_images

STYLES = {"flat": ", flat drawing", "round": ", round drawing"}
THINGS = ["red square", "blue square", "green circle", "red circle", "box", "ball"]


def known(count=48, seed=0):
    """Pictures of two shapes in two styles, whose vectors tell thing and style with some noise."""
    rng = torch.Generator().manual_seed(seed)
    things = [THINGS[i % len(THINGS)] for i in range(count)]
    styles = [list(STYLES)[i // len(THINGS) % 2] for i in range(count)]
    hues = [thing.partition(" ")[0] if " " in thing else "red" for thing in things]
    images = to_images([making.shape(hue) for hue in hues])
    one_hot = torch.nn.functional.one_hot(torch.tensor([THINGS.index(t) for t in things]), 6)
    style = torch.tensor([[5.0 * (s == "flat")] for s in styles])
    vectors = torch.cat([one_hot.float(), style], 1)
    vectors = vectors + 0.1 * torch.randn(vectors.shape, generator=rng)
    return checkers.KnownPictures(
        lambda places: images[list(places)],
        vectors,
        [thing + STYLES[style] for thing, style in zip(things, styles, strict=True)],
        styles,
        things,
        ["shapes" if "square" in thing or "circle" in thing else "others" for thing in things],
    )


def test_endings_of_captions_are_found():
    captions = ["fox, flat emoji", "red apple, flat emoji", "box, flat emoji", "whale"]
    endings = atoms.caption_endings(captions, ["flat", "flat", "flat", "none"])
    assert endings == {"flat": ", flat emoji", "none": ""}
    assert atoms.caption_endings(["an ox", "a fox"], ["a", "a"]) == {"a": ""}


@pytest.mark.parametrize(
    ("noun", "many"),
    [("box", "boxes"), ("cherry", "cherries"), ("key", "keys"), ("fox face", "fox faces")],
)
def test_plurals(noun, many):
    assert atoms.plural(noun) == many


def test_prompts_ask_for_every_kind_in_the_words_of_the_captions():
    training = known()
    made = atoms.make_atoms(training, 4)
    assert atoms.choose_things(training, 4) == atoms.choose_things(training, 4)
    things = [atom for atom in made if "thing" in dict(atom.asks)]
    assert len(things) == 4 * 2
    assert {dict(atom.asks)["style"] for atom in things} == set(STYLES)
    assert all(atom.prompt == dict(atom.asks)["thing"] + STYLES[atom.style] for atom in things)
    groups = {dict(atom.asks)["thing"]: dict(atom.asks)["group"] for atom in things}
    assert set(groups.values()) == {"shapes", "others"}
    colours = [atom for atom in made if "colour" in dict(atom.asks)]
    assert {dict(atom.asks)["colour"] for atom in colours} == {"red", "blue", "green"}
    assert all(atom.prompt.startswith(dict(atom.asks)["colour"]) for atom in colours)
    numbers = [atom for atom in made if "number" in dict(atom.asks)]
    assert {dict(atom.asks)["number"] for atom in numbers} == set(checkers.NUMBERS)
    places = [atom for atom in made if "position" in dict(atom.asks)]
    assert {dict(atom.asks)["position"] for atom in places} == set(checkers.PLACES)
    assert len({(atom.prompt, atom.asks) for atom in numbers}) > 12
    assert any(" boxes, " in atom.prompt for atom in numbers)


def test_checkers_say_how_often_they_are_right_on_real_pictures():
    found = {one.kind: one for one in checkers.checkers(known(), known(24, 1), THINGS)}
    assert list(found) == ["thing", "style", "group", "colour", "number", "position"]
    for kind in ("style", "group", "thing"):
        assert found[kind].accuracy.value > 0.9
    assert found["thing"].chance == pytest.approx(1 / 6)
    assert found["colour"].accuracy.value == 1
    assert found["colour"].accuracy.count == 32
    assert found["number"].accuracy.count == 4 * 24
    assert found["number"].accuracy.value == 1
    assert found["position"].accuracy.value == 1
    assert found["style"].accuracy.name == "held-out pictures"


def test_a_classifier_that_knows_nothing_says_so():
    """Labels that have nothing to do with the pictures: the checker is right as often as chance."""
    training, test = known(), known(24, 1)
    noise = torch.randn(len(training.captions), 7, generator=torch.Generator().manual_seed(3))
    blank = checkers.KnownPictures(training.images, noise, *list(vars(training).values())[2:])
    found = {one.kind: one for one in checkers.checkers(blank, test, THINGS)}
    assert found["thing"].accuracy.value < 0.5


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_scenes_show_as_many_things_as_they_say(number):
    cut_outs = known().images(range(8))
    scenes = checkers.composed(cut_outs, number)
    assert scenes.shape == cut_outs.shape
    assert checkers.measurement.counts(scenes) == [number] * 8


def test_atoms_are_counted_with_chance_and_the_checker_s_own_accuracy():
    asked = [
        atoms.Atom("one box", "flat", (("number", "one"), ("colour", "red"))),
        atoms.Atom("two boxes", "flat", (("number", "two"),)),
        atoms.Atom("red ball", "flat", (("colour", "red"),)),
    ]
    cut_outs = known().images([0, 0, 1])  # red, red, blue
    images = torch.cat([cut_outs[:1], checkers.composed(cut_outs[1:2], 2), cut_outs[2:]])
    able = [
        one
        for one in checkers.checkers(known(), known(24, 1), [])
        if one.kind in ("colour", "number")
    ]
    figures, verdicts = atoms.atom_figures(asked, images, torch.zeros(3, 7), able)
    assert verdicts == [{"number": True, "colour": True}, {"number": True}, {"colour": False}]
    colour, number = figures
    assert (colour.name, colour.value, colour.count, colour.checker) == (
        "atom: colour",
        0.5,
        2,
        1.0,
    )
    assert (number.value, number.chance) == (1.0, 0.25)
    assert colour.note.startswith("checker right on 100 % (")
    assert colour.note.endswith("of 32 real pictures named by a colour")
