"""rvsm.handwriting.scans: one drawing in every guise gives one image, without paper and print."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

import set_layouts
from published import DATA
from rvsm.errors import DataError
from rvsm.handwriting.images import fit, read_grey, read_picture
from rvsm.handwriting.readers import read
from rvsm.handwriting.scans.normalise import Normalised, normalise, scale_of, to_network
from rvsm.handwriting.scans.paper import darkness, ink_mask, light_on_dark
from rvsm.handwriting.scans.sets import images_of, isolations
from rvsm.handwriting.scans.sheet import Tile, contact_sheet, sheet_of
from rvsm.handwriting.scans.skew import skew_deg, turned
from rvsm.handwriting.scans.template import (
    Template,
    pen_by_colour,
    read_template,
    template_of,
    without_template,
)
from rvsm.handwriting.scans.verdict import judge
from scan_pages import make_page, word_images
from set_layouts import drawing, over_template, ruled_word


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks, a pixel of slack allowed."""
    both = (a & ndimage.binary_dilation(b)).sum() + (b & ndimage.binary_dilation(a)).sum()
    return float(both / (a.sum() + b.sum()))


def shape_of(found: Normalised) -> np.ndarray:
    return fit(found.grey, (96, 96)) < 128


def guises() -> dict[str, Image.Image]:
    plain = drawing(3, "L", (240, 200))
    values = np.asarray(plain, dtype=np.float64)
    ink = 255 - values
    clear = Image.new("RGBA", plain.size, (60, 40, 30, 0))
    clear.putalpha(Image.fromarray(np.where(ink > 60, 255, 0).astype(np.uint8)))
    down = np.linspace(1.0, 0.45, values.shape[0])[:, None]
    margin = Image.new("L", (400, 500), 235)
    margin.paste(plain, (90, 210))
    tint = np.clip(values[..., None] * np.array([1.0, 0.93, 0.72]), 0, 255).astype(np.uint8)
    return {
        "RGB": plain.convert("RGB"),
        "RGBA": plain.convert("RGBA"),
        "palette": plain.convert("P"),
        "LA": plain.convert("LA"),
        "CMYK": plain.convert("RGB").convert("CMYK"),
        "16 bits": Image.fromarray((values * 257).astype(np.uint16)),
        "transparent": clear,
        "twice the size": plain.resize((480, 400), Image.Resampling.BICUBIC),
        "yellow paper": Image.fromarray(tint),
        "shadow": Image.fromarray((values * down).astype(np.uint8)),
        "faint": Image.fromarray((235 - 0.35 * (235 - values)).astype(np.uint8)),
        "chalk on slate": Image.fromarray((70 + 0.9 * ink).astype(np.uint8)),
        "wide margins": margin,
    }


@pytest.mark.parametrize("guise", guises())
def test_every_guise_gives_one_image(guise: str) -> None:
    reference = normalise(drawing(3, "L", (240, 200)))
    found = normalise(guises()[guise])
    assert found.inverted == (guise == "chalk on slate")
    assert not found.isolated
    assert alike(shape_of(reference), shape_of(found)) > 0.93
    assert found.grey[found.ink].mean() < 90
    assert (found.grey[~ndimage.binary_dilation(found.ink, iterations=2)] == 255).all()
    assert judge(found).writing


def test_no_mode_is_left_to_tell_the_class(tmp_path: Path) -> None:
    """The trap of parkinsons-drawings: the same picture as RGBA and as RGB, to the bit."""
    picture = drawing(5)
    picture.save(tmp_path / "a.png")
    picture.convert("RGBA").save(tmp_path / "b.png")
    a, b = (normalise(read_picture(tmp_path / name)) for name in ("a.png", "b.png"))
    np.testing.assert_array_equal(a.grey, b.grey)


def test_rotation_tag(tmp_path: Path) -> None:
    picture = ruled_word(4, rule=None)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    turned_picture = picture.transpose(Image.Transpose.ROTATE_90)
    straight = normalise(picture)
    for name, how in (("a.tif", "raw"), ("b.tif", "tiff_deflate"), ("c.png", None)):
        turned_picture.save(tmp_path / name, exif=exif, **({"compression": how} if how else {}))
        found = normalise(read_picture(tmp_path / name))
        np.testing.assert_array_equal(found.ink, straight.ink)
        np.testing.assert_array_equal(read_grey(tmp_path / name), np.asarray(picture))


def test_ruled_line_is_taken_away_though_darker_than_the_pen() -> None:
    for seed in range(5):
        ruled = normalise(ruled_word(seed), rules=True)
        plain = normalise(ruled_word(seed, rule=None), rules=True)
        assert ruled.box == plain.box
        assert alike(ruled.ink, plain.ink) > 0.97
    assert normalise(ruled_word(0)).box[3] == 64


@settings(deadline=None, max_examples=20)
@given(st.floats(-12, 12))
def test_skew_is_found(angle: float) -> None:
    level = np.full((300, 500), 255, dtype=np.uint8)
    rng = np.random.default_rng(0)
    for top in range(60, 260, 40):
        for left in range(60, 440, 14):
            level[top - rng.integers(0, 9) : top + 10, left : left + 3] = 0
            level[top + 8 : top + 10, left : left + 9] = 0
    picture = Image.fromarray(level).rotate(angle, Image.Resampling.BICUBIC, True, fillcolor=255)
    grey = np.asarray(picture)
    found = skew_deg(grey < 128)
    assert found == pytest.approx(angle, abs=0.3)
    back = skew_deg(turned(grey, found) < 128)
    assert abs(back) < 0.3


def test_nothing_to_turn() -> None:
    assert skew_deg(np.zeros((40, 40), dtype=np.bool_)) == 0.0
    grey = np.full((10, 10), 7, dtype=np.uint8)
    assert turned(grey, 0.0) is grey


@pytest.mark.parametrize("level", [90, 128, 200, 255])
def test_dark_on_any_light_paper(level: int) -> None:
    picture = np.asarray(drawing(7, "L"), dtype=np.float64) * level / 255
    assert not light_on_dark(picture.astype(np.uint8))


def test_darkness_follows_the_paper() -> None:
    paper = np.linspace(100, 250, 300)[None, :] * np.ones((200, 1))
    paper[80:84, 20:280] *= 0.4
    dark, inverted = darkness(paper.astype(np.uint8))
    assert not inverted
    assert np.abs(dark[81:83, 30:270] - 0.6).max() < 0.06
    assert dark[:60].max() < 0.06
    np.testing.assert_array_equal(ink_mask(dark)[80:84, 40:260], True)
    assert not ink_mask(dark)[:70].any()


def test_pen_by_colour() -> None:
    for seed in range(3):
        both, alone = over_template(seed)
        found = normalise(both, crop=False)
        assert found.isolated
        pen = np.asarray(alone.convert("L")) < 150
        assert alike(found.ink, pen) > 0.95
        print_only = (np.asarray(both.convert("L")) < 60) & ~ndimage.binary_dilation(pen)
        assert found.ink[print_only].mean() < 0.05


def test_pen_by_colour_in_a_lossy_file(tmp_path: Path) -> None:
    both, alone = over_template(8)
    both.save(tmp_path / "a.jpg", quality=80)
    found = normalise(read_picture(tmp_path / "a.jpg"), crop=False)
    assert found.isolated
    assert alike(found.ink, np.asarray(alone.convert("L")) < 150) > 0.9


def test_one_colour_is_no_template() -> None:
    blue = over_template(1)[1]
    assert pen_by_colour(blue) is None
    assert not normalise(blue).isolated
    black = over_template(1, pen=(20, 20, 20))[0]
    assert pen_by_colour(black) is None
    assert pen_by_colour(black.convert("L")) is None
    with pytest.raises(DataError, match="no pen in another colour"):
        normalise(black, isolate="colour")


def test_pen_by_registration() -> None:
    """Five people in black on one black form, scanned up to 4 pixels apart."""
    rng = np.random.default_rng(0)
    drawings, pens, people = [], [], []
    for person in range(5):
        for _ in range(2):
            shift = tuple(rng.integers(-4, 5, 2).tolist())
            both, alone = over_template(len(people) + 20, (20, 20, 20), shift)
            drawings.append(darkness(np.asarray(both.convert("L")))[0])
            pens.append(np.asarray(alone.convert("L")) < 150)
            people.append(f"P{person}")
    template = template_of(drawings, people)
    for drawn, pen in zip(drawings, pens, strict=True):
        found = without_template(drawn, template)
        ink = found > 0.3
        print_only = ink_mask(drawn) & ~ndimage.binary_dilation(pen, iterations=2)
        assert ink[print_only].mean() < 0.02
        assert (ink & pen).sum() > 0.75 * pen.sum()
        assert (ink & ndimage.binary_dilation(pen, iterations=2)).sum() > 0.98 * ink.sum()


def test_registration_needs_people_and_one_size() -> None:
    one = np.zeros((40, 40))
    with pytest.raises(DataError, match="there are 2 people: give at least 3"):
        template_of([one, one, one], ["a", "b", "b"])
    with pytest.raises(DataError, match="different sizes"):
        template_of([one, one, np.zeros((40, 41))], ["a", "b", "c"])
    template = template_of([one, one, one], ["a", "b", "c"])
    with pytest.raises(DataError, match="is 41x40 pixels, the template 40x40"):
        without_template(np.zeros((40, 41)), template)


def test_a_scan_of_the_empty_form_is_a_template(tmp_path: Path) -> None:
    """As one that was found: shadowed and grainy it takes no less away, and little of the pen."""
    rng = np.random.default_rng(1)
    sheet = Image.new("L", (300, 300), 245)
    ImageDraw.Draw(sheet).line([tuple(p) for p in set_layouts.template()], fill=30, width=3)
    grain = rng.normal(0, 3, (300, 300)) - np.linspace(0, 40, 300)
    Image.fromarray(np.uint8(np.clip(np.asarray(sheet) + grain, 0, 255))).save(tmp_path / "a.png")
    template = read_template(tmp_path / "a.png")
    for shift in ((0, 0), (3, -4)):
        both, alone = over_template(20, (20, 20, 20), shift)
        pen = np.asarray(alone.convert("L")) < 150
        ink = normalise(both, isolate=template, crop=False).ink
        print_only = normalise(both, crop=False).ink & ~ndimage.binary_dilation(pen, iterations=2)
        assert ink[print_only].mean() < 0.02
        assert (ink & pen).sum() > 0.75 * pen.sum()


def test_a_template_that_was_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    """Solid print too, which would pass for a shadow in a scan."""
    printed = np.zeros((90, 120), dtype=bool)
    printed[20:70, 10:70] = printed[5, 5] = True
    kept = Template(printed)
    (tmp_path / "a.png").write_bytes(kept.png())
    again = read_template(tmp_path / "a.png")
    np.testing.assert_array_equal(again.printed, printed)
    assert again.digest == kept.digest != Template(~printed).digest
    Image.new("L", (90, 60), 240).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b.png shows no print: give a scan of the empty form"):
        read_template(tmp_path / "b.png")


def test_a_set_on_black_forms(tmp_path: Path) -> None:
    """Registration is a step of the whole set; a scan of another size is skipped, and says why."""
    root = set_layouts.black_forms(tmp_path)
    collection = read(root, person=r"/(p\d)")
    plain, alone = (
        images_of(collection, (300, 300), isolate=how).images < 128
        for how in ("auto", "registration")
    )
    assert (alone.sum(axis=(1, 2)) < 0.7 * plain.sum(axis=(1, 2))).all()
    wanted = [
        normalise(over_template(person + 20, (20, 20, 20))[1]).ink.sum()
        for person in (0, 2, 4, 1, 3, 5)
    ]
    kept = [
        normalise(collection.picture(row), isolate=pen).ink.sum() / count
        for row, count in zip(collection.rows, wanted, strict=True)
        for pen in isolations(collection, "registration").values()
    ]
    assert 0.7 < min(kept) <= max(kept) < 1.1
    before, after = (
        np.asarray(sheet_of(collection, isolate=how)) for how in ("none", "registration")
    )
    assert (after.sum(axis=2) < 200).sum() < 0.9 * (before.sum(axis=2) < 200).sum()
    Image.new("L", (200, 300), 250).save(root / "healthy" / "p6.png")
    with pytest.raises(DataError, match="different sizes"):
        images_of(read(root, person=r"/(p\d)"), isolate="registration")
    (root / "healthy" / "p6.png").rename(root / "healthy" / "p4_2.png")
    by_person = read(root, person=r"/(p\d)")
    last = by_person.rows[-1]
    template = isolations(by_person.chosen(lambda row: "_2" not in row.file), "registration")
    with pytest.raises(DataError, match="is 200x300 pixels"):
        normalise(
            by_person.picture(next(row for row in by_person.rows if "_2" in row.file)),
            isolate=template[last.task],
        )
    with pytest.raises(DataError, match="there are 0 people"):
        isolations(read(root), "registration")


def test_scale() -> None:
    picture = Image.new("L", (10, 10))
    assert scale_of(picture) is None
    for dpi, scale in ((300, 300 / 25.4), (72, None), (96, None), (0, None), (float("nan"), None)):
        picture.info["dpi"] = (dpi, dpi)
        assert scale_of(picture) == (None if scale is None else pytest.approx(scale))


def test_network_scale() -> None:
    """A word comes to 8 pixels a mm by the file's scale, or to 20-pixel letters by theirs."""
    found = normalise(ruled_word(2, rule=None), pixels_per_mm=16.0)
    half = to_network(found)
    assert half.shape == (64, 256)
    tall = np.ptp(np.nonzero((half < 200).any(axis=1))[0]) + 1
    assert tall == pytest.approx(np.ptp(np.nonzero(found.ink.any(axis=1))[0]) / 2, abs=2)
    unknown = normalise(ruled_word(2, rule=None))
    assert unknown.pixels_per_mm is None
    assert np.array_equal(to_network(unknown, x_height=40.0), half)
    large = normalise(ruled_word(2, rule=None).resize((1024, 256)), pixels_per_mm=8.0)
    assert (to_network(large)[:, [0, -1]] > 128).all()


PHOTOS = ("camera", "astronaut", "coffee", "chelsea", "grass", "gravel", "horse")


def ground(name: str) -> Image.Image:
    rng = np.random.default_rng(1)
    shape = (300, 400)
    values = {
        "white": np.full(shape, 255.0),
        "paper": rng.normal(220, 6, shape),
        "shadow": np.linspace(100, 250, 400)[None, :] * np.ones((300, 1)) + rng.normal(0, 2, shape),
        "grain": rng.normal(128, 40, shape),
        "random": rng.integers(0, 256, shape).astype(float),
        "half": 255.0 * (rng.random((64, 256)) > 0.5),
        "specks": 255.0 * (ndimage.uniform_filter(rng.random(shape), 3) > 0.25),
        "black": np.zeros(shape),
    }
    return Image.fromarray(np.clip(values[name], 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "name", ["white", "paper", "shadow", "grain", "random", "half", "specks", "black"]
)
def test_no_writing_on_grounds(name: str) -> None:
    verdict = judge(normalise(ground(name)))
    assert not verdict.writing, verdict
    assert verdict.reason


@pytest.mark.parametrize("name", PHOTOS)
def test_no_writing_on_photographs(name: str) -> None:
    import skimage.data

    values = np.asarray(getattr(skimage.data, name)())
    picture = Image.fromarray((values * (255 if values.dtype == bool else 1)).astype(np.uint8))
    verdict = judge(normalise(picture))
    assert not verdict.writing, verdict


def test_writing_is_writing() -> None:
    rng = np.random.default_rng(2)
    for task in ("pen", "fonts"):
        for word in word_images(rng, task, 10):
            page = Image.fromarray(np.pad(word, 12, constant_values=255))
            assert judge(normalise(page)).writing
    assert judge(
        normalise(make_page(rng, tint=(250, 240, 200), noise=4, shadow=0.3).picture)
    ).writing


@pytest.mark.parametrize("name", ["parkinsons-drawings", "uci-pd-spirals", "dhsd"])
def test_real_writing_is_writing(name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"the set {name} is not at {DATA / name} (set RVSM_DATA to the folder above)")
    collection = read(DATA / name)
    word = name == "dhsd"
    chosen = np.random.default_rng(3).permutation(len(collection.rows))[:60]
    refused = []
    for index in chosen.tolist():
        row = collection.rows[index]
        verdict = judge(normalise(collection.picture(row), deskew=word, rules=word))
        if not verdict.writing:
            refused.append((row.file, verdict))
    assert len(refused) <= 1, refused


def test_real_ruled_lines_are_gone() -> None:
    """Hardly a DHSD word keeps a line along its lower edge; before, one in fifteen has one."""
    if not (DATA / "dhsd").is_dir():
        pytest.skip(f"DHSD is not at {DATA / 'dhsd'} (set RVSM_DATA to the folder above)")
    collection = read(DATA / "dhsd")
    chosen = np.random.default_rng(4).permutation(len(collection.rows))[:200]
    pictures = [collection.picture(collection.rows[index]) for index in chosen.tolist()]

    def ruled(found: Normalised) -> bool:
        return bool((found.ink[-6:].sum(axis=1) > 40).any())

    before = sum(ruled(normalise(picture, crop=False)) for picture in pictures)
    after = sum(ruled(normalise(picture, crop=False, rules=True)) for picture in pictures)
    assert before >= 10
    assert after <= before // 10


def test_images_of_a_set(tmp_path: Path) -> None:
    collection = read(set_layouts.parkinsons_drawings(tmp_path))
    (tmp_path / collection.rows[2].file).write_text("eggs")
    loaded = images_of(collection, size=(48, 64))
    assert loaded.images.shape == (35, 48, 64)
    assert loaded.rows == tuple(row for i, row in enumerate(collection.rows) if i != 2)
    assert [row.file for row in loaded.skipped] == [collection.rows[2].file]
    assert "is not an image" in loaded.skipped[0].error
    assert (loaded.images.min(axis=(1, 2)) < 60).all()
    with pytest.raises(DataError, match="it has no rows"):
        images_of(collection.chosen(lambda row: False))


def test_contact_sheet(tmp_path: Path) -> None:
    collection = read(set_layouts.parkinsons_drawings(tmp_path))
    (tmp_path / collection.rows[1].file).write_text("eggs")
    told: list[tuple[int, int]] = []
    sheet = sheet_of(collection, count=36, progress=lambda *step: told.append(step))
    assert told[-1] == (36, 36)
    assert sheet.mode == "RGB"
    assert sheet.size == (4 * 332 + 6, 9 * 180 + 6)
    small = contact_sheet([Tile(None, None, "nothing")], columns=2)
    assert len(set(np.asarray(small).reshape(-1, 3).sum(axis=1).tolist())) > 1
