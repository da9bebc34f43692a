"""Which Airflow a cluster runs: the one of this environment, or an older one in another environment."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rig.environments import Environment


@dataclass(frozen=True)
class Release:
    """One version of Airflow, installed somewhere.

    :param version: such as ``3.1.8``.
    :param python: the interpreter of the environment that it is installed in.
    """

    version: str
    python: str

    @property
    def line(self) -> tuple[int, int]:
        """The parts of the version that decide what it can do."""
        major, minor, *_ = self.version.split(".")
        return int(major), int(minor)

    @property
    def keeps_task_state(self) -> bool:
        """Whether a later try can find what an earlier one submitted."""
        return self.line >= (3, 3)

    @property
    def is_second(self) -> bool:
        """Whether it is an Airflow 2: a web server, version 1 of the REST API, and no DAG processor."""
        return self.line < (3, 0)

    @property
    def path(self) -> str:
        """A ``PATH`` that finds this environment's programs first."""
        return f"{Path(self.python).parent}{os.pathsep}{os.environ['PATH']}"


def chosen_release() -> Release:
    """Return that of the environment that ``$CHAOS_AIRFLOW`` names, else the Airflow of this one."""
    asked = os.environ.get("CHAOS_AIRFLOW", "")
    if not asked:
        return Release(version("apache-airflow"), sys.executable)
    environment = Environment.named(asked)
    return Release(environment.airflow_version, str(environment.interpreter))
