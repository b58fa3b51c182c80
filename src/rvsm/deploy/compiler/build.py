"""From C to a shared library: the system's compiler, and a private cache of what it made."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from rvsm.atomic import explain
from rvsm.errors import CompilerError, RvsmError
from rvsm.processor import processor_facts

FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_SECONDS = 600


def find_compiler() -> str | None:
    """Return the path of the C compiler: that of the variable CC, or cc, gcc or clang."""
    named = os.environ.get("CC")
    for name in (named,) if named else ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found is not None:
            return found
    return None


def cache_folder() -> Path:
    """Return the private folder of compiled libraries, made if it is not there.

    It is ``$RVSM_CACHE`` or ``$XDG_CACHE_HOME/rvsm`` or ``~/.cache/rvsm``. What it holds is run,
    so it must belong to the user and to nobody else.

    Raises
    ------
    CompilerError
        If it cannot be made, or is not private.
    """
    own = os.environ.get("RVSM_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(own or f"{base}/rvsm").expanduser()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise CompilerError(
            f"{explain(error, folder)} The variable RVSM_CACHE names another folder."
        ) from error
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise CompilerError(
            f"{folder} holds code that is run, and others can write or read there: give it mode "
            "700, or name another folder in the variable RVSM_CACHE."
        )
    return folder


def cached(suffix: str, *texts: str) -> Path:
    """Return where something made of these texts is kept, on this machine's processor."""
    key = "\0".join((*texts, _processor()))
    return cache_folder() / (hashlib.sha256(key.encode()).hexdigest()[:32] + suffix)


def build(code: str, compiler: str, flags: tuple[str, ...] = ()) -> Path:
    """Compile C source to a shared library for this machine, or find it made before.

    Parameters
    ----------
    code
        C source.
    compiler
        Path of a compiler that understands GCC's options.
    flags
        More options; later ones win.

    Returns
    -------
    Path
        The library, in :func:`cache_folder`, under a name made of source, compiler, options and
        the processor's features.

    Raises
    ------
    CompilerError
        If the compiler fails, with the first line of what it says.
    """
    options = (*FLAGS, "-march=native", *_openmp(compiler), *flags)
    library = cached(".so", code, compiler, version(compiler), *options)
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as folder:
        source, made = Path(folder) / "network.c", Path(folder) / "network.so"
        try:
            source.write_text(code)
            command = [compiler, *options, "-shared", "-fPIC", str(source), "-o", str(made), "-lm"]
            _run(command)
            made.chmod(0o600)
            made.replace(library)
        except OSError as error:
            raise CompilerError(explain(error, library)) from error
    return library


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CompilerError(
            f"{command[0]} did not finish within {_SECONDS} s; the network may be too large."
        ) from error
    except OSError as error:
        raise CompilerError(explain(error, command[0], "run")) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line] or ["no reason given"]
        raise CompilerError(f"{command[0]} failed: {said[0].strip()}")
    return done.stdout


@functools.cache
def version(compiler: str) -> str:
    return _run([compiler, "--version"])


@functools.cache
def _openmp(compiler: str) -> tuple[str, ...]:
    """Return the option for threads where the compiler has them."""
    with tempfile.TemporaryDirectory(prefix="rvsm-") as folder:
        source = Path(folder) / "threads.c"
        source.write_text("#include <omp.h>\nint threads(void) { return omp_get_max_threads(); }\n")
        made = str(Path(folder) / "threads.so")
        try:
            _run([compiler, "-fopenmp", "-shared", "-fPIC", str(source), "-o", made])
        except RvsmError:
            return ()
    return ("-fopenmp",)


@functools.cache
def _processor() -> str:
    """Return what tells this machine's instruction set from another's."""
    facts = processor_facts()
    known = [facts.get(key, "") for key in ("flags", "Features", "model name")]
    return "\n".join((platform.machine(), platform.processor(), *known))
