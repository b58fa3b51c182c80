"""Examine a set of any layout for what makes results on it too good."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rvsm.errors import DataError
from rvsm.handwriting.check import CheckReport, cue
from rvsm.handwriting.duplicates import MOST
from rvsm.handwriting.findings import Finding, persons_apart, persons_known
from rvsm.handwriting.images import grey_of
from rvsm.handwriting.linear import Level
from rvsm.handwriting.manifest import LABELS, Row
from rvsm.handwriting.readers import Collection
from rvsm.handwriting.turned import Look, copies, look
from rvsm.text import by_reason, some

_LEAST_OF_MODE = 3
_PRINTED = frozenset(["newhandpd", "handpd"])
"""Layouts of drawings over a printed template, which makes different people's pictures alike."""

_RANK_CHANCE = 0.001


@dataclass(frozen=True, slots=True)
class _Seen:
    row: Row
    digest: bytes
    mode: str
    size: tuple[int, int]
    look: Look


def check_collection(
    collection: Collection,
    *,
    most: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Look for leaks and short cuts in a set as its reader lists it.

    - People of a split who are also in the training split, and pictures of unknown people.
    - Pictures that are equal pixel by pixel, or nearly so, or one another turned or mirrored,
      and recordings that the reader found to be copies.
    - Colour modes and sizes of pictures that go with the class.
    - What cannot be read or was left out, and classes out of balance.

    Sizes and modes are those of the files; of sets of strokes, which have none, they are not
    looked at.

    Parameters
    ----------
    collection : Collection
    most : int, optional
        Look at no more than so many pictures, the same ones each time.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    CheckReport

    Raises
    ------
    DataError
        None of the pictures can be read.
    """
    rows = list(collection.rows)
    if most is not None and len(rows) > most:
        chosen = np.random.default_rng(0).permutation(len(rows))[:most]
        rows = [rows[index] for index in np.sort(chosen).tolist()]
    seen, unreadable = _look(collection, rows, progress)
    if not seen:
        file, why = next(iter(unreadable.items()))
        raise DataError(
            f"None of the {len(rows)} pictures of {collection.root} can be read, {file} first: "
            f"{why}"
        )
    sound = [picture.row for picture in seen]
    counts: dict[str, dict[str, int]] = {}
    for row in sound:
        by_label = counts.setdefault(row.split, {})
        by_label[row.label] = by_label.get(row.label, 0) + 1
    drawn = any(collection.strokes(row) is not None for row in sound[:1])
    findings = [
        _readable(unreadable, len(rows)),
        _left_out(collection.left_out),
        _balance(counts),
        persons_apart(sound),
        persons_known(sound),
        _equal(seen),
        _near(seen, collection.layout in _PRINTED),
    ]
    if not drawn:
        findings += [modes(seen), sizes(seen)]
    return CheckReport(collection.root, counts, unreadable, findings)


def _look(
    collection: Collection, rows: Sequence[Row], progress: Callable[[int, int], None] | None
) -> tuple[list[_Seen], dict[str, str]]:
    seen, unreadable = [], {}
    for done, row in enumerate(rows, start=1):
        try:
            picture = collection.picture(row)
            grey = grey_of(picture)
            digest = hashlib.blake2b(repr(grey.shape).encode() + grey.tobytes(), digest_size=16)
            seen.append(_Seen(row, digest.digest(), picture.mode, picture.size, look(grey)))
        except DataError as error:
            unreadable[row.file] = str(error)
        if progress is not None and (done % 100 == 0 or done == len(rows)):
            progress(done, len(rows))
    return seen, unreadable


def _readable(unreadable: dict[str, str], total: int) -> Finding:
    if not unreadable:
        return Finding("readable files", "fine", f"all {total} pictures can be read")
    text = f"{len(unreadable)} of {total} cannot be read and are skipped: {some(unreadable)}"
    return Finding("readable files", "warning", text)


def _left_out(left_out: dict[str, str]) -> Finding:
    if not left_out:
        return Finding("left out", "fine", "the reader lists all it found")
    told = "; ".join(by_reason(left_out))
    return Finding("left out", "warning", f"{len(left_out)} are left out: {told}")


def _balance(counts: dict[str, dict[str, int]]) -> Finding:
    labelled = {
        split: {label: by.get(label, 0) for label in LABELS}
        for split, by in counts.items()
        if any(by.get(label) for label in LABELS)
    }
    if not labelled:
        return Finding("class balance", "fine", "no picture has a label")
    told = [
        f"{split}: {max(by.values()) / sum(by.values()):.0%} of {sum(by.values())} are of one class"
        for split, by in labelled.items()
        if min(by.values()) < 0.4 * sum(by.values())
    ]
    if told:
        text = "; ".join(told) + ": so much accuracy is for nothing, judge by balanced accuracy"
        return Finding("class balance", "warning", text)
    return Finding("class balance", "fine", "both classes are alike in number in every split")


def _equal(seen: Sequence[_Seen]) -> Finding:
    groups: dict[bytes, list[Row]] = defaultdict(list)
    for picture in seen:
        groups[picture.digest].append(picture.row)
    pairs = [(rows[0], row) for rows in groups.values() for row in rows[1:]]
    return _copies("equal pictures", pairs, "no two pictures are equal")


def _near(seen: Sequence[_Seen], printed: bool) -> Finding:
    name = "near copies"
    if len(seen) > MOST:
        return Finding(name, "warning", f"not looked for among {len(seen)} pictures, over {MOST}")
    pairs = [
        (seen[a].row, seen[b].row)
        for a, b in copies([picture.look for picture in seen])
        if seen[a].digest != seen[b].digest
    ]
    found = _copies(name, pairs, "no two pictures are nearly the same, turned or mirrored")
    if printed and pairs:
        text = f"{found.text}; along one printed template drawings may be alike: look at them"
        return Finding(name, "warning", text)
    return found


def _copies(name: str, pairs: Sequence[tuple[Row, Row]], fine: str) -> Finding:
    if not pairs:
        return Finding(name, "fine", fine)
    crossing: list[str] = []
    within: list[str] = []
    for a, b in pairs:
        apart = (a.split, a.label, a.carrier) != (b.split, b.label, b.carrier)
        (crossing if apart else within).append(f"{a.file} = {b.file}")
    told = [
        f"{len(shown)} pair{'s' * (len(shown) > 1)} {where}: {some(shown)}"
        for shown, where in (
            (crossing, "in different splits, classes or people"),
            (within, "of one person in one split"),
        )
        if shown
    ]
    level: Level = "fault" if crossing else "warning"
    return Finding(name, level, "; ".join(told))


def modes(seen: Sequence[_Seen]) -> Finding:
    """Whether a colour mode gives the class away: met three times or more, in one class only."""
    name = "colour mode"
    labelled = [(picture.mode, picture.row.label) for picture in seen if picture.row.label]
    values = Counter(mode for mode, _ in labelled)
    told = []
    for mode, count in values.items():
        of = {label for other, label in labelled if other == mode}
        if len(values) > 1 and count >= _LEAST_OF_MODE and len(of) == 1:
            told.append(f"all {count} {mode} pictures are {of.pop()}")
    if told:
        text = "gives the class away: " + "; ".join(told) + ": make all grey before anything else"
        return Finding(name, "warning", text)
    return cue(name, labelled) if labelled else Finding(name, "fine", "no picture has a label")


def sizes(seen: Sequence[_Seen]) -> Finding:
    """Whether width, height or their ratio goes with the class (rank test), or a size does."""
    from scipy.stats import mannwhitneyu

    name = "image size"
    labelled = [picture for picture in seen if picture.row.label]
    groups = {label: [p.size for p in labelled if p.row.label == label] for label in LABELS}
    if not all(groups.values()):
        return Finding(name, "fine", "no two classes to compare")
    measures = {"width": lambda s: s[0], "height": lambda s: s[1], "width / height": _ratio}
    told = []
    for what, measure in measures.items():
        values = [[measure(size) for size in groups[label]] for label in LABELS]
        if len({value for group in values for value in group}) > 1:
            statistic, chance = mannwhitneyu(values[1], values[0])
            if chance < _RANK_CHANCE:
                auc = statistic / (len(values[0]) * len(values[1]))
                told.append(f"{what} alone has an AUC of {max(auc, 1 - auc):.2f}")
    if told:
        return Finding(name, "warning", "gives the class away: " + "; ".join(told))
    return cue(name, [(f"{p.size[0]}x{p.size[1]}", p.row.label) for p in labelled])


def _ratio(size: tuple[int, int]) -> float:
    return size[0] / size[1]
