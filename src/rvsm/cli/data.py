"""`rvsm data`: make a data set; list, look at and check any."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rvsm.atomic import atomic_write
from rvsm.cli.guard import Bars, guarded
from rvsm.text import by_reason

app = typer.Typer(
    help="Make images of shaky and regular writing; list, look at and check sets.\n\n"
    "\b\n"
    "Examples:\n"
    "  rvsm data make data/pen --task pen\n"
    "  rvsm data check data/pen\n"
    "  rvsm data list parkinsons-drawings\n"
    "  rvsm data sheet parkinsons-drawings\n"
    "  rvsm data import parkinsons-drawings data/spiral --task spiral"
)


_LABELS = ("regular", "shaky")
Layouts = Annotated[
    str | None,
    typer.Option("--layout", metavar="NAME", help="Read it so; `rvsm data list` names all."),
]
Drawing = Annotated[
    bool,
    typer.Option("--drawing", help="Scans are drawings, not words: for runs that cannot tell."),
]
Person = Annotated[
    str | None,
    typer.Option(
        "--person", metavar="REGEX", help="Its one group finds the person in each file's path."
    ),
]


class Isolation(StrEnum):
    auto = "auto"
    colour = "colour"
    registration = "registration"
    none = "none"


Isolating = Annotated[
    Isolation,
    typer.Option(
        "--isolate",
        help="A pen told from a printed template: by its colour, where it has one (auto); by what "
        "the drawings of 3 people or more share (registration).",
    ),
]


class Task(StrEnum):
    fonts = "fonts"
    pen = "pen"
    spiral = "spiral"
    wave = "wave"


@app.command()
@guarded
def make(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    task: Annotated[
        Task | None,
        typer.Option(
            help="fonts: texts in fonts; pen: words in pen strokes; spiral, wave: drawn figures.",
            show_default="fonts",
        ),
    ] = None,
    set_: Annotated[
        str,
        typer.Option(
            "--set",
            metavar="SET",
            help="Tremor: headline 0.4-1.2 mm RMS, mild 0.15-0.8, wide 0.2-1.6, or two ends such "
            "as 0.2-1.2.",
        ),
    ] = "headline",
    seed: Annotated[int, typer.Option(help="The images are a function of it.", min=0)] = 0,
    count: Annotated[
        list[str] | None,
        typer.Option(metavar="SPLIT=N", help="Images of a split, such as train=4000."),
    ] = None,
    fonts: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="A folder of further fonts.")
    ] = None,
    strokes: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A file of pen strokes.")
    ] = None,
    omniglot: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The Omniglot strokes, folder or zip.")
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Real handwritten words, to be made shaky."),
    ] = None,
    person: Person = None,
    tremor: Annotated[
        Path | None,
        typer.Option(
            metavar="LIB", help="Tremor recorded from people, by `rvsm data tremor`, not modelled."
        ),
    ] = None,
    tremor_hz: Annotated[
        str | None,
        typer.Option(
            metavar="LOW-HIGH",
            help="Frequencies of the modelled tremor, such as 3-8, whatever its amplitude.",
        ),
    ] = None,
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs", help="Each word regular and shaky, nothing else matched: for tests."
        ),
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes that render.", min=1)] = 2,
) -> None:
    """Make a data set: an ordinary image folder with a manifest.

    \b
    Examples:
      rvsm data make data/fonts
      rvsm data make data/pen --task pen --set mild --seed 1
      rvsm data make data/spirals --task spiral --set wide
      rvsm data make data/small --count train=2000 --count val=400
      rvsm data make data/own --fonts ~/.fonts
      rvsm data make data/words --words DHSD
      rvsm data make data/own --words ~/words --person '/(P[0-9]+)_'
      rvsm data make data/faint --set 0.2-0.6
      rvsm data make data/recorded --words DHSD --tremor tremor.safetensors
      rvsm data make data/slow --words DHSD --tremor-hz 3-8
    """
    from rvsm.handwriting.datasets import make as make_set

    if words is not None and task is not None:
        raise typer.BadParameter("--words is a task of its own: leave out --task or --words.")
    with Bars() as bars:
        made = make_set(
            folder,
            task=(task or Task.fonts).value,
            set=set_,
            seed=seed,
            counts=read_counts(count),
            font_dirs=fonts or (),
            stroke_files=strokes or (),
            omniglot=omniglot,
            words_dir=words,
            person=person,
            tremor=tremor,
            tremor_hz=read_hertz(tremor_hz),
            pairs=pairs,
            workers=workers,
            progress=bars.named("rendering"),
        )
    typer.echo("\n".join(made.summary()))


@app.command("import")
@guarded
def import_(
    set_: Annotated[
        Path, typer.Argument(metavar="SET", help="Labelled scans, in any layout of `data list`.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only drawings of it, such as spiral; of a set that knows no tasks, what all are.",
            show_default="word",
        ),
    ] = None,
    layout: Layouts = None,
    person: Person = None,
    dpi: Annotated[
        float | None, typer.Option(help="Pixels per inch of the scans, where files do not say.")
    ] = None,
    isolate: Isolating = Isolation.auto,
    share: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPLIT=PART", help="Part of the images, such as val=0.15 or test-unseen=0."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Who goes into which split.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that normalise.")] = 2,
) -> None:
    """Make a data folder of labelled scans: normalised, and cut into splits by person.

    Each picture becomes what `rvsm predict --scan` makes of it, so that a network learns from
    what it will be asked about: words at the size of the letters of training; drawings fitted,
    neither turned level nor freed of lines. Splits of the set are taken together and cut anew:
    train, val, and test-unseen, nobody in two. What is no writing or cannot be read is skipped.

    \b
    Examples:
      rvsm data import parkinsons-drawings data/spiral --task spiral
      rvsm data import ~/scans data/own --person '/(P[0-9]+)_' --dpi 300
      rvsm data import list.csv data/drawn --task spiral --share test-unseen=0.3
      rvsm data import NewHandPD data/forms --task spiral --isolate registration
      rvsm train data/own --out runs/own
    """
    from rvsm.experiments.importing import import_set

    with Bars() as bars:
        made = import_set(
            set_,
            folder,
            layout=layout,
            task=task,
            person=person,
            dpi=dpi,
            isolate=isolate.value,
            shares=_read_shares(share),
            seed=seed,
            workers=workers,
            progress=bars.named("normalising"),
        )
    typer.echo("\n".join(made.summary()))


@app.command("tremor")
@guarded
def extract_tremor(
    folder: Annotated[
        Path, typer.Argument(metavar="UCI_DIR", help="Tablet recordings, as UCI 395 has them.")
    ],
    out: Annotated[Path, typer.Option(metavar="LIB", help="The library to write.")] = Path(
        "tremor.safetensors"
    ),
) -> None:
    """Take the tremor (3 to 12 Hz) out of tablet recordings, into a library to write with.

    Left out, and named: recordings that stand under several people, those without 2.3 s of
    drawing in one go, and the third test of UCI 395, in which several controls share a file.

    \b
    Examples:
      rvsm data tremor uci-pd-spirals --out tremor.safetensors
      rvsm data make data/recorded --task pen --tremor tremor.safetensors
    """
    from rvsm.handwriting.recorded.library import extract, save_library

    with Bars() as bars:
        found = extract(folder, progress=bars.named("extracting"))
    save_library(found.library, out)
    typer.echo("\n".join(found.library.summary()))
    _tell_left_out(found.left_out)
    shaking = found.library.trembling()
    typer.echo(
        f"{out}: {len(found.library.people())} people; in {len(shaking.tremors)} recordings of "
        f"{len(shaking.people())} patients a hand shakes as no control's does"
    )


@app.command()
@guarded
def redraw(
    recordings: Annotated[
        Path, typer.Argument(metavar="UCI_DIR", help="Tablet recordings, as UCI 395 has them.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
) -> None:
    """Draw tablet recordings as images, with a manifest that names the person.

    All at one scale (4 pixels a mm), one pen and the width of the printed spiral, so that neither
    tablet nor pressure tells the class.

    \b
    Examples:
      rvsm data redraw uci-pd-spirals data/spirals
      rvsm crossval data/spirals --by person --size 192x192
    """
    from rvsm.handwriting.recorded.redraw import redraw as draw

    with Bars() as bars:
        drawn = draw(recordings, folder, progress=bars.named("drawing"))
    people = {label: {r.carrier for r in drawn.rows if r.label == label} for label in _LABELS}
    typer.echo(
        f"{folder}: {len(drawn.rows)} images of {len(people['regular'])} controls and "
        f"{len(people['shaky'])} patients"
    )
    _tell_left_out(drawn.left_out)


@app.command()
@guarded
def check(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder of images, ours or another's.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    layout: Layouts = None,
    person: Person = None,
) -> None:
    """Check a data set: class balance, unreadable files, overlap of splits, short cuts.

    A linear model on ink amount, size, position, stroke width and component count must stay near
    chance: what it can tell, a network could tell without seeing tremor. For information it is
    shown what each of these, and the share of empty columns, tells alone, and how the classes
    differ in every column of the manifest. Files that cannot be read are named, and noted in the
    manifest's column error.

    Sets of others, in any layout that `rvsm data list` knows, are checked for people who are in two
    splits, pictures that are copies or nearly so, and colour modes or sizes that give the class
    away. Nothing is written there. The exit code is 1 where a fault was found.

    \b
    Examples:
      rvsm data check data/pen
      rvsm data check ~/scans
      rvsm data check parkinsons-drawings
      rvsm data check ~/scans --person '/(P[0-9]+)_'
    """
    from rich.console import Console

    from rvsm.handwriting.check import check as examine
    from rvsm.handwriting.leaks import check_collection
    from rvsm.handwriting.readers import is_own, read

    with Bars() as bars:
        if layout is None and person is None and is_own(folder):
            found = examine(folder, note=True, progress=bars.named("reading"))
        else:
            collection = read(folder, layout, person)
            found = check_collection(collection, progress=bars.named("reading"))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        Console().print(found)
    if not found.ok:
        raise typer.Exit(1)


@app.command("list")
@guarded
def list_(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A set; none lists the layouts.")
    ] = None,
    layout: Layouts = None,
    person: Person = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every row as CSV.")] = False,
) -> None:
    """List what a set of handwriting or drawings holds: tasks, labels, splits, people.

    Sets are read where they lie and in the layout that they are published in; without DIR the
    known layouts are listed.

    \b
    Examples:
      rvsm data list
      rvsm data list parkinsons-drawings
      rvsm data list uci-pd-spirals --csv
      rvsm data list ~/scans --person '([A-Z]+)-[0-9]+[.]png'
    """
    from rvsm.handwriting.manifest import manifest_text
    from rvsm.handwriting.readers import LAYOUTS, read

    if folder is None:
        wide = max(map(len, LAYOUTS))
        typer.echo("\n".join(f"{name:{wide}}  {LAYOUTS[name].about}" for name in LAYOUTS))
        return
    collection = read(folder, layout, person)
    if as_csv:
        typer.echo(manifest_text(collection.rows), nl=False)
    else:
        typer.echo("\n".join(collection.summary()))


@app.command()
@guarded
def sheet(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A set in any layout of `rvsm data list`.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture to write.")] = Path(
        "sheet.png"
    ),
    count: Annotated[int, typer.Option(min=1, max=400, help="Pictures on it.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Which pictures are drawn.")] = 0,
    layout: Layouts = None,
    person: Person = None,
    isolate: Isolating = Isolation.auto,
) -> None:
    """Draw a contact sheet: pictures of a set before and after normalising, to look at.

    Paper is whitened, ink blackened, margins are cropped; words are also turned level and lose
    ruled lines; a coloured pen is told from a black template. What is no writing says so.

    \b
    Examples:
      rvsm data sheet parkinsons-drawings
      rvsm data sheet DHSD --out words.png --count 60 --seed 1
      rvsm data sheet ~/forms --isolate registration --person '/(P[0-9]+)_'
    """
    from rvsm.handwriting.readers import read
    from rvsm.handwriting.scans.sheet import sheet_of

    with Bars() as bars:
        drawn = sheet_of(
            read(folder, layout, person),
            count=count,
            seed=seed,
            isolate=isolate.value,
            progress=bars.named("drawing"),
        )
    with atomic_write(out) as stream:
        drawn.save(stream, format="PNG")
    typer.echo(f"The contact sheet is in {out}")


def _tell_left_out(left_out: dict[str, str]) -> None:
    """Name what was left out, by its reason; the first few where it is many."""
    for line in by_reason(left_out):
        typer.echo(f"left out: {line}")


def read_hertz(text: str | None) -> tuple[float, float] | None:
    """Read two frequencies, the lower first."""
    if text is None:
        return None
    from rvsm.handwriting.datasets import two_ends

    ends = two_ends(text)
    if ends is None:
        raise typer.BadParameter(
            f"--tremor-hz {text} is not LOW-HIGH: write it like --tremor-hz 3-8."
        )
    return ends


def _read_shares(texts: list[str] | None) -> dict[str, float]:
    """Read SPLIT=PART options."""
    shares = {}
    for text in texts or ():
        split, _, part = text.partition("=")
        try:
            shares[split] = float(part)
        except ValueError:
            raise typer.BadParameter(
                f"--share {text} is not SPLIT=PART: write it like --share val=0.15."
            ) from None
    return shares


def read_counts(texts: list[str] | None) -> dict[str, int] | None:
    """Read SPLIT=N options."""
    counts = {}
    for text in texts or ():
        split, _, number = text.partition("=")
        if not split or not number.isdecimal():
            raise typer.BadParameter(
                f"--count {text} is not SPLIT=N: write it like --count train=4000."
            )
        counts[split] = int(number)
    return counts or None
