"""The contest in a real triggerer: Airflow with its supervisor, log files and PostgreSQL.

Deferred tasks are put straight into the database, and a triggerer of its own follows those of one contestant.
There is no scheduler: a task whose event has arrived stays as the triggerer has scheduled it.
"""

from __future__ import annotations

import base64
import json
import secrets
import statistics
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks import environment
from benchmarks.child import run_child
from benchmarks.contest import Contest, announced_jobs, control
from benchmarks.contestants import BY_KEY, Job
from rig.cluster import Part
from rig.databases import PostgreSQL
from rig.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: The contestants, the floor first.
CONTESTANTS = ("sleeping", "databricks", "one_dataset", "list_forbidden")
#: Seconds between polls.
INTERVAL = 30
#: Seconds from the start until the last operation ends.
DURATION = 150.0
SIZES = (100, 1000)
#: Seconds until the operation of the warm-up ends: after the first poll of each contestant.
_WARM_UP = 14.0
#: Seconds after the last possible event until the measurement ends.
_MARGIN = 5.0
_MOST_MISTAKES_SHOWN = 5


@dataclass(frozen=True)
class TriggererResult:
    """
    What the triggers of one contestant cost a triggerer from the start of the first to the last event.

    :param supervisor: CPU seconds of the process that talks to the database and writes the logs.
    :param runner: CPU seconds of the process with the event loop.
    :param database: CPU seconds of PostgreSQL.
    :param requests: requests to the API.
    :param xcoms: rows written to the table of XComs.
    :param log: bytes written to log files.
    :param memory: bytes by which supervisor and runner grew, at their largest, per trigger.
    :param delay_median: seconds from the end of an operation until Airflow had scheduled its task again.
    :param delay_max: the longest of them.
    :param lost: how many events are missing or wrong.
    :param mistakes: the first of them.
    """

    contestant: str
    size: int
    supervisor: float
    runner: float
    database: float
    requests: int
    xcoms: int
    log: int
    memory: float
    delay_median: float | None
    delay_max: float | None
    lost: int = 0
    mistakes: list[str] = field(default_factory=list)


class Scenery:
    """
    Airflow's database and settings; each contest starts a triggerer of its own.

    :param folder: an empty folder.
    :param url: the server of all APIs.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.home = folder
        folder.mkdir()
        self.logs = folder / "logs"
        self.postgres = PostgreSQL(folder / "servers")
        self.env = environment.variables(url, folder) | {
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{self.postgres.address}",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.logs),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            # The triggerer imports the floor's trigger from here.
            "PYTHONPATH": str(environment.ROOT),
        }

    def part(self, name: str, *command: str) -> Part:
        """Return one of Airflow's programs."""
        return Part(name, command, python=sys.executable, log_dir=self.home / "servers", env=self.env)

    def deferred(self, command: str, **arguments: object) -> Any:
        """Run a command of ``benchmarks.deferred``."""
        return run_child("benchmarks.deferred", command, env=self.env, stdin=json.dumps(arguments))

    def unfinished(self, run_id: str) -> int:
        """Return the number of tasks of a run that are still deferred."""
        sql = f"SELECT COUNT(*) FROM task_instance WHERE run_id = '{run_id}' AND state = 'deferred'"
        return int(self.postgres.ask(sql))

    def xcoms_written(self) -> int:
        """Return the number of XComs that have been written so far."""
        return int(
            self.postgres.ask("SELECT n_tup_ins + n_tup_upd FROM pg_stat_user_tables WHERE relname = 'xcom'")
        )

    def log_size(self) -> int:
        """Return the bytes of all log files of Airflow."""
        files = [path for path in self.logs.rglob("*.log") if path.is_file()]
        return sum(path.stat().st_size for path in [*files, *(self.home / "servers").glob("triggerer*.log")])


@contextmanager
def scenery(folder: Path, url: str) -> Iterator[Scenery]:
    """Start PostgreSQL with Airflow's tables, and stop it."""
    made = Scenery(folder, url)
    try:
        made.postgres.start()
        made.postgres.create_database()
        migration = made.part("migration", "db", "migrate")
        migration.launch()
        wait_for("the end of the migration", lambda: not migration.processes(), timeout=300)
        yield made
    finally:
        made.postgres.stop()
        made.postgres.remove()


class _Meters:
    """CPU time and memory of the triggerer's two processes and of PostgreSQL."""

    def __init__(self, triggerer: Part, postgres: PostgreSQL) -> None:
        self.supervisor = psutil.Process(triggerer.pid)
        # Airflow names the process; a resource tracker of multiprocessing may stand beside it.
        self.runner = max(
            self.supervisor.children(recursive=True), key=lambda process: process.memory_info().rss
        )
        self._postgres = postgres
        self.peak = 0
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)

    def cpu(self) -> tuple[float, float, float]:
        """Return the CPU seconds so far of supervisor, runner and database."""
        server = psutil.Process(self._postgres.pid)
        # A connection's process that has ended counts among the server's children.
        database = _cpu(server, with_children=True)
        for child in server.children():
            try:
                database += _cpu(child)
            except psutil.NoSuchProcess:
                continue
        return _cpu(self.supervisor), _cpu(self.runner), database

    def resident(self) -> int:
        """Return the memory of supervisor and runner in bytes."""
        return int(self.supervisor.memory_info().rss + self.runner.memory_info().rss)

    def _sample(self) -> None:
        while not self._stop.wait(1.0):
            self.peak = max(self.peak, self.resident())

    def __enter__(self) -> _Meters:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watch.join()


def _cpu(process: psutil.Process, *, with_children: bool = False) -> float:
    times = process.cpu_times()
    own = times.user + times.system
    return float(own + times.children_user + times.children_system if with_children else own)


def compete(scenery: Scenery, contest: Contest) -> TriggererResult:
    """
    Run one contest with a triggerer of its own.

    :param scenery: the database and the settings.
    :param contest: the contest.
    """
    name = f"{contest.contestant}-{contest.size}"
    triggerer = scenery.part(f"triggerer-{name}", "triggerer", "--skip-serve-logs")
    triggerer.launch()
    try:
        _warm_up(scenery, contest, f"warm-up-{name}")
        return _measure(scenery, contest, name, triggerer)
    finally:
        triggerer.stop()


def _warm_up(scenery: Scenery, contest: Contest, run_id: str) -> None:
    """Follow one operation, so that what a triggerer does only once is not measured."""
    contestant = BY_KEY[contest.contestant]
    start = time.monotonic()
    end = start + 20 + _WARM_UP
    control(scenery.url, "plan", {"start": start, "ends": [end], "may_list": contestant.may_list})
    job = Job(1, end, 10, scenery.url)
    scenery.deferred("put", contestant=contestant.key, run_id=run_id, start=start, jobs=[asdict(job)])
    wait_for("the warm-up", lambda: not scenery.unfinished(run_id), timeout=180, pause=1.0)
    if mistakes := compare(scenery.deferred("read", run_id=run_id), [job], contest.contestant)[1]:
        raise SystemExit(f"The warm-up of {contestant.label} failed: {mistakes[0]}")


def _measure(scenery: Scenery, contest: Contest, run_id: str, triggerer: Part) -> TriggererResult:
    # Time to write the rows, which the triggerer sees all at once.
    start = time.monotonic() + 20 + contest.size * 0.02
    jobs = announced_jobs(contest, start)
    putting = threading.Thread(target=_put, args=(scenery, contest, run_id, start, jobs))
    putting.start()
    time.sleep(max(0.0, start - 0.5 - time.monotonic()))
    with _Meters(triggerer, scenery.postgres) as meters:
        before, memory = meters.cpu(), meters.resident()
        log, xcoms = scenery.log_size(), scenery.xcoms_written()
        putting.join()
        time.sleep(max(0.0, start + contest.duration + contest.interval + _MARGIN - time.monotonic()))
        deadline = time.monotonic() + contest.grace
        while scenery.unfinished(run_id) and time.monotonic() < deadline:
            time.sleep(1.0)
        after = meters.cpu()
    supervisor, runner, database = (end - begin for begin, end in zip(before, after, strict=True))
    delays, mistakes = compare(scenery.deferred("read", run_id=run_id), jobs, contest.contestant)
    return TriggererResult(
        contestant=contest.contestant,
        size=contest.size,
        supervisor=supervisor,
        runner=runner,
        database=database,
        requests=control(scenery.url, "counts")["requests"],
        xcoms=scenery.xcoms_written() - xcoms,
        log=scenery.log_size() - log,
        memory=max(0, meters.peak - memory) / contest.size,
        delay_median=statistics.median(delays) if delays else None,
        delay_max=max(delays, default=None),
        lost=len(mistakes),
        mistakes=mistakes[:_MOST_MISTAKES_SHOWN],
    )


def _put(scenery: Scenery, contest: Contest, run_id: str, start: float, jobs: Sequence[Job]) -> None:
    rows = [asdict(job) for job in jobs]
    late = scenery.deferred("put", contestant=contest.contestant, run_id=run_id, start=start, jobs=rows)[
        "late"
    ]
    if late > 1.0:
        print(f"The tasks of {run_id} were {late:.1f} s late: the machine is busy.", file=sys.stderr)


def compare(found: dict[str, Any], jobs: Sequence[Job], contestant: str) -> tuple[list[float], list[str]]:
    """
    Return the delays of the right events, and a sentence about each wrong or missing one.

    :param found: what ``benchmarks.deferred read`` found.
    :param jobs: the jobs.
    :param contestant: the contestant's key.
    """
    delays, mistakes = [], []
    for job in jobs:
        if (entry := found["scheduled"].get(str(job.number))) is None:
            mistakes.append(f"operation {job.number}: no event")
            continue
        when, payload = entry
        if mistake := BY_KEY[contestant].mistake(job, payload):
            mistakes.append(mistake)
        elif when < job.end:
            mistakes.append(f"operation {job.number}: event {job.end - when:.3f} s before its end")
        else:
            delays.append(when - job.end)
    return delays, mistakes
