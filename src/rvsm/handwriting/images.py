"""Read any image file as the one thing the networks see: dark ink on white, 8-bit grey, 64x256."""

from __future__ import annotations

import contextlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from rvsm.errors import DataError

GreyImage = npt.NDArray[np.uint8]

SIZE = (64, 256)
"""Height and width in pixels of every image a network reads: 8 x 32 mm at 8 pixels a millimetre."""

MAX_PIXELS = 64_000_000
MAX_SIDE = 20_000
MIN_FITTED_SIDE = 4

_OPAQUE = {"L", "RGB"}
_ORIENTATION = 0x0112
_QUARTER_TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITES = tuple(2.0**bits - 1 for bits in (1, 8, 10, 12, 14, 16))
_WHITE = "rvsm white"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_grey(path: str | os.PathLike[str], size: tuple[int, int] = SIZE) -> GreyImage:
    """Read an image file as dark ink on white.

    Transparency is flattened on white, 16-bit and float images are scaled to 8 bits (white is the
    largest value of 1, 8, 10, 12, 14 or 16 bits, the fewest that hold the largest value of the
    image), CMYK and palettes become grey, a photograph's rotation tag is obeyed, and light ink on
    a dark ground is inverted. The picture is then scaled to fit (its aspect kept) and padded with
    white, centred.
    An 8-bit grey file that already has the size is returned exactly as stored.

    Parameters
    ----------
    path : path-like
        The image file.
    size : (int, int)
        Height and width of the result, in pixels.

    Returns
    -------
    ndarray of uint8, shape `size`
        0 is ink, 255 is paper.

    Raises
    ------
    DataError
        The file is missing, not an image, truncated, empty, too large, or so long and thin that
        fitting would leave less than 4 pixels of it.
    """
    path = Path(path)
    with sentences(path), Image.open(path) as image:
        check_fits(path, image.size, size)
        return fitted(loaded(image, path), size)


def fitted(picture: Image.Image, size: tuple[int, int] = SIZE) -> GreyImage:
    """A picture as `read_grey` reads it from a file: dark on light, 8 bits, scaled to fit."""
    return fit(_dark_on_light(_to_grey(picture)), size)


def read_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as stored: its own colour mode and size, rotation tag obeyed.

    Parameters
    ----------
    path : path-like
        The image file; of one with several pages the first is read.

    Returns
    -------
    PIL.Image.Image
        Decoded, with its metadata in ``info``.

    Raises
    ------
    DataError
        The file is missing, not an image, truncated, empty or too large.
    """
    path = Path(path)
    with sentences(path), Image.open(path) as image:
        check_pixels(path, image.size)
        return ImageOps.exif_transpose(loaded(image, path))


def loaded(image: Image.Image, path: Path) -> Image.Image:
    """Decode an opened image, at the page that it stands on.

    Pillow 13 reads uncompressed TIFF files with a tag for a quarter turn in rows of the wrong
    length; tifffile reads those.
    """
    if image.format == "TIFF" and image.info.get("compression") == "raw":
        how = _QUARTER_TURNS.get(image.getexif().get(_ORIENTATION, 1))
        if how is not None:
            import tifffile

            stored = np.asarray(tifffile.imread(path, key=image.tell()))
            turned = Image.fromarray(stored).transpose(how)
            turned.info.update({k: v for k, v in image.info.items() if k == "dpi"})
            return _with_white(turned)
    image.load()
    return _with_white(image)


def _with_white(image: Image.Image) -> Image.Image:
    """Note in a picture of more than 8 bits what white is: a crop of it may hold none."""
    if _is_deep(image):
        image.info[_WHITE] = _white_above(float(np.max(np.asarray(image))))
    return image


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _white_above(largest: float) -> float:
    """White in a picture with this largest value: scanners of 12 bits write them into 16.

    What a file states (MaxSampleValue of TIFF, sBIT of PNG) is not asked: many state 65535
    whatever they hold, and paper below a quarter of white would be taken for a dark ground.
    """
    return next((white for white in _WHITES if largest <= white), largest)


def grey_of(picture: Image.Image) -> GreyImage:
    """Any colour mode as 8-bit grey: transparency on white, 16-bit and float values scaled."""
    return _to_grey(picture)


@contextlib.contextmanager
def sentences(path: Path) -> Iterator[None]:
    """Turn what Pillow raises about a file into a DataError of one sentence."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path} is a pipe or a device, not an image: name an image file.")
    with warnings.catch_warnings():
        # Pillow warns about bombs, odd metadata and palettes; what matters is raised below.
        warnings.simplefilter("ignore")
        try:
            yield
        except DataError:
            raise
        except FileNotFoundError:
            raise DataError(f"There is no image file {path}: check the name.") from None
        except IsADirectoryError:
            raise DataError(f"{path} is a folder, not an image: name the files in it.") from None
        except NotADirectoryError:
            raise DataError(f"{path} lies below a file, not a folder: check the name.") from None
        except PermissionError:
            raise DataError(f"{path} cannot be opened: you lack the right to read it.") from None
        except Image.DecompressionBombError:
            raise DataError(_too_large(path, "over 100 million pixels")) from None
        except UnidentifiedImageError:
            raise DataError(_not_an_image(path)) from None
        # A damaged file makes Pillow's decoders raise nearly anything, struct.error included.
        except Exception as error:
            raise DataError(
                f"{path} is damaged or cut short ({error}): replace it or take it out."
            ) from None


def describe(path: str | os.PathLike[str]) -> tuple[str, tuple[int, int]]:
    """Colour mode and (width, height) of an image file as stored, without decoding it.

    Raises
    ------
    DataError
        The file cannot be opened as an image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as image:
                return image.mode, image.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{path} cannot be opened as an image ({error}): take it out."
            ) from None


def fit(grey: GreyImage, size: tuple[int, int] = SIZE) -> GreyImage:
    """Scale a grey image to fit `size` with its aspect kept, and centre it on white.

    Parameters
    ----------
    grey : ndarray of uint8, shape (h, w)
    size : (int, int)
        Height and width of the result.

    Returns
    -------
    ndarray of uint8, shape `size`
        `grey` itself where it already has that shape.
    """
    if grey.shape == size:
        return grey
    height, width = grey.shape
    scale = min(size[0] / height, size[1] / width)
    inner = (
        min(size[0], max(1, round(height * scale))),
        min(size[1], max(1, round(width * scale))),
    )
    if inner != grey.shape:
        # BOX averages every source pixel: thin strokes of a large scan fade but never vanish.
        how = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
        grey = np.asarray(Image.fromarray(grey).resize((inner[1], inner[0]), how))
    out = np.full(size, 255, dtype=np.uint8)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    out[top : top + inner[0], left : left + inner[1]] = grey
    return out


def encode_png(grey: GreyImage) -> bytes:
    """Encode an 8-bit grey image as PNG, in a third of the time that Pillow takes.

    Pillow tries five filters on every row; ink on white needs none.

    Parameters
    ----------
    grey : ndarray of uint8, shape (h, w)

    Returns
    -------
    bytes
    """
    height, width = grey.shape
    rows = np.zeros((height, 1 + width), dtype=np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = grey
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def check_pixels(path: Path, found: tuple[int, int]) -> None:
    """Raise DataError where a picture (width, height) is empty or beyond the limits."""
    width, height = found
    what = f"{width}x{height} pixels"
    if width < 1 or height < 1:
        raise DataError(f"{path} is an empty image ({what}): take it out of the folder.")
    if width * height > MAX_PIXELS or max(found) > MAX_SIDE:
        raise DataError(_too_large(path, what))


def check_fits(path: Path, found: tuple[int, int], size: tuple[int, int]) -> None:
    """Raise DataError where a picture (width, height) cannot be fitted to `size` legibly."""
    check_pixels(path, found)
    width, height = found
    what = f"{width}x{height} pixels"
    scale = min(size[0] / height, size[1] / width)
    if scale < 1 and min(found) * scale < MIN_FITTED_SIDE:
        raise DataError(
            f"{path} is {what}, too long and thin to fit {size[1]}x{size[0]} pixels legibly: "
            "cut it into single words."
        )


def _too_large(path: Path, what: str) -> str:
    return (
        f"{path} is {what}, beyond the limit of {MAX_SIDE} pixels a side and "
        f"{MAX_PIXELS // 1_000_000} million in all: cut it into single words or scale it down."
    )


def is_pdf(file: Path) -> bool:
    """Whether the first bytes of a file are those of a PDF; False where it cannot be read."""
    if not file.is_file():
        return False  # a pipe would be waited for
    try:
        with file.open("rb") as stream:
            return b"%PDF-" in stream.read(1024)
    except OSError:
        return False  # what is wrong is said when it is opened as a picture


def _not_an_image(path: Path) -> str:
    if path.stat().st_size == 0:
        return f"{path} is an empty file of 0 bytes: replace it or take it out of the folder."
    if is_pdf(path):
        return f"{path} is a PDF: ask with `rvsm predict --pages`, or save its pages as PNG."
    return f"{path} is not an image that can be read (PNG, JPEG, TIFF, ...): take it out."


def _to_grey(image: Image.Image) -> GreyImage:
    if image.mode == "L" and "transparency" not in image.info and not image.getexif():
        return np.asarray(image)
    image = ImageOps.exif_transpose(image)
    if _is_deep(image):
        return _deep_to_grey(np.asarray(image, dtype=np.float64), image.info.get(_WHITE))
    if image.has_transparency_data or image.mode in {"LA", "La", "PA", "RGBA", "RGBa"}:
        rgba = image.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(paper, rgba)
    if image.mode not in _OPAQUE:
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def _deep_to_grey(values: npt.NDArray[np.float64], white: float | None) -> GreyImage:
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not numbers")
    if white is None:
        white = _white_above(float(values.max()))
    return np.asarray(np.rint(np.clip(values, 0, white) * (255.0 / white)), dtype=np.uint8)


def _dark_on_light(grey: GreyImage) -> GreyImage:
    border = int(grey[0].sum(dtype=np.int64)) + int(grey[-1].sum(dtype=np.int64))
    border += int(grey[:, 0].sum(dtype=np.int64)) + int(grey[:, -1].sum(dtype=np.int64))
    # Below a quarter of full brightness the ground itself is dark; grey paper in a photograph
    # is not.
    return 255 - grey if border < 64 * 2 * sum(grey.shape) else grey
