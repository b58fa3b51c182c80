"""Make the folder of further fonts that ``rvsm reproduce --full`` was run with.

Eight fonts to be tested on are few, and what a network learns from forty does not carry to all
others. Debian packages more than a hundred families under free licences; ``fonts.txt`` lists the
packages and files taken, one or two cuts of a family, handwriting first. On Debian or Ubuntu:

    python benchmarks/reproduce/fonts.py runs/fonts
    rvsm reproduce --full --fonts runs/fonts --out runs/full
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LIST = Path(__file__).with_name("fonts.txt")


def main(out: Path) -> None:
    """Download the packages and copy the listed files into `out`."""
    wanted = [line.split(" ", 1) for line in LIST.read_text("utf-8").splitlines()]
    packages = sorted({package for package, _ in wanted})
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["apt-get", "download", "-q", *packages], cwd=scratch, check=True)
        for archive in Path(scratch).glob("*.deb"):
            name = archive.name.split("_", 1)[0]
            subprocess.run(["dpkg-deb", "-x", archive, Path(scratch, name)], check=True)
        for package, file in wanted:
            found = [
                path
                for path in sorted(Path(scratch, package).rglob("*"))
                if path.name == file and not path.is_symlink()
            ]
            if not found:
                sys.exit(f"{package} no longer holds {file}: take it out of {LIST}.")
            shutil.copyfile(found[0], out / file)
    print(f"{len(wanted)} fonts of {len(packages)} packages are in {out}.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
