"""A few images of a split, read at once: to look at a network, not to score it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rvsm.errors import DataError
from rvsm.experiments.data import read_rows, reduce_image, to_float, usable_rows
from rvsm.handwriting.description import whole_size
from rvsm.handwriting.images import read_grey


def some_images(folder: Path, split: str, size: tuple[int, int], most: int = 200) -> Tensor:
    """Return images spread evenly over a split; those that cannot be read are left out.

    Parameters
    ----------
    folder
        Data folder, with or without a manifest. Nothing is written there.
    split
        Such as ``val``.
    size
        Rows and columns, a whole fraction of those of the images.
    most
        At most so many images.

    Returns
    -------
    Tensor
        float ``(N, 1, H, W)``, ink = 1.

    Raises
    ------
    DataError
        If the split is missing, or none of the images can be read.
    """
    rows = usable_rows(folder, read_rows(folder), split)
    images, whole = [], whole_size(folder)
    for place in np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int)):
        with contextlib.suppress(DataError):
            images.append(reduce_image(read_grey(folder / rows[place].file, whole), size))
    if not images:
        raise DataError(
            f'No image of the split "{split}" of {folder} can be read; see which and why with '
            "`rvsm data check`."
        )
    return to_float(torch.from_numpy(np.stack(images)))
