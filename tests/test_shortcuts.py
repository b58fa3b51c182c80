"""No short cut in what the generator makes: the check passes on it, and notices one planted there.

`benchmarks/shortcuts/run.py` does the same for both tasks and sets at the size of `make demo`.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from rvsm.handwriting.check import check
from rvsm.handwriting.datasets import make
from rvsm.handwriting.images import encode_png, read_grey
from rvsm.handwriting.manifest import read_manifest

COUNTS = {"train": 3000, "val": 0, "test-paper": 2000, "test-unseen": 0, "curve": 0}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", ["fonts", "pen"])
def test_a_linear_model_stays_at_chance_until_a_cue_is_planted(task: str, tmp_path: Path) -> None:
    make(tmp_path / "set", task=task, seed=2, counts=COUNTS)
    report = check(tmp_path / "set")
    assert [f for f in report.findings if f.level == "fault"] == []
    bands = [score.band_mm for score in report.linear]
    assert bands == [None, (0.4, 0.6), (0.6, 0.8), (0.8, 1.0), (1.0, 1.2)]
    whole, *banded = report.linear
    assert abs(whole.accuracy - 0.5) <= 0.05, whole
    for score in banded:  # of 500 images each: 2.2 % is the error of chance alone
        assert score.low <= 0.55, score
    for row in read_manifest(tmp_path / "set"):  # a pen one pixel wider is a short cut
        if row.label == "shaky":
            file = tmp_path / "set" / row.file
            wider = ndimage.grey_erosion(read_grey(file), size=(2, 2))
            file.write_bytes(encode_png(np.asarray(wider, dtype=np.uint8)))
    planted = check(tmp_path / "set")
    assert not planted.ok
    assert planted.linear[0].low > 0.55
