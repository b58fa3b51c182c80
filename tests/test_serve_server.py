"""The server of the page: who may ask, one job at a time, ports, ctrl-C, the compiled network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commandline import run_here
from report_fixture import make_pen_run
from rvsm.errors import RvsmError
from rvsm.experiments.runs import load_run
from rvsm.experiments.serve import compiling
from rvsm.experiments.serve.answers import Oracle
from rvsm.experiments.serve.guard import allowed, is_loopback
from rvsm.experiments.serve.server import address, bind
from rvsm.experiments.serve.worker import Busy, Worker
from rvsm.native import find_compiler

pytest.importorskip("uvicorn", reason="needs rvsm[serve]")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pen_run(tmp_path_factory.mktemp("server"))


@pytest.mark.parametrize(
    "asked", ["127.0.0.1", "127.0.0.1:8765", "localhost:1", "[::1]:8765", "127.9.9.9", "LOCALHOST"]
)
def test_names_of_this_machine(asked: str) -> None:
    assert allowed(asked, "127.0.0.1")


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8765",
        "192.168.1.20",
        "127.0.0.1:port",
        "127.0.0.1:99999",
        "evil@127.0.0.1",
        "127.0.0.1/evil.example",
        "127.0.0.1?evil.example",
        "127.0.0.1#",
        "[::1",
        "0x7f.1",
        "2130706433",
    ],
)
def test_other_names(asked: str) -> None:
    assert not allowed(asked, "127.0.0.1")


def test_names_of_a_machine_that_lets_others_in() -> None:
    for asked in ("192.168.1.20:8765", "10.0.0.1", "[fe80::1]:80", "localhost", "127.0.0.1"):
        assert allowed(asked, "0.0.0.0")
    # A name could be pointed here by its owner, an address cannot.
    assert not allowed("evil.example", "0.0.0.0")
    assert allowed("studio.local:8765", "studio.local")
    assert not allowed("evil.example", "studio.local")


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.20", "studio.local")))


def test_jobs_run_one_at_a_time() -> None:
    worker, running, most = Worker(), 0, 0

    def job(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1
        return number

    async def several() -> list[int]:
        return await asyncio.gather(*(worker.run(lambda n=n: job(n)) for n in range(5)))

    assert asyncio.run(several()) == list(range(5))
    assert most == 1
    worker.close()


def test_errors_and_full_queues() -> None:
    worker, go = Worker(waiting=2, timeout_s=5), threading.Event()

    async def fails() -> None:
        with pytest.raises(KeyError):
            await worker.run(lambda: {}["nothing"])

    async def fills() -> None:
        first = asyncio.ensure_future(worker.run(lambda: go.wait(5)))
        await asyncio.sleep(0.1)
        waiting = [asyncio.ensure_future(worker.run(lambda: True)) for _ in range(2)]
        await asyncio.sleep(0.1)
        with pytest.raises(Busy, match="busy"):
            await worker.run(lambda: True)
        go.set()
        assert await asyncio.gather(first, *waiting) == [True, True, True]

    asyncio.run(fails())
    asyncio.run(fills())
    worker.close()


def test_a_job_given_up_while_it_waits_never_runs() -> None:
    worker, go, ran = Worker(timeout_s=0.1), threading.Event(), []

    async def both() -> None:
        first = asyncio.ensure_future(worker.run(lambda: go.wait(5)))
        await asyncio.sleep(0.02)
        with pytest.raises(Busy, match="No answer"):
            await worker.run(lambda: ran.append(1))
        with contextlib.suppress(Busy):
            await first

    asyncio.run(both())
    go.set()
    worker.close()
    assert ran == []


def test_ports_and_addresses() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(RvsmError, match=f"Port {port} of 127.0.0.1 is in use: .*--port"):
            bind("127.0.0.1", port)
    for host, part in (("203.0.113.7", "no address of this machine"), ("no.such.invalid", "There")):
        with pytest.raises(RvsmError, match=part):
            bind(host, 0)


def test_a_port_in_use_is_one_sentence(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = run_here(capfd, "serve", run, "--port", port, "--no-compile")
    assert f"Port {port} of 127.0.0.1 is in use" in told.sentence()


def test_a_folder_without_a_run_is_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = run_here(capfd, "serve", tmp_path, "--port", 0)
    assert "holds no finished run" in told.sentence()


@contextlib.contextmanager
def served(run: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server in a process of its own, and the address it printed."""
    code = "import sys; from rvsm.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-u", "-c", code, "serve", str(run), "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            yield found[0], process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="uses signals of POSIX")
@pytest.mark.parametrize(
    ("option", "sent"),
    [
        ("--no-compile", signal.SIGINT),
        ("--no-compile", signal.SIGTERM),
        ("--compile", signal.SIGINT),
    ],
    ids=["plain", "terminated", "compiling"],
)
def test_ctrl_c_ends_it(run: Path, option: str, sent: signal.Signals) -> None:
    with served(run, option) as (url, process):
        with urllib.request.urlopen(url, timeout=60) as page:
            assert b"Shaky or regular" in page.read()
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "The page is closed." in out
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.skipif(find_compiler() is None, reason="no C compiler is installed")
def test_the_compiled_network_answers_alike(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()
    oracle = Oracle(run)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 256)).astype(np.uint8)
    plain = [oracle.probability(image) for image in images]
    evidence = oracle.evidence(images[0])

    def use(network: Any) -> None:
        oracle.use(network)
        ready.set()

    started = compiling.start(run, use)
    assert started is not None
    assert ready.wait(240)
    assert oracle.compiled
    assert [oracle.probability(image) for image in images] == pytest.approx(plain, abs=1e-5)
    assert len(oracle.evidence(images[0])) == pytest.approx(len(evidence), rel=0.2)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert compiling.start(run, use) is None


def test_facts_make_a_network(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process prints is all the page needs; the library here is a stand-in."""

    class Doubling:
        def __init__(self, facts: Any, threads: int) -> None:
            assert (facts.input_shape, facts.output_shape, threads) == ((1, 2, 2), (2,), 1)

        def run(self, images: Any, result: Any) -> None:
            result[...] = 2 * images.reshape(len(images), 4)[:, :2]

    monkeypatch.setattr(compiling, "Library", Doubling)
    told = {"path": "net.so", "name": "net", "input_shape": [1, 2, 2], "output_shape": [2]}
    network = compiling.called(json.loads(json.dumps(told | {"workspace_bytes": 64})))
    images = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert network(images).tolist() == [[0, 2], [8, 10]]
    assert load_run(run)[0].method == "l0"
