"""Small stand-ins for public sets, in the layouts that they are published in."""

from __future__ import annotations

import csv
import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def drawing(seed: int, mode: str = "RGB", size: tuple[int, int] = (120, 100)) -> Image.Image:
    """A closed curve in pencil on grainy paper, another for each seed."""
    rng = np.random.default_rng(seed)
    paper = np.clip(rng.normal(235, 3, (size[1], size[0])), 0, 255).astype(np.uint8)
    picture = Image.fromarray(paper)
    angle = np.linspace(0, 4 * np.pi, 200)
    radius = np.linspace(5, 35, 200) + rng.normal(0, 2)
    for lobes in rng.choice(np.arange(1, 9), 2, replace=False):
        radius += 5 * np.sin(lobes * angle / 2 + 6 * rng.random())
    radius *= min(size) / 100
    x = size[0] / 2 + radius * np.cos(angle + rng.random())
    y = size[1] / 2 + radius * np.sin(angle + rng.random())
    ImageDraw.Draw(picture).line(
        list(zip(x, y, strict=True)), fill=90, width=max(2, min(size) // 60)
    )
    if mode == "RGBA":
        picture = picture.convert("RGBA")
        picture.putalpha(255)
        return picture
    return picture.convert(mode)


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def parkinsons_drawings(root: Path) -> Path:
    """Three volunteers of each class, two tries at each task; tests are the first tries."""
    seed = 0
    for task, letter in (("spiral", "E"), ("wave", "O")):
        for group, name in (("H", "healthy"), ("P", "parkinson")):
            for volunteer in (1, 2, 9):
                for repetition in (1, 2, 3):
                    split = "testing" if repetition == 1 else "training"
                    seed += 1
                    mode = "RGBA" if (group, volunteer) == ("H", 9) else "RGB"
                    file = f"V{volunteer:02d}{group}{letter}{repetition:02d}.png"
                    save(drawing(seed, mode), root / task / split / name / file)
    (root / "README.md").write_text("About the set.")
    return root


def uci_lines(test: int, seed: int, *, wide: float = 1.0, count: int = 400) -> list[str]:
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 6 * np.pi, count)
    radius = angle * 170 / (6 * np.pi)
    x = np.rint(wide * (200 + 1.06 * radius * np.cos(angle) + rng.normal(0, 1, count)))
    y = np.rint(200 + radius * np.sin(angle) + rng.normal(0, 1, count))
    time = 1732647300 + 7 * np.arange(count) + np.where(np.arange(count) > count // 2, 500, 0)
    return [
        f"{int(a)};{int(b)};0;{500 + i % 9};910;{t};{test}"
        for i, (a, b, t) in enumerate(zip(x, y, time, strict=True))
    ]


def uci_spirals(root: Path) -> Path:
    """Controls who share a stability recording; two patients who share a dynamic spiral."""
    stability = uci_lines(2, 99)
    shared = uci_lines(1, 77)
    files = {
        "control/C_0001.txt": uci_lines(0, 1) + uci_lines(1, 2),
        "control/C_0009.txt": uci_lines(0, 3) + uci_lines(1, 4) + stability,
        "control/C_0010.txt": uci_lines(0, 5) + uci_lines(1, 6) + stability,
        "parkinson/H_P000-0024.txt": uci_lines(0, 7) + shared,
        "parkinson/H_P000-0025.txt": uci_lines(0, 8) + shared,
        "parkinson/H_P000-0011.txt": uci_lines(0, 9, wide=1.85),
        "parkinson/P_26060001.txt": uci_lines(0, 10, wide=1.33) + uci_lines(2, 11),
    }
    for name, lines in files.items():
        path = root / "hw_dataset" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("\r\n".join(lines).encode())
    (root / "hw_dataset" / "readme.txt").write_text("X ; Y; Z; Pressure; ...")
    return root


def template(size: tuple[int, int] = (300, 300)) -> np.ndarray:
    """A printed spiral, as points."""
    angle = np.linspace(0, 6 * np.pi, 600)
    radius = 15 + angle * 110 / (6 * np.pi)
    middle = np.array(size) / 2
    return middle + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def over_template(
    seed: int, pen: tuple[int, int, int] = (40, 60, 200), shift: tuple[int, int] = (0, 0)
) -> tuple[Image.Image, Image.Image]:
    """A pen's wobbly trace over a printed spiral, and the pen alone."""
    rng = np.random.default_rng(seed)
    points = template() + np.array(shift)
    angle = np.linspace(0, 6 * np.pi, len(points))
    phase, size = rng.random(2) * 6, rng.uniform(5, 9)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    trace = points + size * np.sin(3.3 * angle + phase[0] * 6)[:, None] * direction
    both, alone = (Image.new("RGB", (300, 300), (250, 248, 240)) for _ in range(2))
    ImageDraw.Draw(both).line([tuple(p) for p in points], fill=(20, 20, 20), width=3)
    for picture in (both, alone):
        ImageDraw.Draw(picture).line([tuple(p) for p in trace], fill=pen, width=3)
    return both, alone


def black_forms(root: Path, people: int = 6) -> Path:
    """Class folders of black traces over one black form, scanned up to 4 pixels apart."""
    rng = np.random.default_rng(0)
    for person in range(people):
        shift = tuple(rng.integers(-4, 5, 2).tolist())
        picture = over_template(person + 20, (20, 20, 20), shift)[0]
        save(picture, root / ("healthy", "patients")[person % 2] / f"p{person}.png")
    return root


def newhandpd(root: Path) -> Path:
    for group, folder, numbers in (("H", "Healthy", (1, 28)), ("P", "Patient", (1, 3))):
        for number in numbers:
            for repetition in (1, 2, 3, 4):
                picture = over_template(100 * number + repetition)[0]
                name = f"sp{repetition}-{group}{number}.jpg"
                save(picture, root / f"{folder}Spiral" / name)
            save(drawing(number), root / f"{folder}Meander" / f"mea1-{group}{number}.jpg")
            save(drawing(number), root / f"{folder}Circle" / f"circA-{group}{number}.jpg")
    (root / "HealthySignal").mkdir()
    (root / "HealthySignal" / "sigSp1-H1.txt").write_text("0 1 2")
    return root


def handpd(root: Path, *, table: bool = True) -> Path:
    groups = {"SpiralControl": ("0001", "0002"), "SpiralPatients": ("0001", "0101")}
    for folder, exams in groups.items():
        for exam in exams:
            for repetition in (1, 2):
                name = f"{exam}-{repetition}.jpg"
                save(drawing(int(exam) + repetition), root / "Spiral_HandPD" / folder / name)
    if table:
        lines = ["_ID_EXAM,IMAGE_NAME,ID_PATIENT,CLASS_TYPE,GENDER,RIGH/LEFT-HANDED,AGE"]
        for kind, exams in ((1, ("0001", "0002")), (2, ("0001", "0101"))):
            lines += [
                f"{e},{e}-{r}.jpg,{7 if kind == 1 else int(e)},{kind},M,R,60"
                for e in exams
                for r in (1, 2)
            ]
        (root / "Spiral_HandPD.csv").write_text("\n".join(lines))
    return root


def dhsd(root: Path) -> Path:
    """Two writers, the same in both published splits; a ruled line under every word."""
    every = []
    for writer in (1, 2):
        for number in range(4):
            name = f"german_hw_data/writer{writer}/{writer}_{number}.png"
            save(ruled_word(10 * writer + number), root / name)
            every.append((name, f"Ort {number}", writer))
    for file, rows in (
        ("data.csv", every),
        ("train.csv", [row for i, row in enumerate(every) if i % 4]),
        ("test.csv", [row for i, row in enumerate(every) if not i % 4]),
    ):
        with (root / file).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("file_name", "text", "writer_id"), *rows])
    return root


def ruled_word(seed: int, rule: int | None = 40) -> Image.Image:
    """A faint zigzag of a word over a piece of a dark ruled line at the lower edge."""
    rng = np.random.default_rng(seed)
    picture = Image.new("L", (256, 64), 253)
    pen = ImageDraw.Draw(picture)
    x = np.linspace(20, 230, 30) + rng.normal(0, 1.5, 30)
    y = 30 + 10 * (-1.0) ** np.arange(30) + rng.normal(0, 2, 30)
    pen.line(list(zip(x, y, strict=True)), fill=150, width=2)
    if rule is not None:
        pen.line([(0, 61), (150, 61)], fill=rule, width=2)
    return picture


def omniglot(root: Path) -> Path:
    """Two archives that share an alphabet."""
    content = "START\n10.0,-20.0,0.0\n12.5,-22.0,16.0\n15.0,-25.0,31.0\nBREAK\n1,-2,400\n3,-4,420\n"
    root.mkdir(parents=True, exist_ok=True)
    for archive, alphabets in (("small1", ("Latin", "Greek")), ("small2", ("Greek", "Tagalog"))):
        top = f"strokes_background_{archive}"
        with zipfile.ZipFile(root / f"{top}.zip", "w") as members:
            for alphabet in alphabets:
                for person in (1, 2):
                    name = f"{top}/{alphabet}/character03/0394_{person:02d}.txt"
                    members.writestr(name, content)
    return root


def idx(root: Path, *, count: int = 5) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        header = struct.pack(">HBBIII", 0, 8, 3, count, 28, 28)
        with gzip.open(root / f"{split}-images-idx3-ubyte.gz", "wb") as stream:
            stream.write(header + images.tobytes())
        labels = struct.pack(">HBBI", 0, 8, 1, count) + bytes(range(count))
        (root / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return root
