"""A demo that runs in a process of its own, as a user starts it."""

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

from rig.servers import ROOT, wait_for

if TYPE_CHECKING:
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


def start(demos: list[RunningDemo], state: Path, *, terminal: bool = False, **env: str) -> RunningDemo:
    """Start a demo.

    :param demos: the list of started demos, which gets the new one.
    :param state: the folder for the demo's databases and logs.
    :param terminal: the demo runs on a terminal.
    :param env: more variables of its environment.
    """
    demos.append(RunningDemo(state, terminal=terminal, **env))
    return demos[-1]
