"""Runs the unit and integration suites in the environments of the support matrix, three at a time.

    python -m rig.matrix [--jobs N] [--pytest ARGUMENTS] [ENVIRONMENT ...]

Without names, all environments whose Python is installed are tested. Their output is in ``build/matrix``.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rig.environments import LOWEST, MATRIX, Environment, EnvironmentMissing
from rig.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOGS = ROOT / "build" / "matrix"
#: Tests that only `make test` runs, with the newest Airflow: each starts an Airflow of its own, or a browser.
NEWEST_ONLY = (
    "real_airflow/test_lineage.py",
    "real_airflow/test_nightly_runs.py",
    "real_airflow/test_recovery.py",
    "real_airflow/test_secrets.py",
    "real_airflow/test_web_interface.py",
)
#: Other packages warn in their old and new versions. A warning of this provider, and a resource that is not
#: closed, is an error everywhere.
WARNINGS = (
    "default",
    "error:::airflow_provider_dicom",
    "error::ResourceWarning",
    # A warning about Airflow's own database, since Python 3.13.
    "ignore:unclosed database in <sqlite3:ResourceWarning",
    "error::pytest.PytestUnraisableExceptionWarning",
)


@dataclass(frozen=True)
class Outcome:
    """The outcome of the tests in one environment."""

    environment: Environment
    passed: bool
    summary: str
    seconds: float
    log: Path | None = None


def tests_for(environment: Environment) -> list[str]:
    """Return the arguments that choose the tests for an environment.

    The local Healthcare API's own tests import no Airflow: they run once with each Python, and with the
    oldest dependencies.
    """
    chosen = ["tests/unit", "tests/integration"]
    chosen += [f"--ignore=tests/integration/{name}" for name in NEWEST_ONLY]
    if environment.airflow not in ("3.3", LOWEST):
        chosen += ["--ignore=tests/unit/emulator", "--ignore=tests/integration/emulator"]
    return chosen


def run(environment: Environment, arguments: Sequence[str]) -> Outcome:
    """Install an environment and run the suites there.

    :param environment: the environment.
    :param arguments: more arguments for pytest.
    """
    begun = time.monotonic()
    try:
        environment.install()
    except EnvironmentMissing as missing:
        return Outcome(environment, passed=True, summary=f"not run: {missing}", seconds=0)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{environment}.log"
    command = [str(environment.interpreter), "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    options = ["-o", "filterwarnings=" + "\n".join(WARNINGS)]
    with log.open("w") as output:
        done = subprocess.run(
            [*command, *options, *tests_for(environment), *arguments],
            cwd=ROOT,
            env=os.environ | {"AIRFLOW_HOME": str(LOGS / f"airflow-{environment}")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    lines = log.read_text(errors="replace").splitlines()
    summary = re.sub(r" in [\d.]+s.*", "", lines[-1].strip("= ")) if lines else "no output"
    return Outcome(environment, done.returncode == 0, summary, time.monotonic() - begun, log)


def report(outcome: Outcome) -> None:
    """Print a line about an outcome, and below it the tests that failed."""
    verdict = "ok    " if outcome.passed else "FAILED"
    environment = f"{outcome.environment!s:18} Airflow {outcome.environment.airflow_version:7}"
    print(f"{verdict} {environment} {outcome.seconds:5.0f} s  {outcome.summary}", flush=True)
    if not outcome.passed and outcome.log:
        lines = outcome.log.read_text(errors="replace").splitlines()
        failures = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
        print("\n".join(failures or lines[-30:]), f"\nThe whole output is in {outcome.log}", flush=True)


def main() -> int:
    """Run the tests in the environments that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m rig.matrix", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="ENVIRONMENT", help=", ".join(map(str, MATRIX)))
    parser.add_argument("--jobs", type=int, default=3, help="how many at a time (%(default)s)")
    parser.add_argument(
        "--pytest", type=shlex.split, default=[], help="more arguments for pytest, in one word"
    )
    options = parser.parse_args()
    try:
        chosen = [Environment.named(name) for name in options.names] or MATRIX
    except EnvironmentMissing as error:
        parser.error(str(error))
    outcomes = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(lambda environment: run(environment, options.pytest), chosen):
            report(outcome)
            outcomes.append(outcome)
    missing = options.names and any(outcome.log is None for outcome in outcomes)
    return 1 if missing or not all(outcome.passed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
