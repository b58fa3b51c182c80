"""The pages of a scan: PDF, TIFF of several pages, or a picture, each with its scale."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from rvsm.errors import DataError, first_line
from rvsm.handwriting.images import MAX_PIXELS, MAX_SIDE, check_pixels, is_pdf, loaded, sentences
from rvsm.handwriting.scans.normalise import scale_of

PDF_DPI = 200.0
"""Resolution that pages of a PDF are drawn at where none is given."""

LARGEST_PAPER_MM = 600.0
"""No page of handwriting is longer: a PDF that says so holds a picture of unknown scale, put in
at 72 dots an inch."""

_UNSCALED = 3500.0
_SUBFILE_TYPE, _PREVIEW = 254, 1  # of TIFF 6.0: the same picture at a reduced resolution
_POINTS_PER_INCH = 72.0
_PDF_ENCRYPTED = 4  # FPDF_ERR_PASSWORD


@dataclass(frozen=True)
class Page:
    """One page of a file.

    Attributes
    ----------
    file : Path
    number : int
        From 1.
    of : int
        Pages of the file.
    picture : PIL.Image.Image
        Its rotation tag obeyed.
    pixels_per_mm : float or None
        None where neither the file nor the user tells.
    """

    file: Path
    number: int
    of: int
    picture: Image.Image
    pixels_per_mm: float | None

    @property
    def name(self) -> str:
        """File, and the page where there are several."""
        return str(self.file) if self.of == 1 else f"{self.file} page {self.number}"


def read_pages(path: str | os.PathLike[str], dpi: float | None = None) -> Iterator[Page]:
    """Read the pages of a file one after the other.

    Parameters
    ----------
    path : path-like
        A PDF (by its first bytes, whatever its name) or any image file.
    dpi : float, optional
        Pixels per inch of the scan. A PDF is drawn at it (200 by default) and knows its scale,
        unless a page is longer than `LARGEST_PAPER_MM`: such a one is drawn 3500 pixels long, its
        scale unknown. Of an image it replaces what the file states.

    Yields
    ------
    Page

    Raises
    ------
    DataError
        The file is missing, damaged, encrypted, without pages or too large, or `dpi` no sensible
        number.
    """
    file = Path(path)
    check_dpi(dpi)
    for number in range(1, page_count(file) + 1):
        yield read_page(file, number, dpi)


def page_count(file: Path) -> int:
    """How many pages a file has; raises as `read_pages` does."""
    if not is_pdf(file):
        return len(page_frames(file))
    with contextlib.closing(_opened(file)) as document:
        return len(document)


def read_page(file: Path, number: int, dpi: float | None = None) -> Page:
    """Read one page, its number from 1; all else as for `read_pages`."""
    if not is_pdf(file):
        return _image(file, number, dpi)
    with contextlib.closing(_opened(file)) as document:
        picture, scale = _drawn(file, document, number - 1, dpi)
        return Page(file, number, len(document), picture, scale)


def check_dpi(dpi: float | None) -> None:
    """Raise DataError where a resolution is that of no scan."""
    if dpi is not None and not 20 <= dpi <= 4800:
        raise DataError(f"A scan of {dpi:g} dots per inch is not one: give --dpi from 20 to 4800.")


def _image(file: Path, number: int, dpi: float | None) -> Page:
    frames = page_frames(file)
    if number > len(frames):
        raise DataError(f"{file} has no page {number} any more: run the same command again.")
    with sentences(file), Image.open(file) as image:
        image.seek(frames[number - 1])
        check_pixels(file, image.size)
        picture = ImageOps.exif_transpose(loaded(image, file))
    scale = scale_of(picture) if dpi is None else dpi / 25.4
    return Page(file, number, len(frames), picture, scale)


def page_frames(file: Path) -> list[int]:
    """Places of the pages in an image file: of a TIFF all frames but previews, else the first.

    The frames of an animation are one picture that moves, not pages.

    Raises
    ------
    DataError
        The file is missing or damaged.
    """
    with sentences(file), Image.open(file) as image:
        count = int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1
        if count == 1:
            return [0]
        found = []
        for number in range(count):
            image.seek(number)
            if not int(getattr(image, "tag_v2", {}).get(_SUBFILE_TYPE, 0)) & _PREVIEW:
                found.append(number)
        return found or [0]


def _opened(file: Path) -> Any:
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _PDF_ENCRYPTED or "password" in str(error).lower():
            raise DataError(
                f"{file} is encrypted: save it without a password, with the program that opens it."
            ) from None
        raise DataError(
            f"{file} is a damaged PDF, or one without pages ({first_line(error)}): export it again."
        ) from None


def _drawn(
    file: Path, document: Any, number: int, given: float | None
) -> tuple[Image.Image, float | None]:
    """A page as a picture, and its pixels per mm, None where its size tells nothing."""
    import pypdfium2

    try:
        page = document[number]
        longest = max(page.get_size()) / _POINTS_PER_INCH
        unscaled = given is None and longest * 25.4 > LARGEST_PAPER_MM
        dpi = given or (_UNSCALED / longest if unscaled else PDF_DPI)
        width, height = (side * dpi / _POINTS_PER_INCH for side in page.get_size())
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise DataError(
                f"Page {number + 1} of {file} is {width:.0f}x{height:.0f} pixels at {dpi:g} dots "
                f"per inch, beyond {MAX_PIXELS // 1_000_000} million: give a smaller --dpi."
            )
        picture = page.render(scale=dpi / _POINTS_PER_INCH).to_pil()
        page.close()
    except pypdfium2.PdfiumError as error:
        raise DataError(
            f"Page {number + 1} of {file} cannot be drawn ({first_line(error)}): export it again."
        ) from None
    return Image.fromarray(np.asarray(picture.convert("RGB"))), None if unscaled else dpi / 25.4
