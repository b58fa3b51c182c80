"""rvsm.handwriting.words: real words are cleaned, measured, traced and shaken."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

import set_layouts
from published import DATA
from rvsm.errors import DataError
from rvsm.handwriting import datasets, tremor, wordfiles
from rvsm.handwriting.features import global_features
from rvsm.handwriting.images import encode_png
from rvsm.handwriting.manifest import read_manifest
from rvsm.handwriting.wordfiles import evened, ruled_lines, usable
from rvsm.handwriting.wordink import (
    Traced,
    close_cracks,
    parts_of_pixel,
    splat,
    trace,
    without_specks,
    x_height,
)
from rvsm.handwriting.words import Words, WordSampler, steadily

DHSD = DATA / "dhsd"
AS_WRITTEN = np.array([-0.25, -0.25])
"""Offset with which, at half of its twofold scale, a traced word lies where it was."""


def zigzag(small: int = 16, wave: int = 12, letters: int = 8) -> np.ndarray:
    """A row of letters like m, `small` pixels high, with one ascender."""
    image = Image.new("L", (256, 64), 255)
    draw = ImageDraw.Draw(image)
    points = [(20 + wave * i, 40 - (small if i % 2 else 0)) for i in range(2 * letters + 1)]
    draw.line(points, fill=40, width=3, joint="curve")
    draw.line([(20, 40), (20, 10)], fill=40, width=3)
    return np.asarray(image)


def folder(root: Path, writers: int = 12, words: int = 12) -> Path:
    rng = np.random.default_rng(0)
    lines = ["file_name,text,writer_id"]
    for writer in range(writers):
        (root / f"writer{writer}").mkdir(parents=True)
        for word in range(words):
            name = f"writer{writer}/{word}.png"
            image = zigzag(int(rng.integers(12, 18)), int(rng.integers(8, 13)))
            (root / name).write_bytes(encode_png(image))
            lines.append(f"{name},Ort {word},{writer}")
    (root / "data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def test_x_height_leaves_ascenders_out() -> None:
    for small in (10, 16, 22):
        assert x_height(zigzag(small) < 128) == pytest.approx(small + 1, abs=3)


def test_specks_and_bits_of_rules_go_and_dots_stay() -> None:
    ink = zigzag() < 128
    ink[14:17, 60:63] = True  # the dot of an i
    spoilt = ink.copy()
    spoilt[30:32, 240:242] = True  # a speck behind the word
    spoilt[3:6, 200:250] = True  # a bit of a rule above it
    np.testing.assert_array_equal(without_specks(spoilt), ink)
    np.testing.assert_array_equal(without_specks(ink), ink)
    apart = ink.copy()
    apart[:, 120:] = False
    apart[24:41, 200:204] = True  # a letter by itself
    np.testing.assert_array_equal(without_specks(apart), apart)
    thin = np.zeros_like(ink)
    for left in range(10, 200, 30):  # letters of less ink than a third of their height squared
        thin[20:38, left] = thin[20, left : left + 8] = True
    np.testing.assert_array_equal(without_specks(thin), thin)
    dots = np.zeros_like(ink)
    dots[30, 3:250:40] = True
    np.testing.assert_array_equal(without_specks(dots), dots)


def test_a_pen_that_runs_dry_is_black_to_the_end(tmp_path: Path) -> None:
    """And where there is no ink its paper does not become some."""
    faded = 255 - np.rint((255 - zigzag()) * np.linspace(1, 0.3, 256)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(encode_png(faded))
    found = wordfiles.clean(tmp_path / "a.png")
    assert found is not None
    assert ((zigzag() < 128) & ~found.ink).sum() < 10
    dark = np.where(zigzag() < 128, 0.8, 0.0)
    np.testing.assert_array_equal(evened(dark), dark > 0)
    dark[:, 230:] = 0.07
    assert evened(dark)[:, 230:].max() < 0.4
    assert not evened(np.zeros((64, 256))).any()


def test_small_letters_come_out_as_high_as_in_scans(tmp_path: Path) -> None:
    """2.5 mm at 8 pixels a mm, whatever the size of the image's writing, where there is room."""
    heights = []
    for small in (8, 12, 20):
        path = tmp_path / str(small)
        path.mkdir()
        image = zigzag(small, wave=7, letters=5).copy()
        image[: 38 - small] = 255  # no ascender, which might not fit
        (path / "a.png").write_bytes(encode_png(image))
        (path / "data.csv").write_text("file_name,text,writer_id\na.png,mmm,1\n")
        sampler = Words(path, as_written=True).sampler(["writer1"], ["mmm"])
        drawn = [
            x_height(
                sampler.sample(np.random.default_rng(i), shaky=False, amplitude_mm=0.5).image < 128
            )
            for i in range(20)
        ]
        heights.append(np.mean(drawn))
    assert heights == pytest.approx([20, 20, 20], abs=3)


def test_ruled_lines_go_and_writing_stays() -> None:
    ink = zigzag() < 128
    ruled = ink.copy()
    ruled[61:63, 30:200] = True  # a rule below
    ruled[5, 100:160] = True  # one above
    ruled[2:60, 250] = True  # a margin line
    np.testing.assert_array_equal(ruled & ~ruled_lines(ruled), ink)
    assert not ruled_lines(ink).any()
    short = zigzag(letters=4) < 128
    ruled = short.copy()
    ruled[20, 150:210] = True  # beside the writing, longer than any dash
    np.testing.assert_array_equal(ruled & ~ruled_lines(ruled), short)


def test_a_rule_that_touches_the_writing_goes_and_the_writing_stays() -> None:
    ink = zigzag() < 128
    ink[40:62, 60:63] = True  # the tail of a g
    for slope in (0, 1):
        ruled = ink.copy()
        columns = np.arange(10, 200)
        ruled[57 + slope * columns // 150, columns] = True
        ruled[57, 205:212] = True  # a piece of the same rule, broken off
        found = ruled & ~ruled_lines(ruled)
        assert (found != ink).sum() < 6
        np.testing.assert_array_equal(found[40:, 60:63], ink[40:, 60:63])


def test_low_writing_is_no_rule() -> None:
    joined = np.roll(zigzag(wave=8, letters=12) < 128, 18, axis=0)  # its baseline is row 58
    joined[56:60, 30:120] |= joined[57:61, 30:120]
    assert not ruled_lines(joined).any()


def test_a_word_that_does_not_move_stays_itself(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(zigzag()))
    traced = trace(tmp_path / "a.png")
    assert traced is not None
    still = splat(traced, np.zeros_like(traced.path), 0.5, AS_WRITTEN)
    was = np.where(zigzag() < 255, 0.0, 255.0)
    assert np.abs(still - was).mean() < 4, "edges are softer"
    assert (255 - still).sum() == pytest.approx((255 - was).sum(), rel=0.05)
    moved = splat(traced, np.full_like(traced.path, 6.0), 0.5, AS_WRITTEN)
    np.testing.assert_array_equal(moved[3:, 3:], still[:-3, :-3])


def test_a_word_is_drawn_larger_without_holes(tmp_path: Path) -> None:
    """1.6 is three times the image's own size, more than is asked for."""
    (tmp_path / "a.png").write_bytes(encode_png(zigzag(letters=3)))
    traced = trace(tmp_path / "a.png")
    assert traced is not None
    for scale in (0.3, 0.9, 1.3, 1.6):
        corner = np.array([-30.0 * scale, 60 - 82 * scale])
        drawn = splat(traced, np.zeros_like(traced.path), scale, corner)
        assert np.ptp(np.nonzero(drawn < 100)[1]) == pytest.approx(150 * scale, abs=6)
        assert drawn.min() < 10
        holes = ndimage.binary_fill_holes(drawn < 128) & ~(drawn < 128)
        assert holes.sum() in {0, *range(13, 400)}, "only the eyes of letters are holes"
        ink = ndimage.binary_erosion(drawn < 128)
        assert drawn[ink].max() < 100, "and strokes are solid"


def test_a_pencil_becomes_as_black_as_a_pen(tmp_path: Path) -> None:
    """Or writers would be told by what they wrote with."""
    images = []
    for share in (1, 3):
        (tmp_path / f"{share}.png").write_bytes(encode_png(255 - (255 - zigzag()) // share))
        traced = trace(tmp_path / f"{share}.png")
        assert traced is not None
        images.append(splat(traced, np.zeros_like(traced.path), 0.5, AS_WRITTEN))
    assert images[1].min() < 5
    assert np.abs(images[0].astype(int) - images[1]).mean() < 0.2


def plain_splat(
    traced: Traced, displacement: np.ndarray, scale: float, offset: np.ndarray
) -> np.ndarray:
    """Every part of every pixel by itself, on the whole of the fine grid."""
    left, top = traced.pixels.min(axis=0)
    shape = np.ptp(traced.pixels, axis=0)[::-1] + 1
    at = (traced.pixels[:, 1] - top, traced.pixels[:, 0] - left)
    known = np.zeros(shape)
    known[at] = 1.0
    weight = np.maximum(ndimage.gaussian_filter(known, 2.0, truncate=2.0), 1e-6)
    fields = np.zeros((2, *shape))
    for axis in (0, 1):
        fields[axis][at] = displacement[traced.nearest, axis]
        fields[axis] = ndimage.gaussian_filter(fields[axis], 2.0, truncate=2.0) / weight
    slopes = [[np.clip(s, -2, 2) for s in np.gradient(field)] for field in fields]
    fine = np.zeros((128, 512), dtype=np.float32)
    parts = parts_of_pixel(scale)
    steps = (np.arange(parts) + 0.5) / parts - 0.5
    for (column, row), dark in zip(traced.pixels, traced.darkness, strict=True):
        here = (row - top, column - left)
        for down in steps:
            for across in steps:
                x = column + fields[0][here] + (1 + slopes[0][1][here]) * across
                x += slopes[0][0][here] * down
                y = row + fields[1][here] + slopes[1][1][here] * across
                y += (1 + slopes[1][0][here]) * down
                place = [
                    round((value * scale + start + 0.5) * 2 - 0.5)
                    for value, start in zip((x, y), offset, strict=True)
                ]
                if 0 <= place[0] < 512 and 0 <= place[1] < 128:
                    fine[place[1], place[0]] = max(fine[place[1], place[0]], np.float32(dark))
    closed = ndimage.grey_closing(fine, size=(3, 3))
    return np.rint(255 * (1 - closed.reshape(64, 2, 256, 2).mean(axis=(1, 3))))


@pytest.mark.parametrize(("scale", "offset"), [(0.5, (0.0, 0.0)), (0.9, (-30.0, 9.0))])
def test_ink_is_moved_as_its_parts_one_by_one(
    tmp_path: Path, scale: float, offset: tuple[float, float]
) -> None:
    """But for a part that falls between two cells, which rounding may put into either."""
    (tmp_path / "a.png").write_bytes(encode_png(zigzag(letters=3)))
    traced = trace(tmp_path / "a.png")
    assert traced is not None
    rng = np.random.default_rng(0)
    displacement = ndimage.gaussian_filter1d(8 * rng.standard_normal(traced.path.shape), 3, axis=0)
    found = splat(traced, displacement, scale, np.array(offset))
    expected = plain_splat(traced, displacement, scale, np.array(offset))
    assert (found == expected).mean() > 0.999
    outside = splat(traced, displacement, scale, np.array([400.0, 0.0]))
    assert (outside == 255).all()


def test_cracks_are_closed_as_scipy_does() -> None:
    rng = np.random.default_rng(0)
    for shape in ((128, 512), (3, 3), (1, 7)):
        image = rng.random(shape, dtype=np.float32)
        np.testing.assert_array_equal(close_cracks(image), ndimage.grey_closing(image, size=(3, 3)))


def test_shaky_words_wander_as_far_as_they_should(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(zigzag()))
    (tmp_path / "data.csv").write_text("file_name,text,writer_id\na.png,mmm,1\n")
    sampler = Words(tmp_path).sampler(["writer1"], ["mmm"])
    for shaky in (False, True):
        first, second = (
            sampler.sample(np.random.default_rng(3), shaky=shaky, amplitude_mm=0.8)
            for _ in range(2)
        )
        np.testing.assert_array_equal(first.image, second.image)
        assert first.image.shape == (64, 256)
        assert first.carrier == "writer1"
        assert first.meta["tremor_amplitude_mm"] == (0.8 if shaky else 0.0)
    boxes = np.array(
        [
            global_features(
                sampler.sample(np.random.default_rng(i), shaky=i % 2 == 1, amplitude_mm=1.0).image
            )[1:5]
            for i in range(20)
        ]
    )
    assert boxes[:, :2].min() >= 1
    assert (boxes[:, 0] + boxes[:, 2]).max() <= 255
    assert (boxes[:, 1] + boxes[:, 3]).max() <= 63


def test_a_steady_hand_keeps_letters_whole() -> None:
    """Waves no taller than 0.3 mm; what the line does to a letter of 2.5 mm is to lift it."""
    t = np.linspace(0, 8, 800)
    across = np.linspace(0, 60, 800)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        moved = steadily(t, across, rng, 1.2, 14.0)
        assert tremor.rms(moved[:, :1]) <= 0.3
        letter = moved[:33]
        assert np.ptp(letter[:, 1]) < 1.6
        assert tremor.rms(moved) < 1.45
        np.testing.assert_array_equal(
            moved, steadily(t, across, np.random.default_rng(seed), 1.2, 14.0)
        )
    assert steadily(t[:0], across[:0], np.random.default_rng(0), 1.2, 14.0).shape == (0, 2)


def test_regular_words_of_pairs_are_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(zigzag()))
    (tmp_path / "data.csv").write_text("file_name,text,writer_id\na.png,mmm,1\n")
    written, moved = (
        Words(tmp_path, as_written=whole).sampler(["writer1"], ["mmm"]) for whole in (True, False)
    )
    inks = {}
    for name, sampler in (("written", written), ("moved", moved)):
        images = [
            sampler.sample(np.random.default_rng(i), shaky=False, amplitude_mm=1.2).image
            for i in range(12)
        ]
        inks[name] = np.mean([global_features(image)[4] for image in images])
    assert inks["moved"] > 1.05 * inks["written"], "a waving line makes a word taller"
    assert Words(tmp_path).identity() != Words(tmp_path, as_written=True).identity()


def test_splits_are_by_writer_and_by_word(tmp_path: Path) -> None:
    made = datasets.make(
        tmp_path / "set",
        words_dir=folder(tmp_path / "words"),
        counts={"train": 12, "val": 4, "test-paper": 4, "test-unseen": 4, "curve": 0},
        workers=1,
    )
    assert made.description["task"] == "words"
    rows = read_manifest(made.path)
    writers = {s: {r.carrier for r in rows if r.split == s} for s in ("train", "test-unseen")}
    assert not writers["train"] & writers["test-unseen"]
    texts = {s: {r.text for r in rows if r.split == s} for s in ("train", "test-paper")}
    assert not texts["train"] & texts["test-paper"]
    assert {r.carrier_kind for r in rows} == {"words"}


def test_pairs_are_of_one_word_in_one_place(tmp_path: Path) -> None:
    made = datasets.make(
        tmp_path / "set",
        words_dir=folder(tmp_path / "words"),
        counts=dict.fromkeys(datasets.COUNTS, 0) | {"test-unseen": 60},
        set="0.5-0.5",
        pairs=True,
        workers=1,
    )
    rows = read_manifest(made.path)
    regular, shaky = ([r for r in rows if r.label == label] for label in ("regular", "shaky"))
    assert len(regular) == len(shaky) == 30
    for one, other in zip(regular, shaky, strict=True):
        assert (one.text, one.carrier, one.speed_mm_s) == (
            other.text,
            other.carrier,
            other.speed_mm_s,
        )
        assert (one.tremor_amplitude_mm, other.tremor_amplitude_mm) == (0, pytest.approx(0.5))
        files = [(made.path / row.file).read_bytes() for row in (one, other)]
        assert files[0] != files[1]
    assert made.rendered == 2 * 50
    assert "30 regular + 30 shaky images, 2 fonts or writers; in pairs" in made.summary()[1]


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder of words"):
        Words(tmp_path / "absent").identity()
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="looks like none of the known layouts"):
        Words(tmp_path / "a").carriers()
    wordfiles.index.cache_clear()
    (tmp_path / "a" / "data.csv").write_text("file,text\nx,y\n")
    with pytest.raises(DataError, match="lacks the column file_name, writer_id"):
        Words(tmp_path / "a").carriers()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "data.csv").write_text("file_name,text,writer_id\nx.png,y,1\n")
    with pytest.raises(DataError, match="None of the images"):
        Words(tmp_path / "b").texts()
    with pytest.raises(DataError, match="No word image is left"):
        WordSampler([])
    (tmp_path / "b" / "x.png").write_bytes(encode_png(np.full((64, 256), 255, dtype=np.uint8)))
    blank = Words(tmp_path / "b")
    wordfiles.index.cache_clear()
    with pytest.raises(DataError, match=r"None of the 1 images .*without writing, x\.png first"):
        blank.texts()
    with pytest.raises(DataError, match="can be traced"):
        blank.sampler(["writer1"], ["y"]).sample(
            np.random.default_rng(0), shaky=True, amplitude_mm=0.5
        )


def test_images_that_cannot_be_used_are_counted_and_named(tmp_path: Path) -> None:
    """A third overwritten with junk, a third deleted, as an interrupted download leaves it."""
    words = folder(tmp_path / "words", words=30)
    images = sorted(words.rglob("*.png"))
    order = np.random.default_rng(0).permutation(len(images))
    junk, gone = (sorted(images[i] for i in part) for part in (order[:120], order[120:240]))
    for image in junk:
        image.write_bytes(b"junk")
    for image in gone:
        image.unlink()
    (words / "data.csv").write_text((words / "data.csv").read_text() + "nameless.png,,3\n")
    counts = {"train": 12, "val": 4, "test-paper": 4, "test-unseen": 4, "curve": 0}
    made = datasets.make(tmp_path / "set", words_dir=words, counts=counts, workers=1)
    skipped = json.loads((made.path / "dataset.json").read_text())["skipped"]
    named = {kind: sorted(names) for kind, names in skipped.items()}
    assert named == {
        "incomplete lines": ["line 362"],
        "missing images": [str(p.relative_to(words)) for p in gone],
        "unreadable images": [str(p.relative_to(words)) for p in junk],
    }
    told = "\n".join(made.summary())
    assert f"120 missing images skipped: {next(iter(skipped['missing images']))}, " in told
    assert "120 unreadable images skipped" in told
    assert f"(the first: {next(iter(skipped['unreadable images']))} is not an image" in told
    with pytest.raises(DataError, match="leave out --words, or --fonts"):
        datasets.make(tmp_path / "b", words_dir=words, font_dirs=["/none"], workers=1)


FEW = {"train": 12, "val": 4, "test-paper": 4, "test-unseen": 4, "curve": 0}


def test_any_layout_of_words(tmp_path: Path) -> None:
    """A list in CSV draws what data.csv draws, to the bit; class folders tell writers by name."""
    words = folder(tmp_path / "words")
    made = datasets.make(tmp_path / "dhsd", words_dir=words, counts=FEW, workers=1)
    lines = (words / "data.csv").read_text().splitlines()[1:]
    words = words.rename(tmp_path / "list")  # what a folder lists is remembered
    (words / "data.csv").unlink()
    table = ["file,text,person", *(re.sub(r",(\d+)$", r",writer\1", line) for line in lines)]
    (words / "list.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    listed = datasets.make(tmp_path / "csv", words_dir=words, counts=FEW, workers=1)
    rows = read_manifest(made.path)
    assert read_manifest(listed.path) == rows
    for row in rows:
        assert (made.path / row.file).read_bytes() == (listed.path / row.file).read_bytes()

    words = words.rename(tmp_path / "folders")
    (words / "list.csv").unlink()
    (words / "patients").mkdir()
    (words / "writer0").rename(words / "patients" / "writer0")
    (words / "healthy").mkdir()
    for writer in range(1, 12):
        (words / f"writer{writer}").rename(words / "healthy" / f"writer{writer}")
    with pytest.raises(
        DataError, match=r"by known writers \(132 images of nobody.* --person REGEX"
    ):
        Words(words).texts()
    by_name = datasets.make(
        tmp_path / "named", words_dir=words, person=r"(writer\d+)/", counts=FEW, workers=1
    )
    found = read_manifest(by_name.path)
    assert {row.carrier for row in found} <= {f"writer{number}" for number in range(1, 12)}
    assert {row.text for row in found} <= {str(number) for number in range(1, 13)}
    assert len(by_name.description["skipped"]["shaky images"]) == 12
    with pytest.raises(DataError, match="another options"):
        datasets.make(by_name.path, words_dir=words, person=r"(r\d+)/", counts=FEW, workers=1)
    with pytest.raises(DataError, match="finds the writers of --words"):
        datasets.make(tmp_path / "pen", task="pen", person="(p)", workers=1)


def test_sets_without_images_of_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no image files"):
        Words(set_layouts.uci_spirals(tmp_path / "uci")).texts()
    with pytest.raises(DataError, match="its task is spiral, not word"):
        Words(set_layouts.parkinsons_drawings(tmp_path / "drawings")).texts()


def test_a_writer_without_usable_images_is_nobody(tmp_path: Path) -> None:
    words = folder(tmp_path / "words")
    for image in (words / "writer3").iterdir():
        image.write_bytes(b"junk")
    source = Words(words)
    assert "writer3" not in [c.name for c in source.carriers()]
    assert not source.draws("writer3", source.texts())
    assert source.draws("writer4", ["Ort 2"])
    assert not source.draws("writer4", ["Ort 99"])
    assert len(usable(words).words) == 132


@pytest.mark.skipif(
    not DHSD.is_dir(),
    reason=f"the DHSD words are not at {DHSD} (set RVSM_DATA to the folder above)",
)
def test_real_words() -> None:
    source = Words(DHSD)
    assert len(source.carriers()) == 30
    writers = [c.name for c in source.carriers()][:2]
    sampler = source.sampler(writers, source.texts())
    rng = np.random.default_rng(0)
    for shaky in (False, True) * 3:
        features = global_features(sampler.sample(rng, shaky=shaky, amplitude_mm=0.8).image)
        assert 0.002 < features[0] < 0.3
        assert features[3] > 40
