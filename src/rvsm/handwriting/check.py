"""Examine a data folder for short cuts and leaks: what else than tremor could tell the class?"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rvsm.errors import DataError, RvsmError
from rvsm.handwriting.alone import Alone, alone_table, each_alone
from rvsm.handwriting.description import whole_size
from rvsm.handwriting.differences import Difference, difference_table, differences
from rvsm.handwriting.duplicates import MOST
from rvsm.handwriting.features import FEATURES, global_features
from rvsm.handwriting.findings import Finding, persons_apart, persons_known, text_cue
from rvsm.handwriting.images import describe, grey_of, read_grey, read_picture
from rvsm.handwriting.linear import (
    LEAST_TO_FIT,
    UNDECIDED,
    WITHIN,
    Level,
    LinearScore,
    SmallBand,
    band_name,
    linear_scores,
)
from rvsm.handwriting.manifest import (
    LABELS,
    MANIFEST,
    PERSON,
    Row,
    list_images,
    note_errors,
    require_two_classes,
    unlisted,
)
from rvsm.handwriting.turned import copies, look
from rvsm.text import some

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

Array = npt.NDArray[np.float64]
_BALANCE_LEAST = 0.4
_CUE_CHANCE = 0.01
_NAMES = 20

_KEPT_APART = {
    "val": ("carrier", "text"),
    "test-paper": ("text",),
    "test-unseen": ("carrier", "text"),
    "curve": ("carrier", "text"),
}


_UNTOLD = {
    "carrier": f"nobody is named: give --person 'REGEX', or {MANIFEST} a column person",
    "text": f"no text is known; {MANIFEST} may have a column text",
}
_CROSSING = "in different splits, classes or people"
_FIGURE_WIDTH = {"split": 11, "tremor, mm": 8, "95 % interval": 12}


@dataclass(frozen=True)
class CheckReport:
    """What `check` found; printable with rich.

    Attributes
    ----------
    path : Path
        The folder.
    images : dict of str to dict of str to int
        Readable images by split and label.
    unreadable : dict of str to str
        File and reason.
    findings : list of Finding
    linear : list of LinearScore
    small : list of SmallBand
        What of the linear model's scores is missing for want of images.
    alone : list of Alone
        What each global feature tells by itself; information only.
    differences : list of Difference
        Between the classes, in the columns of the manifest; information only.
    noted : str
        What became of the manifest's column ``error``; empty where nothing had to be written.
    """

    path: Path
    images: dict[str, dict[str, int]]
    unreadable: dict[str, str]
    findings: list[Finding] = field(default_factory=list)
    linear: list[LinearScore] = field(default_factory=list)
    small: list[SmallBand] = field(default_factory=list)
    alone: list[Alone] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    noted: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing found is a fault; warnings are allowed."""
        return all(finding.level != "fault" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        linear = [{**asdict(score), "decided": score.decided} for score in self.linear]
        return {**asdict(self), "path": str(self.path), "ok": self.ok, "linear": linear}

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        labels = [*LABELS, *([""] if any("" in by for by in self.images.values()) else [])]
        names = (label or "no label" for label in labels)
        counts = Table("split", *names, title=f"Images in {escape(str(self.path))}")
        for split, by_label in self.images.items():
            counts.add_row(split, *(str(by_label.get(label, 0)) for label in labels))
        told = Table("looked at", "", "found", title="Findings")
        for f in self.findings:
            told.add_row(f.name, _coloured(f.level, f.level), escape(f.text))
        parts = [counts, told]
        if self.unreadable:
            parts.append(self._unreadable_table())
        if self.linear:
            parts.append(self._scores_table())
        if self.alone:
            parts.append(alone_table(self.alone))
        if self.differences:
            parts.append(difference_table(self.differences))
        return Group(*parts, *([escape(self.noted)] if self.noted else []))

    def _unreadable_table(self) -> Table:
        from rich.markup import escape
        from rich.table import Table

        table = Table("file", "reason", title=f"{len(self.unreadable)} files cannot be read")
        for file, reason in list(self.unreadable.items())[:_NAMES]:
            table.add_row(escape(file), escape(reason))
        if (more := len(self.unreadable) - _NAMES) > 0:
            table.add_row(f"and {more} more", f"the column error of {MANIFEST} and --json have all")
        return table

    def _scores_table(self) -> Table:
        from rich.table import Table

        table = Table(
            "split",
            "tremor, mm",
            "shaky images",
            "balanced accuracy, %",
            "95 % interval",
            "",
            title="A linear model on global features alone (chance is 50 %)",
        )
        for column in table.columns:  # on a narrow terminal headings wrap, figures stay whole
            column.min_width = _FIGURE_WIDTH.get(str(column.header))
        for s in self.linear:
            verdict = s.verdict if s.decided else f"{s.verdict}, {UNDECIDED}"
            table.add_row(
                s.split,
                "all" if s.band_mm is None else band_name(s.band_mm),
                str(s.shaky),
                f"{s.accuracy:.1%}".rstrip("%"),
                f"{100 * s.low:.1f} to {100 * s.high:.1f}",
                _coloured(s.verdict, verdict),
            )
        for band in self.small:
            table.add_row(band.split, band_name(band.band_mm), str(band.shaky), "", "", UNDECIDED)
        return table


def _coloured(level: Level, text: str) -> str:
    colour = {"fine": "green", "warning": "yellow", "fault": "red"}[level]
    return f"[{colour}]{text}[/]"


@dataclass(frozen=True, slots=True)
class _Image:
    row: Row
    digest: bytes
    mode: str
    size: str
    measured: Array


def check(
    path: str | os.PathLike[str],
    *,
    most: int | None = None,
    note: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Look for short cuts and leaks in a data folder, made by `datasets.make` or the user's own.

    - A linear model on the `features.FEATURES` (see `linear.linear_scores`) is trained on the
      split ``train`` and scored on every other split, over all amplitudes and in each band of
      tremor amplitude. Within 5 points of chance is fine; beyond, by more than chance
      among all bands explains, a fault. Bands with too few images to decide are named.
    - Fonts, writers and words that splits share against their protocol, and people in two splits;
      fonts, writers or texts that go with a class; files that are equal, or nearly so.
    - Files that cannot be read, or that the manifest does not list; classes out of balance;
      colour modes or sizes of images that go with the class.
    - For information, what each of the features tells by itself (see `alone`), and how the
      classes differ in every column of the manifest.

    Parameters
    ----------
    path : path-like
    most : int, optional
        Look at no more than so many images of each split, drawn once and for all.
    note : bool
        Write into the manifest's column ``error`` which files cannot be read and why, and clear
        it for those that can; a folder that cannot be written is left as it is, and the report
        says so.
    progress : callable, optional
        Called as ``progress(done, total)`` with numbers of images read.

    Returns
    -------
    CheckReport

    Raises
    ------
    DataError
        No folder, no images, or one class only.
    """
    root = Path(path)
    rows = list_images(root)
    if most is not None:
        rows = _sample(rows, most)
    if (root / MANIFEST).is_file():
        rows = [replace(row, error="") for row in rows]  # it may have been repaired since
    images, unreadable = _read(root, rows, progress)
    # Of a sample nothing is known about the others.
    noted = _note(root, unreadable) if note and most is None else ""
    require_two_classes([replace(r, error=unreadable.get(r.file, "")) for r in rows], root)
    counts: dict[str, dict[str, int]] = {}
    for image in images:
        by_label = counts.setdefault(image.row.split, dict.fromkeys(LABELS, 0))
        by_label[image.row.label] += 1
    sound = [image.row for image in images]
    measured = np.array([image.measured for image in images])
    linear, small = linear_scores(sound, measured)
    findings = [
        _unreadable(unreadable, len(rows)),
        _unlisted(unlisted(root)),
        _balance(counts),
        *_overlaps(sound),
        _carrier_cue(sound),
        text_cue(sound),
        _duplicates(images),
        *_near_copies(root, images),
        cue("colour mode", [(i.mode, i.row.label) for i in images]),
        cue("image size", [(i.size, i.row.label) for i in images]),
        _linear_finding(linear, small),
    ]
    return CheckReport(
        root,
        counts,
        unreadable,
        findings,
        linear,
        small,
        each_alone(sound, measured),
        differences(sound),
        noted,
    )


def _sample(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows of each split, always the same ones."""
    order = np.random.default_rng(0).permutation(len(rows))
    taken: Counter[str] = Counter()
    kept = []
    for index in order.tolist():
        if taken[rows[index].split] < most:
            taken[rows[index].split] += 1
            kept.append(index)
    return [rows[index] for index in sorted(kept)]


def _read(
    root: Path, rows: Sequence[Row], progress: Callable[[int, int], None] | None
) -> tuple[list[_Image], dict[str, str]]:
    images, unreadable = [], {}
    whole = whole_size(root)
    for done, row in enumerate(rows, start=1):
        file = root / row.file
        try:
            if row.error:
                raise DataError(row.error)
            measured = global_features(read_grey(file, whole))
            mode, (width, height) = describe(file)
            digest = hashlib.blake2b(file.read_bytes(), digest_size=16).digest()
            size = f"{width}x{height}"
            images.append(_Image(row, digest, mode, size, measured))
        except DataError as error:
            # Without the folder: the reason is kept in it, and folders are moved.
            unreadable[row.file] = str(error).replace(str(file), row.file)
        if progress is not None and (done % 100 == 0 or done == len(rows)):
            progress(done, len(rows))
    return images, unreadable


def _note(root: Path, unreadable: dict[str, str]) -> str:
    existed = (root / MANIFEST).is_file()
    try:
        if not note_errors(root, unreadable):
            return ""
    except RvsmError as error:
        return f"The files that cannot be read were not noted in {root / MANIFEST}: {error}"
    if existed:
        return f"{root / MANIFEST}: the column error now lists {len(unreadable)} unreadable files."
    return (
        f"{root / MANIFEST} is new: it lists all images, {len(unreadable)} of them as unreadable. "
        "Delete it when you add images, which it would not list."
    )


def _unreadable(unreadable: dict[str, str], total: int) -> Finding:
    if not unreadable:
        return Finding("readable files", "fine", f"all {total} files can be read")
    return Finding(
        "readable files",
        "warning",
        f"{len(unreadable)} of {total} files cannot be read and are skipped: {some(unreadable)}",
    )


def _unlisted(files: Sequence[str]) -> Finding:
    if not files:
        return Finding("listed files", "fine", "no image lies beside the manifest")
    text = f"{len(files)} images are not in {MANIFEST} and are left out: {some(files)}"
    return Finding("listed files", "warning", text)


def _balance(counts: dict[str, dict[str, int]]) -> Finding:
    skewed = [
        f"{split} has {by['regular']} regular and {by['shaky']} shaky images"
        for split, by in counts.items()
        if min(by.values()) < _BALANCE_LEAST * sum(by.values())
    ]
    if skewed:
        text = "; ".join(skewed) + ": judge by balanced accuracy, not accuracy"
        return Finding("class balance", "warning", text)
    return Finding("class balance", "fine", "both classes are alike in number in every split")


def _overlaps(rows: Sequence[Row]) -> list[Finding]:
    """Which fonts, writers, people and words of other splits are known from training."""
    seen: dict[str, dict[str, set[str]]] = {"carrier": defaultdict(set), "text": defaultdict(set)}
    texts: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.carrier:
            seen["carrier"][row.split].add(row.carrier)
        seen["text"][row.split].update(row.text.split())
        texts[row.split].add(row.text)
    splits = [split for split in dict.fromkeys(row.split for row in rows) if split != "train"]
    findings = []
    known = [("carrier", "fonts or writers"), ("text", "words")]
    by_people = any(row.carrier_kind == PERSON for row in rows)
    if by_people:
        findings, known = [persons_apart(rows), persons_known(rows)], known[1:]
    for what, plural in known:
        name = f"{plural} apart"
        if not splits or not any(seen[what].values()):
            reason = "one split only" if not splits else _UNTOLD[what]
            findings.append(Finding(name, "warning", f"cannot be checked: {reason}"))
            continue
        faults, doubts, allowed = [], [], set()
        for split, other in product(splits, ("train", "val")):
            common = seen[what][split] & seen[what][other]
            if split == other or not common:
                continue
            told = f"{split} shares {len(common)} of {len(seen[what][split])} {plural} with {other}"
            if split not in _KEPT_APART:
                doubts.append(told)
            elif what not in _KEPT_APART[split]:
                allowed.add(split)
            # Addresses that people wrote have words in common, and people may be asked for the same
            # texts; those that are drawn need have none.
            elif what == "text" and texts[split].isdisjoint(texts[other]):
                doubts.append(f"{told}, but no whole text")
            elif what == "text" and by_people:
                doubts.append(told)
            else:
                faults.append(told)
        level: Level = "fault" if faults else "warning" if doubts else "fine"
        fine = "no split shares any with training or validation"
        if allowed:
            protocol = ", ".join(sorted(allowed))
            fine += f", but for {protocol}, where the protocol shares them"
        findings.append(Finding(name, level, "; ".join(faults + doubts) or fine))
    return findings


def _carrier_cue(rows: Sequence[Row]) -> Finding:
    """Whether the font or writer tells the class: the commoner one in training, tried elsewhere."""
    name = "fonts and classes"
    tally: dict[str, int] = defaultdict(int)
    for row in rows:
        if row.split == "train" and row.carrier:
            tally[row.carrier] += 1 if row.label == "shaky" else -1
    hits: dict[str, list[bool]] = {label: [] for label in LABELS}
    for row in rows:
        if row.split != "train" and tally.get(row.carrier):
            hits[row.label].append((tally[row.carrier] > 0) == (row.label == "shaky"))
    if min(len(of) for of in hits.values()) < LEAST_TO_FIT:
        return Finding(name, "fine", "no other split has fonts or writers of train to try this on")
    accuracy = float(np.mean([np.mean(of) for of in hits.values()]))
    text = f"the font or writer alone tells the class with {accuracy:.1%} balanced accuracy"
    return Finding(name, "fault" if accuracy > 0.5 + WITHIN else "fine", text)


def _duplicates(images: Iterable[_Image]) -> Finding:
    equal: dict[bytes, list[Row]] = defaultdict(list)
    for image in images:
        equal[image.digest].append(image.row)
    groups = [rows for rows in equal.values() if len(rows) > 1]
    if not groups:
        return Finding("equal files", "fine", "no two files are equal")
    worst = [rows for rows in groups if len(set(map(_side, rows))) > 1]
    shown = worst or groups
    pairs = [f"{rows[0].file} = {rows[1].file}" for rows in shown]
    where = _CROSSING if worst else "within one class of one split"
    text = f"{len(shown)} files occur more than once {where}: {some(pairs)}"
    return Finding("equal files", "fault" if worst else "warning", text)


def _near_copies(root: Path, images: Sequence[_Image]) -> list[Finding]:
    """Pictures saved twice, turned or mirrored; not asked of made sets, nor of very large ones."""
    made = any(image.row.tremor_amplitude_mm is not None for image in images)
    if made or len(images) > MOST:
        return []
    pairs = [
        (images[a].row, images[b].row)
        for a, b in copies([look(grey_of(read_picture(root / image.row.file))) for image in images])
        if images[a].digest != images[b].digest
    ]
    if not pairs:
        return [
            Finding("near copies", "fine", "no two images are nearly the same, turned or mirrored")
        ]
    crossing = [(a, b) for a, b in pairs if _side(a) != _side(b)]
    shown = crossing or pairs
    where = _CROSSING if crossing else "within one class of one split"
    names = some(f"{a.file} = {b.file}" for a, b in shown)
    level: Level = "fault" if crossing else "warning"
    return [Finding("near copies", level, f"{len(shown)} pairs {where}: {names}")]


def _side(row: Row) -> tuple[str, str, str]:
    """What copies must not differ in: the split, the class and, where it is known, the person."""
    return row.split, row.label, row.carrier if row.carrier_kind == PERSON else ""


def cue(name: str, pairs: Sequence[tuple[str, str]]) -> Finding:
    """Whether some value of a property goes with one class more than chance would have it."""
    from scipy.stats import binomtest

    values = Counter(value for value, _ in pairs)
    shaky = Counter(value for value, label in pairs if label == "shaky")
    share = sum(shaky.values()) / len(pairs)
    telling = [
        f"{shaky[value]} of {n} images of {value} are shaky"
        for value, n in values.items()
        if len(values) > 1 and binomtest(shaky[value], n, share).pvalue < _CUE_CHANCE / len(values)
    ]
    if telling:
        return Finding(name, "warning", f"goes with the class: {some(telling)}")
    return Finding(name, "fine", f"{len(values)} found, alike in both classes")


def _linear_finding(scores: Sequence[LinearScore], small: Sequence[SmallBand]) -> Finding:
    name = "global features"
    if not scores:
        return Finding(
            name, "warning", f"cannot be checked: fewer than {LEAST_TO_FIT} images of a class"
        )
    worst = max(scores, key=lambda s: (s.verdict == "fault", abs(s.accuracy - 0.5)))
    figures = f"{worst.accuracy:.1%} [{worst.low:.1%}, {worst.high:.1%}] on {worst.place}"
    if worst.verdict == "fault":
        text = f"a linear model on {', '.join(FEATURES)} alone reaches {figures}"
    else:
        text = f"a linear model gets no farther from chance than {figures}"
    undecided = [s.place for s in scores if not s.decided]
    undecided += [f"{s.split} at {band_name(s.band_mm)} mm ({s.shaky} images)" for s in small]
    if undecided:
        text += f"; {UNDECIDED}: {some(undecided)}"
    return Finding(name, worst.verdict, text)
