"""A production-like Airflow: PostgreSQL, Redis, two Celery workers, two triggerers; each killed by name."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING

import psutil

from rig.airflow import COMPONENTS, RestClient, common_settings
from rig.databases import PostgreSQL, Redis
from rig.servers import LOOPBACK, Server, free_port, loopback_session, stop_all, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    import requests

WORKERS = ("worker-1", "worker-2")
TRIGGERERS = ("triggerer-1", "triggerer-2")
#: How many tasks a worker runs at the same time.
CONCURRENCY = 4
#: After so many seconds without a sign of life, a triggerer's exports are given to another one.
TRIGGERER_THRESHOLD = 10
#: After so many seconds without a sign of life, a task on a worker has failed.
TASK_THRESHOLD = 30
_START_TIMEOUT = 120.0


class Part(Server):
    """One of Airflow's programs, without a health check of its own: it is healthy as long as it runs.

    :param ready: what it logs when it has come up; None: nothing to wait for.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_dir: Path,
        env: Mapping[str, str | None],
        ready: str | None = None,
    ) -> None:
        super().__init__(
            name,
            [sys.executable, "-m", "airflow", *command],
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

        :param main_only: only to the process that was started, as a service manager does.
        """
        for process in self.processes():
            if not main_only or process.pid == self.pid:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def stop(self, grace: float = 10.0) -> None:
        """End the program; one that stands still could not end by itself."""
        self.signal(signal.SIGCONT)
        super().stop(grace)

    def _healthy(self, session: requests.Session) -> bool:
        if self._ready is None:
            return True
        with self.log_path.open(errors="replace") as log:
            log.seek(self._log_begin)
            return self._ready in log.read()


class ApiServer(Server):
    """Airflow's API server."""

    def __init__(self, port: int, log_dir: Path, env: Mapping[str, str | None]) -> None:
        super().__init__(
            "api-server",
            [sys.executable, "-m", "airflow", "api-server"],
            port=port,
            health_path="/api/v2/version",
            log_dir=log_dir,
            env=env,
            start_timeout=_START_TIMEOUT,
        )


class Cluster:
    """All of it, on loopback: :meth:`start` brings it up, :meth:`stop` leaves nothing running.

    :param home: folder for configuration, data and logs.
    :param dags_folder: where the DAGs are.
    :param env: variables on top of this process's environment, for example the emulators' hosts.
    :param project_id: default project of the Google Cloud connection.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        env: Mapping[str, str | None],
        *,
        project_id: str = "test-project",
    ) -> None:
        self.home = home
        self.logs = home / "servers"
        self.postgres = PostgreSQL(home / "postgres", self.logs)
        self.redis = Redis(home / "redis", self.logs)
        port = free_port()
        self._env = {
            **common_settings(home, dags_folder, port, project_id),
            **_settings(self.postgres, self.redis, port),
            **env,
        }
        self.api_server = ApiServer(port, self.logs, self._env)
        self._parts = {
            "scheduler": self._part("scheduler", ["scheduler", "--skip-serve-logs"]),
            "dag-processor": self._part("dag-processor", ["dag-processor"]),
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
            self._rest = RestClient(self.api_server.url)
        return self._rest

    def start(self) -> Self:
        """Start everything and wait until it is healthy; nothing is left running when that fails."""
        try:
            for database in (self.postgres, self.redis):
                database.launch()
            for database in (self.postgres, self.redis):
                database.wait_until_healthy()
            self.postgres.create_database()
            self._migrate()
            self.api_server.start()
            for part in self._parts.values():
                part.launch()
            self.wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def wait_until_healthy(self, timeout: float = 180.0) -> None:
        """Wait until all parts run and have told the database so."""
        for part in self._parts.values():
            part.wait_until_healthy()
        try:
            wait_for("all parts of Airflow to be healthy", self.is_healthy, timeout=timeout, pause=0.5)
        except TimeoutError as error:
            tails = "\n".join(f"{part.log_path}:\n{part.log_tail(8)}" for part in self._parts.values())
            raise TimeoutError(f"{error}\n{tails}") from None

    def is_healthy(self) -> bool:
        """Whether all that runs has told the database so, and nothing that was killed counts as alive."""
        with loopback_session() as session:
            try:
                health = session.get(f"{self.api_server.url}/api/v2/monitor/health", timeout=5).json()
            except OSError:
                return False
        if not all(health.get(component, {}).get("status") == "healthy" for component in COMPONENTS):
            return False
        return len(self.living_triggerers()) == sum(bool(self[name].processes()) for name in TRIGGERERS)

    def living_triggerers(self) -> set[int]:
        """The jobs of the triggerers that count as alive."""
        jobs = self.rest.get("jobs", job_type="TriggererJob", job_state="running", is_alive=True)["jobs"]
        return {job["id"] for job in jobs}

    def restart(self, name: str) -> None:
        """Start a part again that was ended, and wait until all is healthy."""
        self[name].launch()
        self.wait_until_healthy()

    def revive(self) -> None:
        """Start again what has ended by itself, as a service manager does, and wait until all is healthy."""

        def revived() -> bool:
            for part in (self.api_server, *self._parts.values()):
                if not part.processes():
                    part.reap()
                    part.launch()
            return self.is_healthy()

        wait_for("all parts of Airflow to be healthy again", revived, timeout=180.0, pause=1.0)

    def stop(self) -> None:
        """End everything, the databases last."""
        for part in self._parts.values():
            part.signal(signal.SIGCONT)
        stop_all([self.api_server, *self._parts.values()], grace=5.0)
        stop_all([self.postgres, self.redis])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _part(self, name: str, command: Sequence[str], ready: str | None = None) -> Part:
        return Part(name, command, log_dir=self.logs, env=self._env, ready=ready)

    def _worker(self, name: str) -> Part:
        options = ["--skip-serve-logs", "--celery-hostname", f"{name}@%h", "--concurrency", str(CONCURRENCY)]
        return self._part(name, ["celery", "worker", *options], ready=" ready.")

    def _migrate(self) -> None:
        migration = self._part("migration", ["db", "migrate"])
        migration.launch()
        try:
            wait_for(
                "the migration of the database", lambda: not migration.processes(), timeout=_START_TIMEOUT
            )
        finally:
            migration.stop()


def _settings(postgres: PostgreSQL, redis: Redis, port: int) -> dict[str, str]:
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__PARALLELISM": "32",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "400",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{LOOPBACK}:{port}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{postgres.address}",
        "AIRFLOW__CELERY__BROKER_URL": redis.address,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{postgres.address}",
        # Small thresholds, so that what is lost is missed within seconds.
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": str(TRIGGERER_THRESHOLD),
        "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(TASK_THRESHOLD),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        # What a killed worker had fetched but not begun, nobody else would ever see.
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "45",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
    }
