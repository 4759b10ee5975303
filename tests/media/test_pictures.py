"""Pictures: in, out, and what they carry."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from safelight.errors import BadInput
from safelight.media.pictures import (
    MAX_PIXELS,
    on_white,
    read_picture,
    read_recipe,
    sheet,
    to_bytes,
    to_images,
    to_pictures,
    write_png,
)


def noise(width: int = 7, height: int = 5, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def test_every_byte_survives_becoming_a_tensor_and_a_picture_again():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    pictures = [Image.fromarray(values), Image.fromarray(values[::-1].copy())]
    images = to_images(pictures)
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (-1, 1)
    assert [np.asarray(picture).tolist() for picture in to_pictures(images)] == [
        np.asarray(picture).tolist() for picture in pictures
    ]


def test_a_tensor_has_rows_before_columns_and_channels_first():
    values = noise()
    assert to_bytes(Image.fromarray(values)).tolist() == values.transpose(2, 0, 1).tolist()


def test_values_between_are_rounded_and_values_outside_clamped():
    levels = torch.tensor([-9.0, -1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 0.999, 1.0, 9.0])
    images = levels.expand(1, 3, 1, 7).clone().requires_grad_()
    for given in (images, images.double()):
        assert np.asarray(to_pictures(given)[0])[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 255]


def test_files_are_read_from_bytes_and_paths(tmp_path):
    values = noise()
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(values)))
    for source in ((tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()):
        picture = read_picture(source)
        assert picture.mode == "RGB"
        assert np.asarray(picture).tolist() == values.tolist()


def test_a_photograph_is_turned_upright_as_its_exif_says():
    picture = Image.new("RGB", (4, 2), "red")
    turned = picture.getexif()
    turned[0x0112] = 6  # the camera was held on its side
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=turned)
    assert read_picture(file.getvalue()).size == (2, 4)


def test_transparency_is_composited_on_white():
    red = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    red.putpixel((1, 0), (255, 0, 0, 0))
    red.putpixel((2, 0), (255, 0, 0, 51))
    want = [(255, 0, 0), (255, 255, 255), (255, 204, 204)]
    assert [read_picture(encoded(red)).getpixel((x, 0)) for x in range(3)] == want
    grey = Image.new("LA", (1, 1), (0, 0))
    assert read_picture(encoded(grey)).getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_colour_of_a_palette_becomes_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    for transparency in (0, bytes([0, 255])):
        picture = read_picture(encoded(palette, transparency=transparency))
        assert [picture.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (40, 50, 60)]
    assert read_picture(encoded(palette)).getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_keep_their_shades(kind):
    deep = Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16))
    picture = read_picture(encoded(deep, kind))
    assert [picture.getpixel((x, 0)) for x in range(5)] == [(v, v, v) for v in (0, 0, 1, 128, 255)]


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "want"),
    [
        ("L", 77, "PNG", (77, 77, 77)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "TIFF", (255, 0, 0)),
        ("CMYK", (255, 255, 0, 0), "JPEG", (0, 0, 255)),
    ],
)
def test_other_colours_become_rgb(mode, colour, kind, want):
    got = read_picture(encoded(Image.new(mode, (8, 8), colour), kind)).getpixel((4, 4))
    assert max(abs(a - b) for a, b in zip(got, want, strict=True)) <= 4


def test_the_first_picture_of_an_animation_is_read():
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    assert read_picture(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"<svg/>"])
def test_a_file_that_is_not_a_picture_is_named(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    for source in (data, tmp_path / "a.png"):
        with pytest.raises(BadInput, match=r"^fox.png: not a picture that can be read \(.*\)\.$"):
            read_picture(source, "fox.png")
    with pytest.raises(BadInput, match=r"fox.png: not a picture"):
        read_picture(tmp_path / "none.png", "fox.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_truncated_picture_is_refused(kind):
    data = encoded(Image.fromarray(noise(40, 40)), kind)
    for part in (2, 3):
        with pytest.raises(BadInput, match="fox: not a picture"):
            read_picture(data[: len(data) * (part - 1) // part], "fox")


@pytest.mark.parametrize("side", [10_001, 20_000, 100_000])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, side):
    assert side**2 > MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(bomb(side, side))
    for source in (bomb(side, side), tmp_path / "bomb.png"):
        with pytest.raises(
            BadInput, match=r"fox: .*(pixels are too many; at most 100,000,000|exceeds limit)"
        ):
            read_picture(source, "fox")


def test_the_recipe_in_a_png_comes_back_whole(tmp_path):
    recipe = {
        "prompt": "füchse 🦊 狐, “flat”\n\0",
        "seed": 2**62,
        "scale": 4.5,
        "nested": {"a": [1, None, True]},
    }
    picture = Image.fromarray(noise())
    write_png(picture, tmp_path / "a.png", recipe)
    assert read_recipe(tmp_path / "a.png") == recipe
    assert np.asarray(read_picture(tmp_path / "a.png")).tolist() == noise().tolist()
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_half_a_character_in_a_recipe_becomes_a_question_mark(tmp_path):
    write_png(Image.fromarray(noise()), tmp_path / "a.png", {"prompt": "a\ud800b"})
    assert read_recipe(tmp_path / "a.png") == {"prompt": "a?b"}


def test_a_recipe_is_read_without_decoding_the_picture(tmp_path):
    write_png(Image.fromarray(noise(300, 300)), tmp_path / "a.png", {"seed": 1})
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    assert read_recipe(tmp_path / "half.png") == {"seed": 1}


def test_a_picture_of_another_program_has_no_recipe(tmp_path):
    for number, text in enumerate([None, "not json", "[1]"]):
        info = Image.new("RGB", (2, 2))
        chunk = None
        if text is not None:
            chunk = PngInfo()
            chunk.add_text("safelight", text)
        info.save(tmp_path / f"{number}.png", pnginfo=chunk)
        assert read_recipe(tmp_path / f"{number}.png") is None
    (tmp_path / "no.png").write_bytes(b"no")
    with pytest.raises(BadInput, match=r"no.png: not a picture"):
        read_recipe(tmp_path / "no.png")


def test_a_sheet_lays_pictures_in_rows_with_gaps_of_white():
    red, tall = Image.new("RGB", (3, 2), "red"), Image.new("RGB", (1, 4), "blue")
    page = sheet([[red, tall], [tall]], gap=2)
    assert page.size == (3 + 2 + 3, 4 + 2 + 4)
    where = {
        (x, y)
        for x in range(page.width)
        for y in range(page.height)
        if page.getpixel((x, y)) != (255, 255, 255)
    }
    reds = {(x, y) for x in range(3) for y in range(2)}
    blues = {(5, y) for y in range(4)} | {(0, 6 + y) for y in range(4)}
    assert where == reds | blues
    assert {page.getpixel(place) for place in reds} == {(255, 0, 0)}


def test_a_picture_without_transparency_stays_as_it_is():
    picture = Image.fromarray(noise())
    assert np.asarray(on_white(picture)).tolist() == noise().tolist()
