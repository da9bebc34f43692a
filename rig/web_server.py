"""Airflow's API server alone, on a SQLite database that a program has filled: nothing is scheduled or run."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from rig.airflow import RestClient, common_settings
from rig.ports import free_port
from rig.servers import ROOT, Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class AirflowWebServer(Server):
    """Airflow's web interface and REST API.

    :param home: folder for configuration, database and logs.
    :param env: variables on top of the rig's settings, for example the auth manager.
    :param interpreter: the Python interpreter of the environment with Airflow.
    """

    def __init__(
        self, home: Path, env: Mapping[str, str | None] | None = None, *, interpreter: str = sys.executable
    ) -> None:
        port = free_port()
        dags = home / "dags"
        dags.mkdir(parents=True, exist_ok=True)
        self._interpreter = interpreter
        super().__init__(
            "Airflow web server",
            [interpreter, "-m", "airflow", "api-server"],
            port=port,
            health_path="/api/v2/monitor/health",
            log_dir=home,
            env=common_settings(home, dags, port, "test-project")
            | {"PYTHONPATH": str(ROOT)}
            | dict(env or {}),
            start_timeout=300.0,
        )
        self.run(["-m", "airflow", "db", "migrate"])

    def run(self, arguments: Sequence[str], value: Any = None) -> str:
        """Run a program of the environment with this Airflow's settings, and return its output.

        :param arguments: arguments of the Python interpreter.
        :param value: what the program reads from its standard input, as JSON.
        """
        done = subprocess.run(
            [self._interpreter, *arguments],
            env=self.environment(),
            cwd=self.log_path.parent,
            input=json.dumps(value),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr[-4000:]}")
        return done.stdout

    def client(self, user: str | None = None) -> RestClient:
        """Return a client of the REST API.

        :param user: the user who logs in, with the name as password; None if Airflow asks for no login.
        """
        return RestClient(self.url, user)
