"""Distribution of the tests over pytest-xdist's workers: groups of tests, and their order.

A worker starts servers of its own when a test asks for them, so no two workers share one. A module's tests
stay on one worker, because most modules set their servers up once for all of their tests.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from xdist.scheduler import LoadScopeScheduling

from rig.servers import ROOT

if TYPE_CHECKING:
    import pytest

#: One core runs more than one worker, because tests with an Airflow wait half of the time. More workers would
#: start more Airflows at once than the cores can run in time.
WORKERS_PER_CORE = 1.5
#: A worker takes seconds to start, and the longest module bounds the run whatever the number of workers.
MOST_WORKERS = 8
#: The longest modules begin first, because the longest one bounds the whole run; the others follow.
LONGEST_FIRST = (
    "tests/integration/real_airflow/test_nightly_runs.py",
    "tests/integration/real_airflow/test_run.py",
    "tests/integration/real_airflow/test_web_interface.py",
    "tests/integration/real_airflow/",
    "tests/integration/test_documentation.py",
    "tests/integration/operators/test_dicom_store_kills.py",
    "tests/integration/operators/test_local_runs.py",
    "tests/integration/hooks/",
    "tests/integration/",
    "tests/unit/benchmarks/",
    "tests/unit/emulator/imaging/",
)
_PR_SET_CHILD_SUBREAPER = 36


def number_of_workers(config: pytest.Config) -> int:
    """Return the number of workers for ``-n auto``: none if only a part of the suite is chosen.

    :param config: configuration of pytest, with the chosen tests.
    """
    option = config.option
    # Without the plugin of pytest's cache, there are no such options.
    names = ("keyword", "markexpr", "lf", "failedfirst", "stepwise")
    is_part = any(getattr(option, name, False) for name in names)
    if is_part or any("::" in argument or argument.endswith(".py") for argument in config.args):
        return 0
    return min(int(WORKERS_PER_CORE * (os.cpu_count() or 1)), MOST_WORKERS)


def worker_id(config: pytest.Config) -> str | None:
    """Return the name of this worker; None in the controller, and if tests run one after the other.

    :param config: configuration of pytest.
    """
    worker: dict[str, str] = getattr(config, "workerinput", {})
    return worker.get("workerid")


def use_own_airflow_home(worker: str) -> None:
    """Give a worker an empty ``AIRFLOW_HOME``: two processes must not write one ``airflow.cfg`` at once.

    :param worker: its name.
    """
    base = Path(os.environ.get("AIRFLOW_HOME", ROOT / "build" / "airflow-tests"))
    home = base / worker
    shutil.rmtree(home, ignore_errors=True)
    os.environ["AIRFLOW_HOME"] = str(home)


def adopt_orphans() -> None:
    """Become the parent of the processes that a worker leaves behind, for :func:`end_orphans`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_orphans() -> None:
    """End processes that workers have left behind: an interrupted worker has little time to stop servers."""
    orphans = psutil.Process().children(recursive=True)
    for process in orphans:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(orphans, timeout=5)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def sort_longest_first(items: list[pytest.Item]) -> None:
    """Sort tests, the longest modules first; the order within a module stays.

    :param items: all collected tests.
    """
    items.sort(key=lambda item: _rank(item.nodeid))


class LongestFirst(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out whole modules, in the order of the collection."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]


def _rank(nodeid: str) -> int:
    ranks = (rank for rank, beginning in enumerate(LONGEST_FIRST) if nodeid.startswith(beginning))
    return next(ranks, len(LONGEST_FIRST))
