"""From pictures of any size to the square that training sees, alone and as a data set."""

import numpy as np
import pytest
import torch
from PIL import Image

from layouts import png, write_folder
from safelight.data.dataset import Dataset
from safelight.data.examples import examine
from safelight.data.framing import Framing
from safelight.data.sources.folder import Config
from safelight.errors import BadInput
from safelight.media.pictures import read_picture, to_bytes

RAMP = Image.fromarray(
    np.tile(np.arange(0, 200, 10, dtype=np.uint8)[:, None], (8, 1, 3))
)  # 20 wide, 8 high


@pytest.mark.parametrize("size", [(20, 8), (8, 20), (8, 8), (300, 200), (3, 5), (1, 40)])
@pytest.mark.parametrize("framing", [Framing(8), Framing(8, 12, "random", mirror=True)])
def test_any_picture_becomes_a_square(size, framing):
    pixels = framing(Image.new("RGB", size, (1, 2, 3)), seed=0, position=3)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == torch.uint8
    assert pixels[:, 0, 0].tolist() == [1, 2, 3]


def test_the_centre_is_cropped_without_resizing_where_the_short_side_fits():
    assert Framing(8)(RAMP)[0, 0].tolist() == list(range(60, 140, 10))
    assert Framing(4, short_side=8)(RAMP)[0, 0].tolist() == list(range(80, 120, 10))
    turned = Framing(8)(RAMP.transpose(Image.Transpose.TRANSPOSE))
    assert turned[0, :, 0].tolist() == list(range(60, 140, 10))


def test_the_short_side_is_resized():
    pixels = Framing(4)(RAMP)
    assert pixels.shape == (3, 4, 4)
    assert torch.equal(pixels, to_bytes(RAMP.resize((10, 4), Image.Resampling.LANCZOS))[:, :, 3:7])


def test_random_crops_cover_the_picture_and_are_the_same_for_a_position():
    framing = Framing(8, crop="random")
    lefts = [
        int(framing(RAMP, seed=1, position=position)[0, 0, 0]) // 10 for position in range(200)
    ]
    assert set(lefts) == set(range(13))
    assert lefts == [
        int(framing(RAMP, seed=1, position=position)[0, 0, 0]) // 10 for position in range(200)
    ]
    assert lefts != [
        int(framing(RAMP, seed=2, position=position)[0, 0, 0]) // 10 for position in range(200)
    ]


def test_half_of_the_pictures_are_mirrored():
    framing, plain = Framing(8, mirror=True), Framing(8)(RAMP)
    mirrored = [torch.equal(framing(RAMP, 0, position), plain.flip(-1)) for position in range(200)]
    assert 70 < sum(mirrored) < 130
    assert all(torch.equal(framing(RAMP, 0, p), plain) for p in range(200) if not mirrored[p])


def test_only_framing_without_randomness_is_fixed():
    framings = (Framing(8), Framing(8, 12), Framing(8, crop="random"), Framing(8, mirror=True))
    assert [framing.fixed for framing in framings] == [True, True, False, False]


@pytest.mark.parametrize(
    "given",
    [{"size": 0}, {"size": 8, "short_side": 7}, {"size": -1}, {"size": 8, "short_side": -9}],
)
def test_impossible_framing_is_refused(given):
    with pytest.raises(BadInput, match="framing: wanted 0 < size ≤ short_side"):
        Framing(**given)


@pytest.fixture
def dataset(tmp_path):
    rows = (
        '{"file": "a.png", "text": "one", "label": "x"}\n'
        '{"file": "b.png"}\n'
        '{"file": "c.png", "text": "three"}\n'
    )
    files = {
        "a.png": png(1),
        "b.png": b"broken",
        "c.png": png(3, 9, 5),
        "rows.jsonl": rows.encode(),
    }
    write_folder(tmp_path / "data", files)
    source = Config(paths=(str(tmp_path / "data"),), broken="skip").build()
    return Dataset(source, examine(source), Framing(4, crop="random"), seed=5)


def test_a_dataset_numbers_the_good_pictures(dataset):
    assert len(dataset) == 2
    images = dataset.images([7, 8, 9], [1, 0, 1])
    assert images.shape == (3, 3, 4, 4)
    assert images.dtype == torch.float32
    for row, (position, number) in enumerate([(7, (3, 9, 5)), (8, (1,)), (9, (3, 9, 5))]):
        pixels = Framing(4, crop="random")(read_picture(png(*number)), 5, position)
        assert torch.equal(images[row], pixels.float() / 127.5 - 1)


def test_a_dataset_has_prompts_and_hashes_of_its_pictures(dataset):
    prompts = dataset.prompts([1, 0])
    assert [(prompt.text, dict(prompt.given)) for prompt in prompts] == [
        ("three", {}),
        ("one", {"label": "x"}),
    ]
    assert dataset.hashes([1, 0, 1]) == [dataset.examination.hashes[index] for index in (1, 0, 1)]
    assert len(set(dataset.examination.hashes)) == 2
