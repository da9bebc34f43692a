"""The version of Airflow that a cluster runs: of this environment, or of another one."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rig.environments import Environment


@dataclass(frozen=True)
class Release:
    """One installed version of Airflow.

    :param version: the full version, such as ``3.1.8``.
    :param python: the interpreter of the environment in which it is installed.
    """

    version: str
    python: str

    @property
    def line(self) -> tuple[int, int]:
        """Major and minor version, on which features depend."""
        major, minor, *_ = self.version.split(".")
        return int(major), int(minor)

    @property
    def keeps_task_state(self) -> bool:
        """Whether Airflow keeps values between the tries of a task."""
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
    """Return the release of the environment that ``$CHAOS_AIRFLOW`` names, else of this environment."""
    asked = os.environ.get("CHAOS_AIRFLOW", "")
    if not asked:
        return Release(version("apache-airflow"), sys.executable)
    environment = Environment.named(asked)
    return Release(environment.airflow_version, str(environment.interpreter))
