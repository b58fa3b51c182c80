"""Shifted views of an image."""

from __future__ import annotations

import torch

from rvsm.handwriting.views import VIEWS, view_logits


class Corner(torch.nn.Module):
    """Says what is in one pixel, and the sum of all."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.place = row, column

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        row, column = self.place
        return torch.stack([images[:, 0, row, column], images.sum((1, 2, 3))], 1)


def test_each_view_is_the_image_moved_and_the_first_is_the_image() -> None:
    torch.manual_seed(0)
    images = torch.zeros(3, 1, 12, 20)
    images[:, :, 4:8, 6:14] = torch.rand(3, 1, 4, 8)
    views = view_logits(Corner(5, 9), images)
    assert views.shape == (len(VIEWS), 3, 2)
    assert VIEWS[0] == (0, 0)
    for (row, column), logits in zip(VIEWS, views, strict=True):
        assert torch.equal(logits[:, 0], images[:, 0, 5 + row, 9 + column])
        torch.testing.assert_close(logits[:, 1], images.sum((1, 2, 3)))


def test_what_moves_in_is_paper() -> None:
    ink = torch.ones(1, 1, 8, 16)
    for place in ((0, 0), (7, 15), (0, 15), (7, 0)):
        views = view_logits(Corner(*place), ink)
        assert sorted(set(views[:, 0, 0].tolist())) == [0.0, 1.0]


def test_the_views_lie_symmetrically_about_the_image() -> None:
    assert torch.tensor(VIEWS).sum(0).tolist() == [0, 0]
