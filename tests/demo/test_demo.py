"""The demo as a user starts it: without a terminal, interrupted, and with a broken server."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rig.dicom_files import sample_files
from rig.servers import ROOT
from tests.support.running_demo import RunningDemo, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def demos() -> Iterator[list[RunningDemo]]:
    """The demos that a test starts; all of them are ended after it."""
    started: list[RunningDemo] = []
    yield started
    for demo in started:
        demo.close()


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
