"""Serve the page on this machine until ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from rvsm.errors import RvsmError
from rvsm.experiments.serve.guard import is_loopback

PORT = 8765


def serve(
    run_dir: Path,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    store: Path | None = None,
    open_browser: bool = False,
    compiled: bool = True,
    drawing: bool = False,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve the page to try a run's network, until ctrl-C.

    Parameters
    ----------
    run_dir
        A finished run.
    host
        Address to answer at; any but a loopback address lets others in.
    port
        0 takes a free one.
    store
        Where drawings and scans are kept; by default nowhere.
    open_browser
        Whether to open the page in a browser.
    compiled
        Whether to compile the network where there is a C compiler; PyTorch answers until it is
        done.
    drawing
        Whether scans are drawings, see `Oracle`.
    tell
        Called with each sentence for the user.

    Raises
    ------
    RunError
        If the folder holds no finished run.
    RvsmError
        If the port or the address cannot be had, or the folder to store in cannot be made.
    """
    import uvicorn

    from rvsm.experiments.serve import compiling
    from rvsm.experiments.serve.answers import Oracle
    from rvsm.experiments.serve.app import make_app
    from rvsm.experiments.serve.store import Store
    from rvsm.experiments.serve.worker import Worker

    oracle = Oracle(run_dir, drawing=drawing)
    kept = None if store is None else Store(store)
    bound = bind(host, port)
    worker = Worker()
    compilation = compiling.start(oracle.run_dir, oracle.use) if compiled else None
    app = make_app(oracle, worker, host=host, store=kept)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=64,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=3,
        )
    )
    url = address(bound)
    tell(f"The page is at {url} (ctrl-C ends it).")
    if not is_loopback(host):
        tell(f"Anyone who reaches this machine at {host} can use it, and sees no encryption.")
    if kept is not None:
        tell(f"Drawings and scans are kept in {kept.folder}.")
    if open_browser:
        import webbrowser

        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    try:
        # uvicorn ends on ctrl-C by itself, and then passes it on.
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[bound])
    finally:
        if compilation is not None:
            compilation.stop()
        worker.close()
        bound.close()
    tell("The page is closed.")


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises
    ------
    RvsmError
        In one sentence: the port is taken or not ours to take, or the address is not of this
        machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        made = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise RvsmError(
            f"There is no address {host}: give --host an address of this machine, or leave it out."
        ) from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(place)
        made.listen(128)
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise RvsmError(_why_not(error, host, port)) from None
    return made


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is in use: stop what uses it, or give another --port (0 takes "
            "a free one)."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} is kept for the system: give a --port above 1023, or 0 for a free one."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: leave out --host, or give one that is."
    return f"The page cannot be served at {host}, port {port} ({error.strerror}): give another."


def address(bound: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = bound.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
