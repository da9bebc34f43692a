"""The demo's command line: it starts the demo, handles signals, and leaves no process running."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from demo.export import Demo, DemoFailed
from demo.view import View
from rig.servers import ROOT, ServerFailed, stop_all

if TYPE_CHECKING:
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM; not an Exception, so that no handler on the way swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _again_if_lost(lost: sys.UnraisableHookArgs) -> None:
    """Repeat a signal that came while Python ran a finalizer, where exceptions are dropped."""
    if isinstance(lost.exc_value, Interrupted):
        threading.Timer(0.05, os.kill, (os.getpid(), lost.exc_value.number)).start()
    else:
        sys.__unraisablehook__(lost)


def main() -> int:
    """Run the demo and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m demo", description="Export DICOM files with Airflow, all on this machine."
    )
    parser.add_argument("--state", type=Path, default=ROOT / ".demo", help="folder for databases and logs")
    state: Path = parser.parse_args().state
    view = View()
    logging.disable(logging.WARNING)
    sys.unraisablehook = _again_if_lost
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            view.failure(f"A demo is running in this folder already (its state is in {state}).")
            return 1
        return _run(state, view)


def _run(state: Path, view: View) -> int:
    _wipe(state)
    demo = Demo(state, view)
    view.note("Airflow exports a DICOM store to Cloud Storage, all on this machine.")
    try:
        demo.run()
        if view.interactive:
            view.farewell(demo.airflow_address, demo.bucket_address, demo.examples)
            signal.pause()
    except Interrupted as interrupted:
        if demo.complete:
            return 0
        view.note("Interrupted.")
        return 128 + interrupted.number
    except (DemoFailed, ServerFailed) as failure:
        view.failure(str(failure))
        return 1
    except Exception as error:  # the logs say more than a traceback of the demo would
        view.failure(demo.explained(f"{type(error).__name__}: {error}"))
        return 1
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        with view.step("Stopping Airflow and the emulators", "Stopped Airflow and the emulators"):
            stop_all(demo.servers)
    return 0


def _wipe(state: Path) -> None:
    shutil.rmtree(state / "airflow", ignore_errors=True)
    for log in state.glob("*.log"):
        log.unlink()


if __name__ == "__main__":
    sys.exit(main())
