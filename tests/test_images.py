"""rvsm.handwriting.images: every kind of file becomes dark ink on white, or one clear sentence."""

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from rvsm.errors import DataError
from rvsm.handwriting.images import SIZE, encode_png, fit, grey_of, read_grey, read_picture


def word(size: tuple[int, int] = SIZE) -> np.ndarray:
    grey = np.full(size, 255, dtype=np.uint8)
    h, w = size
    grey[h // 3 : 2 * h // 3, w // 4 : w // 4 + max(2, h // 8)] = 0
    grey[h // 2 : h // 2 + 2, w // 4 : 3 * w // 4] = 90
    return grey


def test_grey_of_the_right_size_is_returned_exactly(tmp_path: Path) -> None:
    grey = word()
    (tmp_path / "a.png").write_bytes(encode_png(grey))
    np.testing.assert_array_equal(read_grey(tmp_path / "a.png"), grey)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_gives_the_same_picture(tmp_path: Path, mode: str) -> None:
    grey = word()
    path = tmp_path / ("a.tif" if mode in {"CMYK", "YCbCr", "F", "I", "LA"} else "a.png")
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32) / 255)
    else:
        image = Image.fromarray(grey).convert(mode)
    image.save(path)
    got = read_grey(path)
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - grey).max() <= 2


def packed_tiff(path: Path, values: np.ndarray) -> None:
    """Grey of 12 bits, two pixels in three bytes, as neither Pillow nor tifffile writes it."""
    even, odd = values.reshape(-1, 2).T.astype(np.uint16)
    pairs = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], axis=1)
    data = pairs.astype(np.uint8).tobytes()
    height, width = values.shape
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, 12), (259, 3, 1), (262, 3, 1),
        (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(data)),
    ]  # fmt: skip
    with path.open("wb") as file:
        file.write(b"II*\0" + struct.pack("<I", 8 + len(data)) + data)
        file.write(struct.pack("<H", len(entries)))
        for tag, kind, value in entries:
            file.write(struct.pack("<HHII", tag, kind, 1, value))
        file.write(bytes(4))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_of_fewer_bits_in_files_of_16(tmp_path: Path, bits: int, suffix: str) -> None:
    grey = word()
    deep = np.rint(grey / 255.0 * (2**bits - 1)).astype(np.uint16)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(deep).save(path)
    assert np.abs(read_grey(path).astype(int) - grey).max() <= 1
    # A page that does not quite reach white is of as many bits.
    Image.fromarray((deep * 0.9).astype(np.uint16)).save(path)
    assert np.abs(read_grey(path).astype(int) - 0.9 * grey).max() <= 1


def test_grey_of_16_bits_is_read_as_ever(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, SIZE).astype(np.uint16)
    deep[0] = 65535
    for suffix in (".png", ".tif"):
        Image.fromarray(deep).save(tmp_path / f"a{suffix}")
        expected = np.rint(deep.astype(np.float64) * (255.0 / 65535.0)).astype(np.uint8)
        np.testing.assert_array_equal(read_grey(tmp_path / f"a{suffix}"), expected)


def test_what_a_tiff_says_of_its_values_is_not_asked(tmp_path: Path) -> None:
    grey = word()
    deep = np.rint(grey / 255.0 * 4095)
    packed_tiff(tmp_path / "a.tif", deep)
    assert np.abs(read_grey(tmp_path / "a.tif").astype(int) - grey).max() <= 1
    for said in (4095, 65535, 100):
        tags = [(281, "H", 1, said, True), (341, "H", 1, said, True)]
        tifffile.imwrite(tmp_path / "a.tif", deep.astype(np.uint16), extratags=tags)
        assert np.abs(read_grey(tmp_path / "a.tif").astype(int) - grey).max() <= 1


def test_a_dark_part_of_a_deep_page_stays_dark(tmp_path: Path) -> None:
    page = np.full((200, 600), 60_000, dtype=np.uint16)
    page[50:100] = 3_000
    Image.fromarray(page).save(tmp_path / "page.png")
    part = read_picture(tmp_path / "page.png").crop((0, 60, 600, 90))
    assert grey_of(part).max() == 12


def test_one_bit(tmp_path: Path) -> None:
    Image.fromarray(word()).convert("1", dither=Image.Dither.NONE).save(tmp_path / "a.png")
    assert set(np.unique(read_grey(tmp_path / "a.png"))) == {0, 255}


def test_transparent_paper_is_white_whatever_colour_lies_beneath(tmp_path: Path) -> None:
    grey = word()
    rgba = np.zeros((*SIZE, 4), dtype=np.uint8)
    rgba[..., 3] = 255 - grey
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert np.abs(read_grey(tmp_path / "rgba.png").astype(int) - grey).max() <= 1

    palette = Image.fromarray((grey < 128).astype(np.uint8), "L").convert("P")
    palette.putpalette([0, 0, 0, 0, 0, 0])
    palette.save(tmp_path / "p.png", transparency=0)
    got = read_grey(tmp_path / "p.png")
    np.testing.assert_array_equal(got < 128, grey < 128)


def test_light_ink_on_dark_is_inverted(tmp_path: Path) -> None:
    grey = word()
    (tmp_path / "a.png").write_bytes(encode_png(255 - grey))
    np.testing.assert_array_equal(read_grey(tmp_path / "a.png"), grey)


def test_fit_keeps_the_aspect_and_pads_with_white() -> None:
    out = fit(np.zeros((100, 100), dtype=np.uint8))
    assert out.shape == SIZE
    columns = np.flatnonzero((out < 128).any(axis=0))
    assert columns[0] == 96
    assert columns[-1] == 159
    assert (out[:, 96:160] == 0).all()
    assert (fit(np.zeros((1, 256), dtype=np.uint8)) == 0).sum() == 256


def test_rotation_tag_is_obeyed(tmp_path: Path) -> None:
    image = Image.fromarray(np.rot90(word()).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_grey(tmp_path / "a.png"), word())


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("a shopping list")
    with pytest.raises(DataError, match=r"note\.png is not an image.*take it out"):
        read_grey(tmp_path / "note.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match="0 bytes"):
        read_grey(tmp_path / "empty.png")
    with pytest.raises(DataError, match="no image file"):
        read_grey(tmp_path / "absent.png")
    with pytest.raises(DataError, match="folder"):
        read_grey(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif", "bmp"])
def test_truncated_at_any_place(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rng.integers(0, 256, SIZE, dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for share in (0.02, 0.2, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=rf"a\.{suffix}"):
            read_grey(path)


def test_a_strip_of_40000_pixels(tmp_path: Path) -> None:
    Image.new("L", (40_000, 64), 255).save(tmp_path / "strip.png")
    with pytest.raises(DataError, match=r"40000x64 pixels.*cut it into single words"):
        read_grey(tmp_path / "strip.png")
    Image.new("L", (19_000, 64), 255).save(tmp_path / "thin.png")
    with pytest.raises(DataError, match=r"too long and thin.*single words"):
        read_grey(tmp_path / "thin.png")


def test_decompression_bombs(tmp_path: Path) -> None:
    # Only the header is believed to be large: the file itself has a few hundred bytes.
    for side in (15_000, 200_000):
        Image.new("1", (8, 8)).save(tmp_path / "bomb.bmp")
        raw = bytearray((tmp_path / "bomb.bmp").read_bytes())
        raw[18:26] = side.to_bytes(4, "little") * 2
        (tmp_path / "bomb.bmp").write_bytes(bytes(raw))
        with pytest.raises(DataError, match="beyond the limit"):
            read_grey(tmp_path / "bomb.bmp")
