"""A production-like Airflow: PostgreSQL, Redis, two Celery workers, two triggerers; each killed by name."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from typing import TYPE_CHECKING

import psutil

from rig import airflow2
from rig.airflow import COMPONENTS, RestClient, common_settings
from rig.databases import PostgreSQL, Redis
from rig.ports import LOOPBACK, free_port
from rig.servers import Server, ServerFailed, loopback_session, stop_all, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    import requests

    from rig.releases import Release

WORKERS = ("worker-1", "worker-2")
TRIGGERERS = ("triggerer-1", "triggerer-2")
#: How many tasks a worker runs at the same time.
CONCURRENCY = 4
#: Seconds without a heartbeat after which another triggerer takes over the triggers of a triggerer.
TRIGGERER_THRESHOLD = 10
#: Seconds without a heartbeat after which Airflow fails a task on a worker.
TASK_THRESHOLD = 30
_START_TIMEOUT = 120.0


class Part(Server):
    """One of Airflow's programs without a health check: the program is healthy as long as it runs.

    :param python: the interpreter of the Airflow.
    :param ready: the text that the program logs when its start is complete; None: the program logs none.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        python: str,
        log_dir: Path,
        env: Mapping[str, str | None],
        ready: str | None = None,
    ) -> None:
        super().__init__(
            name,
            [python, "-m", "airflow", *command],
            port=0,
            health_path="",
            log_dir=log_dir,
            env=env,
            start_timeout=_START_TIMEOUT,
        )
        self._ready = ready
        self._log_begin = 0

    def launch(self) -> None:
        """Start the program without waiting for it."""
        self._log_begin = self.log_path.stat().st_size if self.log_path.exists() else 0
        super().launch()

    def signal(self, number: int, *, main_only: bool = False) -> None:
        """Send a signal to the program and its children.

        :param main_only: send the signal only to the main process, as a service manager does.
        """
        for process in self.processes():
            if not main_only or process.pid == self.pid:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def stop(self, grace: float = 10.0) -> None:
        """End the program, also after a SIGSTOP."""
        self.signal(signal.SIGCONT)
        super().stop(grace)

    def _healthy(self, session: requests.Session) -> bool:
        if self._ready is None:
            return True
        with self.log_path.open(errors="replace") as log:
            log.seek(self._log_begin)
            return self._ready in log.read()


class ApiServer(Server):
    """Airflow's API server; in Airflow 2, the web server."""

    def __init__(self, release: Release, port: int, log_dir: Path, env: Mapping[str, str | None]) -> None:
        program = "webserver" if release.is_second else "api-server"
        super().__init__(
            program,
            [release.python, "-m", "airflow", program],
            port=port,
            health_path="/health" if release.is_second else "/api/v2/version",
            log_dir=log_dir,
            env=env,
            start_timeout=_START_TIMEOUT,
        )


class Cluster:
    """A cluster on loopback: :meth:`start` starts all of its programs, :meth:`stop` ends all of them.

    :param home: folder for configuration, data and logs.
    :param dags_folder: folder of the DAG files.
    :param env: variables on top of this process's environment, for example the emulators' hosts.
    :param release: the version of Airflow.
    :param project_id: default project of the Google Cloud connection.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        env: Mapping[str, str | None],
        release: Release,
        *,
        project_id: str = "test-project",
    ) -> None:
        self.home = home
        self.release = release
        self.logs = home / "servers"
        self.postgres = PostgreSQL(self.logs)
        self.redis = Redis(home / "redis", self.logs)
        port = free_port()
        self._env = {
            **common_settings(home, dags_folder, port, project_id),
            **_settings(self.postgres, self.redis, port),
            **(airflow2.settings(port, TASK_THRESHOLD) if release.is_second else {}),
            "PATH": release.path,
            **env,
        }
        self.api_server = ApiServer(release, port, self.logs, self._env)
        processor = [] if release.is_second else ["dag-processor"]
        self._parts = {
            "scheduler": self._part("scheduler", ["scheduler", "--skip-serve-logs"]),
            **{name: self._part(name, [name]) for name in processor},
            **{name: self._part(name, ["triggerer", "--skip-serve-logs"]) for name in TRIGGERERS},
            **{name: self._worker(name) for name in WORKERS},
        }
        self._rest: RestClient | None = None

    def __getitem__(self, name: str) -> Part:
        """One of Airflow's programs, by its name."""
        return self._parts[name]

    @property
    def rest(self) -> RestClient:
        """A client of the REST API; the API server has to be healthy."""
        if self._rest is None:
            client = airflow2.RestClientV1 if self.release.is_second else RestClient
            self._rest = client(self.api_server.url)
        return self._rest

    def start(self) -> Self:
        """Start all programs and wait until they are healthy; if one fails, end all of them."""
        try:
            for database in (self.postgres, self.redis):
                database.launch()
            for database in (self.postgres, self.redis):
                database.wait_until_healthy()
            self.postgres.create_database()
            self._run("migration", ["db", "migrate"])
            if self.release.is_second:
                self._run("user", airflow2.NEW_USER)
            self.api_server.start()
            self._check_version()
            for part in self._parts.values():
                part.launch()
            self.wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def wait_until_healthy(self, timeout: float = 180.0) -> None:
        """Wait until all programs run and have a heartbeat in the database."""
        for part in self._parts.values():
            part.wait_until_healthy()
        try:
            wait_for("all parts of Airflow to be healthy", self.is_healthy, timeout=timeout, pause=0.5)
        except TimeoutError as error:
            tails = "\n".join(f"{part.log_path}:\n{part.log_tail(8)}" for part in self._parts.values())
            raise TimeoutError(f"{error}\n{tails}") from None

    def is_healthy(self) -> bool:
        """Whether each running program has a recent heartbeat in the database, and no killed one has."""
        health_path = "/health" if self.release.is_second else "/api/v2/monitor/health"
        with loopback_session() as session:
            try:
                health = session.get(f"{self.api_server.url}{health_path}", timeout=5).json()
            except OSError:
                return False
        expected = COMPONENTS[:-1] if self.release.is_second else COMPONENTS
        if not all(health.get(component, {}).get("status") == "healthy" for component in expected):
            return False
        return len(self.living_triggerers()) == sum(bool(self[name].processes()) for name in TRIGGERERS)

    def living_triggerers(self) -> set[int]:
        """The ids of the jobs of triggerers with a recent heartbeat."""
        # The REST API of Airflow 2 does not list jobs.
        jobs = self.postgres.ask(
            "SELECT COALESCE(STRING_AGG(id::text, ' '), '') FROM job WHERE job_type = 'TriggererJob' "
            f"AND state = 'running' AND latest_heartbeat > NOW() - INTERVAL '{TRIGGERER_THRESHOLD} seconds'"
        )
        return {int(job) for job in jobs.split()}

    def _all_beat_since(self, moment: str) -> bool:
        """Whether every program has had a heartbeat since a moment of the database's clock."""
        beating = self.postgres.ask(
            "SELECT COALESCE(STRING_AGG(job_type, ' '), '') FROM job "
            f"WHERE state = 'running' AND latest_heartbeat > '{moment}'"
        ).split()
        expected = ["SchedulerJob", *["TriggererJob"] * len(TRIGGERERS)]
        if not self.release.is_second:
            expected.append("DagProcessorJob")
        return all(beating.count(job) >= expected.count(job) for job in expected)

    def clear(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> None:
        """Clear a task as a user does.

        :raises ServerFailed: Airflow 2 did not clear the task.
        """
        if not self.release.is_second:
            self.rest.clear(dag_id, run_id, task_id, map_index)
            return
        asked = [self.release.python, "-c", airflow2.CLEAR, dag_id, run_id, task_id, str(map_index)]
        done = subprocess.run(
            asked, check=False, capture_output=True, text=True, env=self.api_server.environment()
        )
        if done.returncode:
            raise ServerFailed(f"Clearing {dag_id} {run_id} failed:\n{done.stderr[-2000:]}")

    def processes(self) -> list[psutil.Process]:
        """The running processes of all programs."""
        servers = (self.postgres, self.redis, self.api_server, *self._parts.values())
        return [process for server in servers for process in server.processes()]

    def restart(self, name: str) -> None:
        """Start a program again that has ended, and wait until the cluster is healthy."""
        self[name].launch()
        self.wait_until_healthy()

    def revive(self) -> None:
        """Restart programs that end, as a service manager does, until each has a heartbeat since the call."""
        # A program that fails with the database may run on for a while; it ends before its next heartbeat.
        begun = self.postgres.ask("SELECT CLOCK_TIMESTAMP()")

        def revived() -> bool:
            for part in (self.api_server, *self._parts.values()):
                if not part.processes():
                    part.reap()
                    part.launch()
            return self.is_healthy() and self._all_beat_since(begun)

        wait_for("all parts of Airflow to be healthy again", revived, timeout=180.0, pause=1.0)

    def stop(self) -> None:
        """End all programs, the databases last."""
        for part in self._parts.values():
            part.signal(signal.SIGCONT)
        stop_all([self.api_server, *self._parts.values()], grace=5.0)
        stop_all([self.postgres, self.redis])
        self.postgres.remove()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _part(self, name: str, command: Sequence[str], ready: str | None = None) -> Part:
        return Part(name, command, python=self.release.python, log_dir=self.logs, env=self._env, ready=ready)

    def _worker(self, name: str) -> Part:
        options = ["--skip-serve-logs", "--celery-hostname", f"{name}@%h", "--concurrency", str(CONCURRENCY)]
        return self._part(name, ["celery", "worker", *options], ready=" ready.")

    def _run(self, name: str, command: Sequence[str]) -> None:
        part = self._part(name, command)
        part.launch()
        try:
            wait_for(f"the end of {name}", lambda: not part.processes(), timeout=_START_TIMEOUT)
        finally:
            part.stop()

    def _check_version(self) -> None:
        running = self.rest.get("version")["version"]
        if running != self.release.version:
            raise ServerFailed(f"Airflow {running} answers instead of {self.release.version}")


def _settings(postgres: PostgreSQL, redis: Redis, port: int) -> dict[str, str]:
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        # As many tasks as the workers run at once: Airflow fails tasks that wait in Redis for long.
        "AIRFLOW__CORE__PARALLELISM": str(CONCURRENCY * len(WORKERS)),
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "400",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{LOOPBACK}:{port}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{postgres.address}",
        "AIRFLOW__CELERY__BROKER_URL": redis.address,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{postgres.address}",
        # Small thresholds, so that Airflow notices the loss of a program within seconds.
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": str(TRIGGERER_THRESHOLD),
        "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(TASK_THRESHOLD),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        # A task that a killed worker has fetched and not started is lost until this timeout.
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "45",
        "AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "10",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
    }
