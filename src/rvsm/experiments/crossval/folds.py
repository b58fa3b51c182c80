"""Who is held out when: repeated stratified folds of people, and the guard against leaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from rvsm.errors import DataError, RunError
from rvsm.experiments.crossval.metrics import Ints

Index = npt.NDArray[np.intp]


def people_folds(labels: Ints, people: Ints, folds: int, seed: int) -> list[tuple[Index, Index]]:
    """Cut people, never images, into folds that hold about equal shares of both classes.

    Parameters
    ----------
    labels, people : ndarray of int, shape (n,)
        One entry an image.
    folds : int
    seed : int

    Returns
    -------
    list of (train, test)
        Positions of images.

    Raises
    ------
    DataError
        Fewer people of a class than folds.
    """
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    for label in (0, 1):
        have = len(np.unique(people[labels == label]))
        if have < folds:
            raise DataError(
                f"{have} people of one class cannot be cut into {folds} folds: "
                + (f"ask for at most {have}, or add people." if have > 1 else "add people.")
            )
    # Renumbered at random: with as few people as folds need, scikit-learn's shuffle alone leaves
    # people with unlike numbers of images in the same folds whatever the seed.
    names, which = np.unique(people, return_inverse=True)
    renamed = np.random.default_rng([seed, 0xF01D]).permutation(len(names))[which]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fewer images of a class than folds: caught
        found = list(splitter.split(np.zeros(len(labels)), labels, renamed))
    for train, test in found:
        check_apart(people, train, test)
        if len(test) == 0 or len(np.unique(labels[train])) < 2:
            raise DataError(
                f"{folds} folds leave one without images or a training part without one of the "
                "classes: ask for fewer folds."
            )
    return found


def check_inner(
    labels: Ints, people: Ints, plan: Sequence[tuple[int, int, Index, Index]], inner: int
) -> None:
    """See to it that every training part has people enough to be cut again.

    Parameters
    ----------
    labels, people : ndarray of int, shape (n,)
    plan : sequence of (repetition, fold, train, test)
        Of `repeated`.
    inner : int

    Raises
    ------
    DataError
        A training part has fewer people of a class than inner folds.
    """
    least = min(
        len(np.unique(people[train][labels[train] == label]))
        for _, _, train, _ in plan
        for label in (0, 1)
    )
    if least < inner:
        remedy = f"ask for --inner {least}" if least > 1 else "ask for more --folds"
        raise DataError(
            f"A training part holds {least} people of a class, too few for {inner} inner folds: "
            f"{remedy}, or add people."
        )


def check_apart(people: Ints, train: Index, test: Index) -> None:
    """The guard: nobody stands on both sides of a split.

    Raises
    ------
    RunError
        Somebody does, which is a fault of the program.
    """
    both = np.intersect1d(people[train], people[test])
    if len(both):
        raise RunError(
            f"{len(both)} people stand on both sides of a split: the figures would be too good; "
            "report this fault."
        )


def repeated(
    labels: Ints, people: Ints, folds: int, repeats: int, seed: int
) -> Iterator[tuple[int, int, Index, Index]]:
    """Yield (repetition, fold, train, test) of as many new partitions as asked for."""
    for repeat in range(repeats):
        for fold, (train, test) in enumerate(people_folds(labels, people, folds, seed + repeat)):
            yield repeat, fold, train, test
