"""rvsm.handwriting.splits: parts are disjoint, balanced in kind, and a function of the seed."""

import numpy as np
import pytest

from rvsm.errors import DataError
from rvsm.handwriting.splits import CarrierInfo, cut

WORDS = [f"word{i}" for i in range(200)]


def fonts(families: int, kinds: tuple[str, ...] = ("hershey", "outline")) -> list[CarrierInfo]:
    return [
        CarrierInfo(f"f{i}-{weight}", f"f{i}", kinds[i % len(kinds)])
        for i in range(families)
        for weight in range(1 + i % 3)
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("families", [3, 5, 12, 25, 40])
def test_parts_are_disjoint_and_whole(families: int, seed: int) -> None:
    carriers = fonts(families)
    parts = cut(carriers, WORDS, np.random.default_rng(seed))
    names = [*parts.train, *parts.val, *parts.unseen]
    assert sorted(names) == sorted(c.name for c in carriers)
    family = {c.name: c.family for c in carriers}
    sides = [{family[n] for n in part} for part in (parts.train, parts.val, parts.unseen)]
    assert all(sides)
    assert not (sides[0] & sides[1])
    assert not (sides[0] & sides[2])
    assert not (sides[1] & sides[2])
    texts = [*parts.train_texts, *parts.val_texts, *parts.test_texts]
    assert sorted(texts) == sorted(WORDS)
    assert [len(parts.train_texts), len(parts.val_texts), len(parts.test_texts)] == [130, 20, 50]


@pytest.mark.parametrize("seed", range(5))
def test_enough_of_each_kind(seed: int) -> None:
    carriers = fonts(37)
    parts = cut(carriers, WORDS, np.random.default_rng(seed))
    family = {c.name: c.family for c in carriers}
    sides = [{family[name] for name in part} for part in (parts.train, parts.val, parts.unseen)]
    assert [len(side) for side in sides] == [25, 4, 8]
    kind = {c.name: c.kind for c in carriers}
    for part in (parts.train, parts.val, parts.unseen):
        assert {kind[n] for n in part} == {"hershey", "outline"}


def test_a_kind_of_one_family_is_shuffled_with_the_others() -> None:
    carriers = [*fonts(20, ("outline",)), CarrierInfo("h", "h", "hershey")]
    parts = cut(carriers, WORDS, np.random.default_rng(0))
    assert "h" in {*parts.train, *parts.val, *parts.unseen}


def test_equal_seeds_cut_alike() -> None:
    first, second, other = (
        cut(fonts(30), WORDS, np.random.default_rng(seed)) for seed in (4, 4, 5)
    )
    assert first == second
    assert first != other


def test_too_little_to_cut() -> None:
    with pytest.raises(DataError, match=r"2 font families.*at least 3"):
        cut(fonts(2), WORDS, np.random.default_rng(0))
    with pytest.raises(DataError, match="9 texts are too few"):
        cut(fonts(9), WORDS[:9], np.random.default_rng(0))
