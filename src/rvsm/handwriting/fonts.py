"""Finding font files and reading their glyph outlines."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rvsm.errors import DataError

Array = NDArray[np.float64]

# Every font comes with pip. At most four cuts of a family, so that no family dominates.
FONT_PACKAGES: dict[str, tuple[str, ...]] = {
    "font_amatic_sc": ("AmaticSC-Regular.ttf", "AmaticSC-Bold.ttf"),
    "font_caladea": ("Caladea-Regular.ttf", "Caladea-Italic.ttf", "Caladea-Bold.ttf"),
    "font_fredoka_one": ("FredokaOne-Regular.ttf",),
    "font_hanken_grotesk": (
        "HankenGrotesk-Light.otf",
        "HankenGrotesk-Italic.otf",
        "HankenGrotesk-SemiBold.otf",
    ),
    "font_intuitive": ("Intuitive.ttf",),
    "font_manrope": ("Manrope-Light.ttf", "Manrope-SemiBold.ttf"),
    "font_roboto": ("Roboto-Thin.ttf", "Roboto-Regular.ttf", "Roboto-BoldItalic.ttf"),
    "font_source_sans_pro": (
        "SourceSansPro-ExtraLight.ttf",
        "SourceSansPro-Regular.ttf",
        "SourceSansPro-BoldIt.ttf",
    ),
    "font_source_serif_pro": (
        "SourceSerifPro-Light.ttf",
        "SourceSerifPro-It.ttf",
        "SourceSerifPro-Semibold.ttf",
    ),
    "fontpkg_arvo": ("Arvo-Regular.ttf",),
    "fontpkg_bitter": ("Bitter[wght].ttf",),
    "fontpkg_caveat": ("Caveat[wght].ttf",),
    "fontpkg_comfortaa": ("Comfortaa[wght].ttf",),
    "fontpkg_cormorant_garamond": (
        "CormorantGaramond[wght].ttf",
        "CormorantGaramond-Italic[wght].ttf",
    ),
    "fontpkg_crimson_text": ("CrimsonText-Regular.ttf", "CrimsonText-BoldItalic.ttf"),
    "fontpkg_dancing_script": ("DancingScript[wght].ttf",),
    "fontpkg_delius": ("Delius-Regular.ttf",),
    "fontpkg_great_vibes": ("GreatVibes-Regular.ttf",),
    "fontpkg_inconsolata": ("Inconsolata[wdth,wght].ttf",),
    "fontpkg_indie_flower": ("IndieFlower-Regular.ttf",),
    "fontpkg_josefin_sans": ("JosefinSans[wght].ttf", "JosefinSans-Italic[wght].ttf"),
    "fontpkg_kalam": ("Kalam-Light.ttf", "Kalam-Bold.ttf"),
    "fontpkg_lobster": ("Lobster-Regular.ttf",),
    "fontpkg_lobster_two": ("LobsterTwo-Italic.ttf",),
    "fontpkg_lora": ("Lora[wght].ttf", "Lora-Italic[wght].ttf"),
    "fontpkg_marcellus": ("Marcellus-Regular.ttf",),
    "fontpkg_montserrat": ("Montserrat[wght].ttf", "Montserrat-Italic[wght].ttf"),
    "fontpkg_oleo_script": ("OleoScript-Regular.ttf",),
    "fontpkg_oswald": ("Oswald[wght].ttf",),
    "fontpkg_pacifico": ("Pacifico-Regular.ttf",),
    "fontpkg_permanent_marker": ("PermanentMarker-Regular.ttf",),
    "fontpkg_playfair_display": ("PlayfairDisplay[wght].ttf", "PlayfairDisplay-Italic[wght].ttf"),
    "fontpkg_quicksand": ("Quicksand[wght].ttf",),
    "fontpkg_satisfy": ("Satisfy-Regular.ttf",),
    "fontpkg_shadows_into_light": ("ShadowsIntoLight.ttf",),
    "fontpkg_yellowtail": ("Yellowtail-Regular.ttf",),
    "fontpkg_zeyada": ("Zeyada.ttf",),
    "fontpkg_zilla_slab": ("ZillaSlab-Light.ttf", "ZillaSlab-SemiBoldItalic.ttf"),
}
MATPLOTLIB_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-BoldItalic.ttf",
    "DejaVuSansMono.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralItalic.ttf",
)
FONT_SUFFIXES = (".ttf", ".otf")
_CUT = re.compile(r"( (Thin|ExtraLight|Light|Medium|SemiBold|Bold|Black|Mono|Italic))+$")


@dataclass
class FontFile:
    """One font file: which characters it draws, and their outlines.

    Lengths are in x-heights of the font (the height of its letter x), y upwards, baseline 0.
    """

    path: Path
    _known: dict[str, bool] = field(default_factory=dict, repr=False)

    @cached_property
    def _face(self) -> Any:
        from matplotlib.ft2font import FT2Font

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # in memory: forked workers would share, and move, one position in an open file
                face = FT2Font(BytesIO(self.path.read_bytes()))
        except (RuntimeError, OSError) as error:
            cause = "it is damaged, or no font at all"
            if isinstance(error, OSError):
                cause = str(error.strerror or error)
            raise DataError(
                f"The font {self.path} cannot be read ({cause}): remove it or name another folder."
            ) from error
        face.set_size(100, 72)
        return face

    @property
    def family(self) -> str:
        """Family name, shared by all weights, widths and slants of one design."""
        return _CUT.sub("", str(self._face.family_name))

    @cached_property
    def _unit(self) -> float:
        vertices = self._raw_contours("x") if self.draws("x") else []
        height = max((float(contour[:, 1].max()) for contour in vertices), default=0.0)
        if height <= 0:
            raise DataError(
                f"The font {self.path} has no letter x to take its size from: remove it."
            )
        return height

    def draws(self, text: str) -> bool:
        """Whether the font has a glyph with ink for every character of `text` but the space."""
        return all(self._draws_char(c) for c in text)

    def _draws_char(self, char: str) -> bool:
        if char not in self._known:
            known = self._face.get_char_index(ord(char)) != 0
            self._known[char] = known and (char == " " or bool(self._raw_contours(char)))
        return self._known[char]

    def advance(self, char: str) -> float:
        """Horizontal distance to the next letter, in x-heights."""
        return float(self._load(char).linearHoriAdvance) / 65536 / self._unit

    def contours(self, char: str) -> list[Array]:
        """Closed contours of a glyph as polylines, curves flattened, in x-heights."""
        return [c / self._unit for c in self._raw_contours(char)]

    def _load(self, char: str) -> Any:
        from matplotlib.ft2font import LoadFlags

        try:
            return self._face.load_char(ord(char), LoadFlags.NO_HINTING)
        except RuntimeError as error:
            raise DataError(
                f"The font {self.path} has a damaged letter {char!r}: remove it."
            ) from error

    def _raw_contours(self, char: str) -> list[Array]:
        from matplotlib.path import Path as Outline

        self._load(char)
        vertices, codes = self._face.get_path()
        if len(vertices) == 0:
            return []
        polygons = Outline(vertices, codes).to_polygons(closed_only=True)
        contours = [np.asarray(polygon, dtype=float) for polygon in polygons]
        return [contour for contour in contours if len(contour) >= 4]


def bundled_fonts() -> list[FontFile]:
    """The fonts that come with `pip install 'rvsm[handwriting]'`."""
    import matplotlib

    paths = [Path(matplotlib.get_data_path(), "fonts", "ttf", name) for name in MATPLOTLIB_FONTS]
    for package, names in FONT_PACKAGES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        paths += [Path(spec.origin).parent / "files" / name for name in names]
    return [FontFile(path) for path in paths if path.is_file()]


def fonts_in(folders: Iterable[Path]) -> list[FontFile]:
    """All .ttf and .otf files below the folders, in sorted order.

    Raises
    ------
    DataError
        If a folder does not exist or holds no font.
    """
    found: list[FontFile] = []
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"no folder {folder}; --fonts takes a folder of .ttf or .otf files")
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in FONT_SUFFIXES)
        if not files:
            raise DataError(f"no .ttf or .otf file in {folder}; name a folder that holds fonts")
        found += [FontFile(path) for path in files]
    return found
