"""
Single steps of a task, each by the version of the provider that is imported: this one, or an earlier release.

Run as a program, the module reads requests from its input, a line of JSON each, and answers with a line: an
earlier release runs in a process of its own, which imports the release's wheel.
"""

from __future__ import annotations

import asyncio
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
#: The wheels of earlier releases, as they were built.
RELEASES = Path(__file__).parent / "releases"
OPERATORS = {
    "export": "airflow_provider_dicom.operators.dicom_store:DicomStoreExportOperator",
    "sensor": "airflow_provider_dicom.sensors.dicom_store:DicomStoreExportSensor",
}


class ThisVersion:
    """Performs steps with the code under test."""

    def perform(self, request: Json) -> Json:
        """
        Perform a step of a task, and return its outcome with what Airflow keeps of it.

        :param request: ``step``: "execute", "resume" or "wait" (in the triggerer), with what the step needs.
        """
        if request["step"] == "wait":
            return _wait(request["deferral"])
        return _run(request)


class EarlierRelease:
    """
    Performs steps with an earlier release, in a process of its own.

    :param version: the version of the release.
    """

    def __init__(self, version: str) -> None:
        (self._wheel,) = RELEASES.glob(f"airflow_provider_dicom-{version}-*.whl")
        self.version = version

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            # Without the current folder, which has the code under test.
            [sys.executable, "-P", "-m", "tests.support.release_steps"],
            env=os.environ | {"PYTHONPATH": f"{self._wheel}{os.pathsep}{ROOT}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def perform(self, request: Json) -> Json:
        """
        Perform a step of a task, and return its outcome with what Airflow keeps of it.

        :param request: as for the version under test.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        settings = {name: value for name, value in os.environ.items() if "AIRFLOW_CONN" in name}
        settings |= {name: value for name, value in os.environ.items() if "EMULATOR" in name}
        self._process.stdin.write(json.dumps({**request, "environment": settings}) + "\n")
        self._process.stdin.flush()
        answer: Json = json.loads(self._process.stdout.readline())
        assert answer["version"] == self.version
        return answer


def _wait(deferral: Json) -> Json:
    """Run the trigger of a deferral to its event, as a triggerer does."""
    from tests.support.trigger_runs import run_trigger

    classpath, arguments = deferral["trigger"]
    return {"event": asyncio.run(run_trigger(pkgutil.resolve_name(classpath)(**arguments)))}


def _run(request: Json) -> Json:
    """Run a step of a task on a worker."""
    from airflow.providers.common.compat.sdk import TaskDeferred

    from tests.support.task_runs import TaskRun

    task_run = TaskRun(try_number=request["try_number"], xcoms=request["xcoms"])
    state = task_run.context["task_state_store"]
    state.values = request["state"]
    task = pkgutil.resolve_name(OPERATORS[request["kind"]])(task_id="export", **request["arguments"])
    answer: Json = {}
    try:
        if request["step"] == "execute":
            answer["result"] = task.execute(task_run.context)
        else:
            deferral = request["deferral"]
            arguments = {**deferral["kwargs"], "event": request["event"]}
            answer["result"] = task.resume_execution(deferral["method"], arguments, task_run.context)
        task.post_execute(task_run.context)
    except TaskDeferred as deferred:
        answer["deferral"] = {
            "trigger": deferred.trigger.serialize(),
            "method": deferred.method_name,
            "kwargs": deferred.kwargs,
        }
    except Exception as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    # Like Airflow, as JSON.
    kept: Json = json.loads(
        json.dumps({**answer, "xcoms": task_run.ti.xcoms, "state": state.values}, default=str)
    )
    return kept


def _serve() -> None:
    from airflow_provider_dicom import __version__
    from airflow_provider_dicom.api import retry
    from airflow_provider_dicom.longrunning import poll_schedule, polling

    # As in the fixture "quick".
    retry.BACKOFF_INITIAL = 0.01
    polling.FIRST_PAUSE = 0.02
    poll_schedule.TICK_SECONDS = 0.01
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # Log lines are no answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        request = json.loads(line)
        os.environ.update(request["environment"])
        answers.write(json.dumps({**ThisVersion().perform(request), "version": __version__}) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
