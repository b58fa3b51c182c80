"""`rvsm predict`: images, strokes, sets and scans of pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rvsm.atomic import make_folder
from rvsm.cli.data import Drawing, Layouts


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Files or folders.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Write a CSV file: for thousands of images."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="With --out or --pages: processes that read.")
    ] = 2,
    scan: Annotated[
        bool, typer.Option("--scan", help="Each image is a scan of a word or drawing: normalise.")
    ] = False,
    template: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --scan: what is printed on each, a scan of the empty form or what "
            "`data import` kept; it is taken away.",
        ),
    ] = None,
    layout: Layouts = None,
    drawing: Drawing = False,
    evidence: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw what spoke for the answer, a PNG each.")
    ] = None,
    pages: Annotated[
        bool, typer.Option("--pages", help="Scans of pages, PDF among them: cut into words.")
    ] = False,
    dpi: Annotated[
        float | None, typer.Option(help="Of the scans, with --scan or --pages; else as files say.")
    ] = None,
    turn: Annotated[
        int | None,
        typer.Option(
            metavar="DEGREES",
            help="With --pages: turn each clockwise, 0 to leave it; else those that lie sideways.",
        ),
    ] = None,
    person: Annotated[
        str | None,
        typer.Option(
            "--person",
            metavar="REGEX",
            help="It finds the person in a path, to answer by person.",
        ),
    ] = None,
    unsure: Annotated[
        str | None,
        typer.Option(
            metavar="LOW-HIGH",
            help="Probabilities of no clear answer; 0.35-0.65 with --pages and --scan.",
        ),
    ] = None,
) -> None:
    """Tell shaky from regular writing in images of any size and colour mode.

    One line per file: the answer, the network's probability of shaky, the calibrated one (Platt's
    scaling on the run's validation images), which decides, the file. Files that cannot be read
    are named on standard error, and the exit code is then 1, in every form of this command; all
    others are answered. Strokes over time, in JSON or in a set such as --layout uci-spirals, are
    drawn, and their tremor is measured too. Research use, not a diagnosis.

    With --out lines go to a CSV file as they come, in the order of the files, at hundreds of images
    a second; stopped at any moment, the same command goes on. With --pages it holds a line for each
    word.

    With --pages each file is a scan of one or more pages, which are turned upright and level,
    cleaned and cut into words: one line per page. Of scans, answers near a half are unsure
    (0.35-0.65 by default), and a blank page or a photograph gets none.

    Where --person finds people in the paths, or a layout knows them, there is a line for each of
    them too. With --out pages and people have files of their own: words.pages.csv and
    words.people.csv beside words.csv.

    \b
    Examples:
      rvsm predict runs/l0 letter.png --evidence seen
      rvsm predict runs/l0 scans/ --scan --json
      rvsm predict runs/l0 scans/ --scan --out predictions.csv
      rvsm predict runs/forms scans/ --scan --template data/forms/template-spiral.png
      rvsm predict runs/l0 drawing.json
      rvsm predict runs/spiral uci-pd-spirals --layout uci-spirals --out predictions.csv
      rvsm predict runs/l0 letters.pdf --pages --out words.csv
      rvsm predict runs/l0 scans/ --pages --dpi 300 --person '(P[0-9]+)_' --evidence seen
    """
    from rvsm.cli.scans import predict_pages, read_band

    band = read_band(unsure)
    if evidence is not None:
        make_folder(evidence)  # one that cannot be is told before a thousand images are read
    if pages:
        if layout is not None or scan:
            raise typer.BadParameter("--pages goes without --layout and --scan: leave them out.")
        if template is not None:
            raise typer.BadParameter(
                "--template is for scans of one word or drawing each: give --scan for --pages."
            )
        told: dict[str, Any] = {"dpi": dpi, "person": person, "evidence": evidence, "turn": turn}
        predict_pages(run, images, band, out, as_json, drawing=drawing, workers=workers, **told)
        return
    if template is not None and not scan:
        raise typer.BadParameter("--template is for scans: add --scan.")
    if turn is not None:
        raise typer.BadParameter("--turn is for scans of pages: add --pages.")
    if dpi is not None and not scan:
        raise typer.BadParameter("--dpi is for scans: add --scan or --pages.")
    from rvsm.cli.predictions import print_predictions, stream

    asked: dict[str, Any] = {"scan": scan, "dpi": dpi, "layout": layout, "evidence": evidence}
    asked |= {"band": band, "person": person, "drawing": drawing, "template": template}
    if out is not None:
        stream(run, images, out, as_json, workers=workers, **asked)
        return
    print_predictions(run, images, as_json, **asked)
