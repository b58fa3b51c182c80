"""rvsm.handwriting.omniglot: the zip layout of the publishers, and what is not of it."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from published import DATA
from rvsm.errors import DataError
from rvsm.handwriting.omniglot import read_omniglot

REAL = DATA / "omniglot-strokes"
LETTER = "START\n10.0,-20.0,0\n10.0,-60.0,240\nBREAK\n30.0,-20.0,400\n30,-60,520\nBREAK\n"


def archive(root: Path, content: str = LETTER, alphabet: str = "Latin") -> Path:
    path = root / "strokes_background_small1.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("strokes_background_small1/", "")
        out.writestr("strokes_background_small1/.DS_Store", "\0")
        for person in (1, 2):
            for number in range(1, 27):
                name = f"character{number:02d}/{682 + number:04d}_{person:02d}.txt"
                out.writestr(f"strokes_background_small1/{alphabet}/{name}", content)
    return path


def test_zip_folder_of_zips_and_unpacked_folder_agree(tmp_path: Path) -> None:
    path = archive(tmp_path)
    with zipfile.ZipFile(path) as zipped:
        zipped.extractall(tmp_path / "unpacked")
    found = [read_omniglot(p) for p in (path, tmp_path, tmp_path / "unpacked")]
    for carriers in found:
        assert [c.name for c in carriers] == ["omniglot-01", "omniglot-02"]
        assert carriers[0].kind == "recorded"
        assert carriers[0].draws("quick brown fox")
        assert not carriers[0].draws("Straße")
        strokes = carriers[0].letters["b"].strokes
        assert len(strokes) == 2
        np.testing.assert_allclose(strokes[0][[0, -1], 1], [1.75, 0.0], atol=1e-9)
        np.testing.assert_array_equal(strokes[0], found[0][0].letters["b"].strokes[0])


def test_what_is_not_omniglot(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        read_omniglot(tmp_path / "absent")
    with pytest.raises(DataError, match="no Latin strokes"):
        read_omniglot(archive(tmp_path, alphabet="Greek"))
    with pytest.raises(DataError, match="where x,y,t should be"):
        read_omniglot(archive(tmp_path, content="START\nten,twenty,0\nBREAK\n"))
    path = archive(tmp_path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match="not a sound zip file"):
        read_omniglot(path)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the Omniglot strokes are not at {REAL}")
def test_the_published_files() -> None:
    carriers = read_omniglot(REAL)
    assert len(carriers) == 20
    for carrier in carriers:
        assert carrier.draws("abcdefghijklmnopqrstuvwxyz")
        heights = [max(s[:, 1].max() for s in carrier.letters[c].strokes) for c in "oxl"]
        np.testing.assert_allclose(heights, [1.0, 1.0, 1.75], atol=0.1)
