"""The demo's terminal output: steps, a progress bar, a summary."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_dicom.api_types import Counters
    from demo.summary import Example, Phase, Study


#: The width of the summary with whole UIDs, in columns.
_WIDE = 110
_PLAIN: dict[str, Any] = {"title_justify": "left", "box": None, "pad_edge": False}


class View:
    """The output on a terminal, or as plain lines without one."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDE
        self.interactive = sys.stdin.isatty() and self._console.is_terminal

    @contextlib.contextmanager
    def step(self, doing: str, done: str) -> Iterator[None]:
        """Show a step while it runs, and its duration when it is done.

        :param doing: what is being done.
        :param done: what has been done then.
        """
        started = time.monotonic()
        with self._console.status(f"{escape(doing)} ..."):
            yield
        self._console.print(f"[green]✓[/] {escape(done)} [dim]{time.monotonic() - started:.1f} s[/]")

    @contextlib.contextmanager
    def progress(self, total: int) -> Iterator[ExportProgress]:
        """Show the progress of an export of ``total`` instances."""
        if self._console.is_terminal:
            bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("[red]{task.fields[failed]}[/]"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            with bar:
                yield _Bar(bar, total)
        else:
            yield _Lines(self._console, total)

    def summary(self, studies: list[Study], phases: list[Phase], missing: int, failed: int) -> None:
        """Show the objects in the bucket, and the task's states with their durations."""
        objects = Table(
            title="Exported objects by study",
            title_justify="left",
            box=None,
            pad_edge=False,
            show_footer=True,
        )
        objects.add_column("Study", "Total", no_wrap=True)
        objects.add_column("Modality", no_wrap=True)
        objects.add_column("Series", str(sum(study.series for study in studies)), justify="right")
        objects.add_column("Objects", str(sum(study.objects for study in studies)), justify="right")
        objects.add_column("Bytes", f"{sum(study.size for study in studies):,}", justify="right")
        for study in studies:
            uid = study.uid if self._console.width >= _WIDE else _shortened(study.uid)
            counts = (str(study.series), str(study.objects), f"{study.size:,}")
            objects.add_row(uid, study.modalities, *counts)
        states = Table(title="The task's states", **_PLAIN)
        states.add_column("State")
        states.add_column("From")
        states.add_column("For", justify="right")
        for phase in phases:
            length = "" if phase.seconds is None else f"{phase.seconds:.1f} s"
            states.add_row(phase.state, f"{phase.since.astimezone():%H:%M:%S}", length)
        held = sum(phase.seconds or 0 for phase in phases if phase.state == "running")
        whole = (phases[-1].since - phases[0].since).total_seconds() if phases else 0
        for table in (objects, states):
            self._console.print()
            self._console.print(table)
        self._console.print()
        self._console.print(f"Instances that failed: {failed}. Expected objects that are missing: {missing}.")
        self._console.print(f"The task took {whole:.1f} s and held a worker slot for {held:.1f} s of them.")

    def farewell(self, run: str, bucket: str, examples: Sequence[Example]) -> None:
        """Show what to click next, and how to end the demo.

        :param run: the address of the run in Airflow's web interface.
        :param bucket: the address of the list of exported objects.
        :param examples: the example DAGs.
        """
        table = Table(title="Each of these examples runs with its defaults", **_PLAIN, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for example in examples:
            table.add_row(f"[link={example.address}]{example.dag_id}[/link]", escape(example.description))
        self._console.print()
        self._console.print(table)
        self._console.print()
        for text, address in (
            ("Airflow is still running. Open the run, its task export, then the tab DICOM export:", run),
            ("Open an example, click Trigger, then Trigger in the form:", examples[0].address),
            ("What has been exported is listed at:", bucket),
        ):
            self._console.print(f"{text}\n  [link={address}]{address}[/link]", soft_wrap=True)
        self._console.print("Press Ctrl-C to stop everything.")

    def note(self, message: str) -> None:
        """Show a remark."""
        self._console.print(escape(message))

    def failure(self, message: str) -> None:
        """Show why the demo failed."""
        self._console.print(f"[red]✗[/] {escape(message)}", soft_wrap=True)


class ExportProgress:
    """Shows the counters of an export."""

    def show(self, task_state: str, counters: Counters) -> None:
        """Show the task's state and the Operation's counters."""
        raise NotImplementedError


class _Bar(ExportProgress):
    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._row = bar.add_task("Export", total=total, failed="")

    def show(self, task_state: str, counters: Counters) -> None:
        failed = f"{counters.failure} failed" if counters.failure else ""
        description = f"Exporting (task is {task_state})"
        self._bar.update(self._row, description=description, completed=counters.done, failed=failed)


class _Lines(ExportProgress):
    """Shows one line for each state of the task and each quarter of the export, without a terminal."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._shown: tuple[str, int] | None = None

    def show(self, task_state: str, counters: Counters) -> None:
        current = (task_state, 4 * counters.done // self._total)
        if current != self._shown:
            self._shown = current
            failed = f", {counters.failure} failed" if counters.failure else ""
            self._console.print(f"  task {task_state}: {counters.done}/{self._total} instances{failed}")


def _shortened(uid: str, head: int = 16, tail: int = 24) -> str:
    return uid if len(uid) <= head + tail else f"{uid[:head]}…{uid[-tail:]}"
