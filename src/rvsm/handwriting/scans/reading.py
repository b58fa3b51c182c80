"""How pictures are read for a network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from rvsm.handwriting.images import SIZE
from rvsm.handwriting.scans.normalise import Isolate
from rvsm.handwriting.scans.template import Template


@dataclass(frozen=True, slots=True)
class Reading:
    """How image files are read.

    Attributes
    ----------
    scan : bool
        Normalise each as a scan of one word or drawing; otherwise fit it as it is, as training
        does.
    dpi : float or None
        Pixels per inch of the scans; by default what their files state.
    letters : bool
        Bring scans of unknown scale to the size of the letters of training, as the network was
        trained on words; otherwise they are fitted, as drawings are.
    size : (int, int)
        Height and width of the images that the network learned from, before it reduces them.
    drawing : bool
        Pictures are drawings, not words: scans are not turned and keep level lines, and all are
        fitted whatever their scale.
    isolate : {"auto", "colour", "none"} or Template
        How scans are rid of print, see `normalise`.
    words : bool or None
        Whether the network learned from words, else from drawings; None where nobody knows.
    """

    scan: bool = False
    dpi: float | None = None
    letters: bool = False
    size: tuple[int, int] = SIZE
    drawing: bool = False
    isolate: Isolate = "auto"
    words: bool | None = None

    def told(self) -> dict[str, object]:
        """All of it as JSON can hold it, of a template a digest."""
        if not isinstance(self.isolate, Template):
            return asdict(self)
        return asdict(replace(self, isolate="none")) | {"isolate": self.isolate.digest}
