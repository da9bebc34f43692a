"""Run the benchmark: ``python -m benchmarks``; ``--help`` lists the options.

Exit status 1: an event of ours was missing or wrong, or a target was missed.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from rich.console import Console

from benchmarks import environment, report, triggerer
from benchmarks.child import run_child
from benchmarks.contest import Contest
from benchmarks.contestants import BY_KEY, CONTESTANTS, FLOOR
from benchmarks.environment import ROOT
from benchmarks.results import Results
from benchmarks.startup import OPERATOR_MODULES, PACKAGE_FOLDER, TASKS
from benchmarks.targets import verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = ROOT / "benchmarks" / "results.json"
PLOT = ROOT / "docs" / "benchmark.png"
PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
#: Only ours and the floor are run with more triggers than this.
MOST_FOR_PEERS = 1000
INTERVAL = 5
QUICK_DURATION = 20.0
SIZES = (100, 1000, 10_000)
QUICK_SIZES = (100,)
#: Seconds between polls, and until the last operation ends, in the real triggerer.
QUICK_TRIGGERER = (10, 40.0)
REPEATS = 5
PACKAGES = (
    "airflow-provider-dicom",
    "apache-airflow",
    "apache-airflow-providers-google",
    "apache-airflow-providers-databricks",
    "aiohttp",
)


def _arguments(command_line: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 pending only, 20 s; writes no files")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="N")
    parser.add_argument(
        "--duration", type=float, default=60.0, help="seconds until the last operation of a loop ends"
    )
    parser.add_argument("--grace", type=float, default=240.0, help="seconds that an event may come late")
    parser.add_argument(
        "--contestants",
        nargs="+",
        choices=list(BY_KEY),
        default=list(BY_KEY),
        metavar="KEY",
        help=f"some of: {', '.join(BY_KEY)}",
    )
    parser.add_argument(
        "--sabotage", choices=["lost", "wrong"], help="break one operation: the benchmark has to fail"
    )
    parser.add_argument(
        "--startup", action="store_true", help="measure only the start of a task; writes no files"
    )
    parser.add_argument(
        "--triggerer",
        action="store_true",
        help="measure only the real triggerer, and put the figures beside the others of the last run",
    )
    parser.add_argument(
        "--before", metavar="REVISION", help="also measure the start of a task with this revision's package"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing, show the last results again")
    arguments = parser.parse_args(command_line)
    if arguments.quick:
        arguments.sizes, arguments.duration = list(QUICK_SIZES), QUICK_DURATION
    arguments.triggerer_interval = QUICK_TRIGGERER[0] if arguments.quick else triggerer.INTERVAL
    arguments.triggerer_duration = QUICK_TRIGGERER[1] if arguments.quick else triggerer.DURATION
    return arguments


def _run_contests(
    results: Results, options: argparse.Namespace, url: str, env: dict[str, str], console: Console
) -> None:
    for size in options.sizes:
        for contestant in CONTESTANTS:
            is_peer = not contestant.ours and contestant.key != FLOOR
            if contestant.key not in options.contestants or (is_peer and size > MOST_FOR_PEERS):
                continue
            console.print(f"{contestant.label}, {size:,} pending ...", highlight=False)
            contest = Contest(
                contestant=contestant.key,
                size=size,
                url=url,
                interval=INTERVAL,
                duration=options.duration,
                grace=options.grace,
                sabotage=options.sabotage,
            )
            results.contests.append(
                run_child("benchmarks.contest", env=env, stdin=json.dumps(asdict(contest)))
            )


def _run_triggerers(
    results: Results, options: argparse.Namespace, url: str, folder: Path, console: Console
) -> None:
    results.triggerer_interval, results.triggerer_duration = (
        options.triggerer_interval,
        options.triggerer_duration,
    )
    results.triggerers = []
    with triggerer.scenery(folder, url) as scenery:
        for size in (size for size in options.sizes if size in triggerer.SIZES):
            for key in (key for key in triggerer.CONTESTANTS if key in options.contestants):
                console.print(f"{BY_KEY[key].label}, {size:,} in a real triggerer ...", highlight=False)
                contest = Contest(
                    contestant=key,
                    size=size,
                    url=url,
                    interval=options.triggerer_interval,
                    duration=options.triggerer_duration,
                    grace=options.grace,
                    sabotage=options.sabotage,
                )
                results.triggerers.append(asdict(triggerer.compete(scenery, contest)))


@contextmanager
def _package_of(revision: str) -> Iterator[str]:
    """Extract the provider's package of a revision, and yield the folder."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "package.tar"
        command = ["git", "archive", f"--output={archive}", revision, "airflow_provider_dicom"]
        subprocess.run(command, cwd=ROOT, check=True)
        shutil.unpack_archive(archive, folder)
        yield folder


def _run_startups(
    results: Results, url: str, env: dict[str, str], console: Console, before: str | None
) -> None:
    console.print("Imports, and tasks up to their deferral ...")

    def median(*arguments: str) -> dict[str, float]:
        # The first run may still have to compile.
        runs = [run_child("benchmarks.startup", *arguments, env=env) for _ in range(1 + REPEATS)][1:]
        return {key: statistics.median(run[key] for run in runs) for key in runs[0]}

    for label, module in OPERATOR_MODULES.items():
        results.imports[label] = median("import", module)["wall"]
    for label, kind in TASKS.items():
        results.tasks[label] = median("task", kind, url)
    if before is not None:
        with _package_of(before) as folder:
            command = ("benchmarks.startup", "task", "dicom", url)
            # In turns, so that changes of the machine's load favour neither revision.
            runs = [
                (run_child(*command, env=env), run_child(*command, env=env | {PACKAGE_FOLDER: folder}))
                for _ in range(2 * REPEATS)
            ]
        for label, number in (("DICOM store", 0), (f"DICOM store at {before}", 1)):
            results.tasks[label] = {
                what: statistics.median(pair[number][what] for pair in runs) for what in ("cpu", "wall")
            }


def _machine() -> str:
    return (
        f"{psutil.cpu_count()} CPUs ({platform.machine()}), {platform.system()}, "
        f"Python {platform.python_version()}"
    )


def _measure(options: argparse.Namespace, console: Console) -> Results:
    if options.triggerer and not options.sabotage and RESULTS.exists():
        results = Results.read(RESULTS)
    else:
        versions = {name: version(name) for name in PACKAGES}
        results = Results(INTERVAL, options.duration, _machine(), versions)
    with tempfile.TemporaryDirectory() as folder, environment.server() as url:
        env = environment.variables(url, Path(folder))
        if not (options.startup or options.triggerer):
            _run_contests(results, options, url, env, console)
        if not options.startup:
            _run_triggerers(results, options, url, Path(folder) / "triggerer", console)
        if not (options.sabotage or options.triggerer):
            _run_startups(results, url, env, console, options.before)
    return results


def main(command_line: list[str]) -> int:
    """
    Measure, show, and judge.

    :param command_line: the arguments.
    :return: the exit status.
    """
    options = _arguments(command_line)
    console = Console(width=None if sys.stdout.isatty() else 150)
    results = Results.read(RESULTS) if options.report else _measure(options, console)
    judged = verdicts(results)
    for section in report.sections(results, judged):
        console.print(section.terminal())
    failures = results.failures()
    for failure in failures:
        console.print(f"[red]Wrong or missing:[/] {failure}", highlight=False)
    is_full_run = (
        set(options.contestants) == set(BY_KEY)
        and set(results.sizes()) >= set(SIZES)
        and {row["size"] for row in results.triggerers} >= set(triggerer.SIZES)
    )
    if is_full_run and not failures and not options.sabotage:
        _write(results, console)
    return 1 if failures or not all(verdict.reached for verdict in judged) else 0


def _write(results: Results, console: Console) -> None:
    results.write(RESULTS)
    report.plot(results, PLOT)
    console.print(f"Wrote {RESULTS} and {PLOT}.")
    page = report.page_section(results, verdicts(results))
    for path, section in ((PAGE, page), (README, report.readme_section(results))):
        if report.update_page(path, section):
            console.print(f"Updated the performance section of {path}.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
