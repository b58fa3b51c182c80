"""Images moved, mirrored and bent anew every time they are seen."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from rvsm.experiments.data import bend


def moved(images: Tensor, most: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift every image by up to `most` pixels along each axis; mirror half of them if asked.

    What moves in is zero.

    Parameters
    ----------
    images : Tensor of shape (B, C, H, W)
        On any device.
    most : int
        Largest shift.
    flip : bool
        Mirror left and right with probability one half.
    generator : torch.Generator
        Source of the draws, on the CPU.
    """
    (count, _, height, width), device = images.shape, images.device
    shifts = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator).to(device)
    rows = torch.arange(height, device=device) + shifts[0]
    columns = torch.arange(width, device=device) + shifts[1]
    if flip:
        turned = (torch.rand(count, 1, generator=generator) < 0.5).to(device)
        columns = torch.where(turned, columns.flip(1), columns)
    padded = pad(images, (most,) * 4).flatten(2)
    places = rows.unsqueeze(2) * (width + 2 * most) + columns.unsqueeze(1)
    places = places.view(count, 1, -1).expand(-1, images.shape[1], -1)
    return padded.gather(2, places).view_as(images)


def augmented(
    images: Tensor,
    *,
    shift: int,
    flip: bool,
    elastic: float,
    knot: int,
    generator: torch.Generator,
) -> Tensor:
    """Return a batch of images between 0 and 1 moved, mirrored and bent.

    Parameters
    ----------
    images : Tensor of shape (B, C, H, W)
        A fresh copy; background 0.
    shift, flip
        As for `moved`.
    elastic, knot
        Strength in pixels and distance of the knots, as for `rvsm.experiments.data.bend`; images
        of one channel only.
    generator : torch.Generator
        Source of the draws.
    """
    if shift or flip:
        images = moved(images, shift, flip, generator)
    return bend(images, elastic, knot, generator) if elastic else images
