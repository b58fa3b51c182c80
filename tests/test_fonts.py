"""rvsm.handwriting.fonts: which fonts there are, what they draw, and in which unit."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from rvsm.errors import DataError
from rvsm.handwriting.fonts import FontFile, bundled_fonts, fonts_in


@pytest.fixture(scope="module")
def bundled() -> dict[str, FontFile]:
    return {font.path.stem: font for font in bundled_fonts()}


def write_font(path: Path, letters: str, *, top: int = 500, ink: bool = True) -> None:
    """A font in which every letter is a triangle that reaches from 0 (or below) to `top`."""
    pen = TTGlyphPen(None)
    foot = min(0, top - 100)
    if ink:
        pen.moveTo((0, foot))
        pen.lineTo((250, top))
        pen.lineTo((500, foot))
        pen.closePath()
    names = [f"letter{ord(letter)}" for letter in letters]
    empty, drawn = TTGlyphPen(None).glyph(), pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap(dict(zip(map(ord, letters), names, strict=True)))
    builder.setupGlyf({".notdef": empty, **dict.fromkeys(names, drawn)})
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names], (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Triangles Bold", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def test_at_least_25_families_come_with_pip(bundled: dict[str, FontFile]) -> None:
    assert len({font.family for font in bundled.values()}) >= 37  # 25, 4 and 8
    assert len(bundled) == len(bundled_fonts())


def test_family_names_group_weights_and_slants(bundled: dict[str, FontFile]) -> None:
    families: dict[str, set[str]] = defaultdict(set)
    for stem, font in bundled.items():
        families[font.family].add(stem.split("-")[0].split("[")[0])
    assert bundled["Roboto-Thin"].family == bundled["Roboto-BoldItalic"].family == "Roboto"
    assert bundled["Kalam-Light"].family == bundled["Kalam-Bold"].family
    joined = {stem for stems in families.values() if len(stems) > 1 for stem in stems}
    assert joined == {"DejaVuSans", "DejaVuSansMono", "STIXGeneral", "STIXGeneralItalic"}
    assert sum(map(len, families.values())) == len(families) + 2  # no design is two families


def test_no_family_dominates(bundled: dict[str, FontFile]) -> None:
    cuts = Counter(font.family for font in bundled.values())
    assert max(cuts.values()) <= 4


def test_coverage(bundled: dict[str, FontFile]) -> None:
    assert bundled["DejaVuSans"].draws("Übermaß und Anmut")
    assert not bundled["DejaVuSans"].draws("字")
    assert not bundled["DejaVuSans"].draws("word字")
    assert all(font.draws("Hamburgefonstiv") for font in bundled.values())


def test_a_glyph_without_ink_is_not_drawn(tmp_path: Path) -> None:
    write_font(tmp_path / "empty.ttf", "ax", ink=False)
    font = FontFile(tmp_path / "empty.ttf")
    assert not font.draws("a")
    assert font.draws("")


def test_lengths_are_in_heights_of_x(bundled: dict[str, FontFile]) -> None:
    for font in bundled.values():
        x, h = (np.concatenate(font.contours(letter)) for letter in "xh")
        assert x[:, 1].max() == pytest.approx(1)
        assert abs(x[:, 1].min()) < 0.35
        assert 1 < h[:, 1].max() < 3.5
        assert 0.2 < font.advance("x") < 1.9


def test_advances_of_one_letter_do_not_depend_on_another(bundled: dict[str, FontFile]) -> None:
    path = bundled["DejaVuSans"].path
    fresh, used = FontFile(path), FontFile(path)
    used.contours("M")
    assert fresh.advance("i") == used.advance("i")
    assert used.advance("M") > 2 * used.advance("i")


def test_holes_run_against_their_rims(bundled: dict[str, FontFile]) -> None:
    def area(contour: np.ndarray) -> float:
        x, y = contour.T
        return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)

    contours = bundled["DejaVuSans"].contours("o")
    assert len(contours) == 2
    rim, hole = sorted(map(area, contours), key=abs, reverse=True)
    assert rim * hole < 0
    for contour in contours:
        np.testing.assert_array_equal(contour[0], contour[-1])


def test_a_font_made_to_measure(tmp_path: Path) -> None:
    write_font(tmp_path / "Triangles.ttf", "ax", top=400)
    (font,) = fonts_in([tmp_path])
    assert font.family == "Triangles"
    assert font.advance("a") == pytest.approx(600 / 400, abs=1e-4)
    (contour,) = font.contours("a")
    np.testing.assert_allclose(contour.max(axis=0), [500 / 400, 1])


def test_a_file_that_is_no_font(tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"this is no font")
    (font,) = fonts_in([tmp_path])
    with pytest.raises(DataError, match=r"broken\.ttf cannot be read .*: remove it") as told:
        font.draws("a")
    assert "FT_" not in str(told.value)


def test_a_font_cut_short(tmp_path: Path, bundled: dict[str, FontFile]) -> None:
    whole = bundled["DejaVuSans"].path.read_bytes()
    for kept in range(len(whole) // 20, len(whole), len(whole) // 20):
        (tmp_path / "cut.ttf").write_bytes(whole[:kept])
        font = FontFile(tmp_path / "cut.ttf")
        try:
            font.draws("Word")
        except DataError as error:
            assert "cut.ttf" in str(error)  # noqa: PT017 - some cuts leave the letters whole
            break
    else:
        pytest.fail("no cut was noticed")


@pytest.mark.parametrize(("letters", "top"), [("ab", 500), ("axb", -50)])
def test_a_font_without_an_x_to_take_its_size_from(tmp_path: Path, letters: str, top: int) -> None:
    write_font(tmp_path / "odd.ttf", letters, top=top)
    font = FontFile(tmp_path / "odd.ttf")
    with pytest.raises(DataError, match=r"odd\.ttf has no letter x"):
        font.contours("a")


def test_fonts_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.ttf", "a.OTF", "deep/c.otf", "readme.txt"):
        (tmp_path / name).write_bytes(b"")
    found = fonts_in([tmp_path])
    assert [font.path.name for font in found] == ["a.OTF", "b.ttf", "c.otf"]
    assert fonts_in([]) == []


def test_folders_that_hold_no_font(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*absent; --fonts takes"):
        fonts_in([tmp_path / "absent"])
    with pytest.raises(DataError, match=r"no \.ttf or \.otf file in"):
        fonts_in([tmp_path])
