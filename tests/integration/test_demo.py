"""The demo as a user starts it: on a terminal, without one, interrupted, and with a broken server."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import psutil
import pytest
import requests

from rig.dicom_files import sample_files
from rig.servers import ROOT, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class RunningDemo:
    """A running demo, with its output so far."""

    def __init__(self, state: Path, *, terminal: bool = False, **env: str) -> None:
        self.state = state
        self._output = bytearray()
        ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "demo", "--state", str(state)],
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "110", "TERM": "xterm"} | env,
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs if terminal else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(theirs)
        self._terminal = ours
        source = ours if terminal or self.process.stdout is None else self.process.stdout.fileno()
        self._reader = threading.Thread(target=self._read, args=(source,))
        self._reader.start()

    @property
    def output(self) -> str:
        """The output of the demo so far, without colours."""
        return re.sub(
            r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\]8;[^\x1b]*\x1b\\", "", self._output.decode(errors="replace")
        )

    def wait_for_output(self, text: str, timeout: float = 150) -> None:
        """Wait until the demo has printed a text."""
        wait_for(
            f"{text!r} from the demo",
            lambda: text in self.output or self.process.poll() is not None,
            timeout=timeout,
        )
        assert text in self.output, self.output

    def end(self, timeout: float = 150) -> int:
        """Wait for the demo's end, and return its exit status."""
        status = self.process.wait(timeout)
        self._reader.join(timeout=10)
        return status

    def left_running(self) -> list[str]:
        """The command lines of the demo's processes that still run."""
        return [
            " ".join(process.info["cmdline"] or [])
            for process in psutil.process_iter(["cmdline", "cwd", "status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE
            and str(process.info["cwd"] or "").startswith(str(self.state))
        ]

    def close(self) -> None:
        """End the demo if a test has not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
        self._reader.join(timeout=10)
        if self.process.stdout:
            self.process.stdout.close()
        os.close(self._terminal)

    def _read(self, source: int) -> None:
        try:
            while chunk := os.read(source, 65536):
                self._output += chunk
        except OSError:
            # The other end of a terminal has closed.
            pass


@pytest.fixture
def demos() -> Iterator[list[RunningDemo]]:
    """The demos that a test starts; all of them are ended after it."""
    started: list[RunningDemo] = []
    yield started
    for demo in started:
        demo.close()


def start(demos: list[RunningDemo], state: Path, *, terminal: bool = False, **env: str) -> RunningDemo:
    """Start a demo."""
    demos.append(RunningDemo(state, terminal=terminal, **env))
    return demos[-1]


def test_demo_without_a_terminal_ends_by_itself(demos: list[RunningDemo], tmp_path: Path) -> None:
    demo = start(demos, tmp_path)
    assert demo.end() == 0, demo.output
    count = len(sample_files())
    assert f"{count}/{count} instances" in demo.output
    assert re.search(rf"Total .* {count} ", demo.output)
    assert "Instances that failed: 0. Expected objects that are missing: 0." in demo.output
    assert re.findall(r"^(running|deferred|success) ", demo.output, re.MULTILINE) == [
        "running",
        "deferred",
        "running",
        "success",
    ]
    assert re.search(r"held a worker slot for \d+\.\d s", demo.output)
    assert demo.left_running() == []


def test_demo_on_a_terminal_leaves_the_ui_open_until_ctrl_c(demos: list[RunningDemo], tmp_path: Path) -> None:
    demo = start(demos, tmp_path, terminal=True)
    demo.wait_for_output("Press Ctrl-C")
    address = re.search(r"http://127\.0\.0\.1:\d+/dags/\S+", demo.output)
    assert address, demo.output
    assert requests.get(address[0], timeout=30).ok
    demo.process.send_signal(signal.SIGINT)
    assert demo.end() == 0, demo.output
    assert demo.left_running() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_demo_interrupted_while_it_starts_leaves_nothing_running(
    demos: list[RunningDemo], tmp_path: Path, number: signal.Signals
) -> None:
    demo = start(demos, tmp_path)
    demo.wait_for_output("Started Cloud Storage")
    demo.process.send_signal(number)
    assert demo.end() == 128 + number, demo.output
    assert demo.left_running() == []


def test_signal_during_a_finalizer_ends_the_demo(tmp_path: Path) -> None:
    program = """
import os, signal, sys, time, weakref
from demo import __main__ as demo

class Thing: pass

def run(*_):
    thing = Thing()
    weakref.finalize(thing, signal.raise_signal, signal.SIGTERM)
    del thing
    time.sleep(60)

demo.Demo.run = run
sys.argv = ["demo", "--state", sys.argv[1]]
sys.exit(demo.main())
"""
    command = [sys.executable, "-c", program, str(tmp_path / "state")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 128 + signal.SIGTERM, done.stdout + done.stderr


def test_demo_explains_a_server_that_does_not_start(demos: list[RunningDemo], tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "gcp_storage_emulator"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise SystemExit('no room on this disk')")
    demo = start(demos, tmp_path / "state", PYTHONPATH=str(broken.parent))
    assert demo.end() == 1
    assert "Cloud Storage emulator ended during its start" in demo.output
    assert "no room on this disk" in demo.output
    assert demo.left_running() == []


def test_second_demo_in_the_same_folder_is_refused(demos: list[RunningDemo], tmp_path: Path) -> None:
    first = start(demos, tmp_path)
    first.wait_for_output("Started Cloud Storage")
    second = start(demos, tmp_path)
    assert second.end() == 1
    assert "A demo is running in this folder already" in second.output
    assert first.process.poll() is None
