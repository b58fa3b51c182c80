"""Who wrote an image, where only its name tells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rvsm.errors import DataError
from rvsm.handwriting.manifest import PERSON, Row


def person_pattern(text: str) -> re.Pattern[str]:
    """Compile the pattern of ``--person``.

    Raises
    ------
    DataError
        It is no regular expression, or has several groups.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise DataError(f"--person '{text}' is not a regular expression: {error}.") from None
    if pattern.groups > 1:
        raise DataError(
            f"--person '{text}' has {pattern.groups} groups: put the part that names the person, "
            r"and only that, into parentheses, like '(V\d+H)_', and write (?:...) for others."
        )
    return pattern


def person_in(pattern: re.Pattern[str], file: str) -> str:
    """The person that a path names: the group, or all that is found; empty where nothing is."""
    found = pattern.search(file)
    return (found[pattern.groups] or "") if found else ""


def persons_of(files: Sequence[str], text: str) -> list[str]:
    """The person in each path, empty where the pattern is not found.

    Raises
    ------
    DataError
        As `person_pattern`, or it is found in none.
    """
    pattern = person_pattern(text)
    persons = [person_in(pattern, file) for file in files]
    if not any(persons):
        raise DataError(f"--person '{text}' is found in none of {len(files)} paths: correct it.")
    return persons


def with_persons(rows: Iterable[Row], text: str) -> tuple[Row, ...]:
    """Take the person of every row from its path.

    Parameters
    ----------
    rows : iterable of Row
    text : str
        A regular expression, looked for anywhere in `Row.file`; its one group, or all of it.

    Returns
    -------
    tuple of Row

    Raises
    ------
    DataError
        As `person_pattern`, or a path in which it is not found: a picture whose person is unknown
        might stand on both sides of a split.
    """
    pattern = person_pattern(text)
    listed = tuple(rows)
    persons = [person_in(pattern, row.file) for row in listed]
    missing = [row.file for row, person in zip(listed, persons, strict=True) if not person]
    if missing:
        share = "none" if len(missing) == len(listed) else len(listed) - len(missing)
        raise DataError(
            f"--person '{text}' is found in {share} of {len(listed)} paths, not in {missing[0]}: "
            "correct the pattern."
        )
    return tuple(
        replace(row, carrier=person, carrier_kind=PERSON)
        for row, person in zip(listed, persons, strict=True)
    )
