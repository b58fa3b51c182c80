"""What may be told of how the images came about: more of those that `rvsm data make` made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rvsm.experiments.report.source import View

_KINDS = {
    "fonts": "texts",
    "pen": "texts",
    "words": "words",
    "spiral": "figures",
    "wave": "figures",
}
_PROTOCOLS = {
    "texts": {
        "paper": "fonts shared with training, texts unseen",
        "unseen": "no font, text or writer of the test was seen in training",
    },
    "words": {
        "paper": "writers shared with training, texts unseen",
        "unseen": "no text or writer of the test was seen in training",
    },
    "figures": {"unseen": "no hand of the test was seen in training"},
}
_WHERE = {
    "texts": {
        "paper": "texts it never saw, in fonts it knows",
        "unseen": "fonts and texts it never saw",
    },
    "words": {
        "paper": "texts it never saw, by writers it knows",
        "unseen": "writers and texts it never saw",
    },
    "figures": {"unseen": "drawings by hands it never saw"},
}
_ALIKE = (
    "images are chosen so that ink, box, stroke width and the number of pieces are distributed "
    "alike"
)
_NOISE = "Regular lines carry the same small physiological noise and wander in slow waves"
_MADE = {
    "texts": (
        f"Regular and shaky writing come from the same fonts, texts, sizes and slants, and {_ALIKE}"
        f". {_NOISE}, so that neither more ink nor a crooked line gives the answer away: what "
        "differs is the tremor."
    ),
    "words": (
        f"Both classes are words that people wrote, of the same writers and texts, and {_ALIKE}. "
        f"{_NOISE}; a tremor was added to the shaky ones by displacing the ink."
    ),
    "figures": (
        "Regular and shaky figures come from the same made-up hands, with the same slow waves and "
        "physiological noise: what differs is the tremor. Nothing is matched, so that more ink "
        "tells something too."
    ),
}
_MODELLED = (
    "The tremor follows published measurements: a frequency in hertz, an RMS amplitude in "
    "millimetres, bursts, a second harmonic, a slowly turning ellipse."
)
_SIZE = {
    "texts": "Images are 64 × 256 pixels at 8 pixels a millimetre; the x-height is about 2.5 mm.",
    "words": "Images are 64 × 256 pixels at 8 pixels a millimetre.",
}
_UNKNOWN = (
    "These images are not of rvsm's making, or nothing tells that they are: how the classes differ "
    "beside the tremor is not known here, and rvsm data check looks for it."
)


def kind(view: View) -> str:
    """``texts``, ``words`` or ``figures`` of our making; empty for any other images."""
    if view.of_study:
        return _KINDS.get(view.task, "")
    return _KINDS.get(str(_source(view).get("task")), "") if "generator" in view.origin else ""


def told(view: View) -> str:
    """A paragraph on how the images were made."""
    what, source = kind(view), _source(view)
    if not what:
        imported = source.get("set")
        return (
            f"Images of the set {imported}, imported by rvsm data import." if imported else _UNKNOWN
        )
    if view.origin.get("options", {}).get("pairs"):
        made = "Every regular image has a shaky one of the same word, and nothing is matched."
    else:
        made = _MADE[what]
    parts = [made, _tremor(view), _SIZE.get(what, "")]
    return " ".join(part for part in parts if part)


def simulated(views: Sequence[View]) -> bool:
    """Whether all that was learned from is known to be made, with a tremor nobody had."""
    return all(
        kind(view)
        and view.origin
        and "tremor" not in _source(view)
        and not any(run.config.get("more") for run in view.runs)
        for view in views
    )


def protocols(views: Sequence[View]) -> dict[str, str]:
    """What the protocols of the rows say of our images, in words."""
    words: dict[str, str] = {}
    for view in views:
        known = _PROTOCOLS.get(kind(view), {})
        words |= {row.protocol: known[row.protocol] for row in view.rows if row.protocol in known}
    return words


def where(view: View, protocol: str) -> str:
    """On what an accuracy was measured, in words."""
    return _WHERE.get(kind(view), {}).get(protocol, "the test images")


def _tremor(view: View) -> str:
    source = _source(view)
    if not source:
        return ""
    if "tremor" in source:
        return "The tremor was recorded from people."
    if hertz := source.get("tremor_hz"):
        ends = " to ".join(str(end) for end in hertz)
        return f"The tremor is modelled, with frequencies of {ends} Hz whatever its amplitude."
    return _MODELLED


def _source(view: View) -> dict[str, Any]:
    return dict(view.origin.get("options", {}).get("source", {}))
