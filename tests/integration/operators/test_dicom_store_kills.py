"""
Signals at every moment of a task on its worker: real ones, in a process with Airflow's own channel.

What comes of each: no export runs on, or the log says which one may.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from airflow_provider_dicom.operators.dicom_store import STATE_KEY
from rig.servers import wait_for
from tests.support.healthcare_requests import accepted_exports, request_count
from tests.support.task_runs import records_in

supervised_task = pytest.importorskip("tests.support.supervised_task", reason="Airflow 3.3's channel")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from rig.control import Control
    from rig.dicom_files import Uids
    from tests.support.supervised_task import SupervisedTask

pytestmark = pytest.mark.airflow("3.3", "task state, and the channel of its task runner")

#: How long an answer of Airflow is held back after the signal, in seconds.
HELD_BACK = 0.5


class TaskStarter(Protocol):
    """Starts tasks that export the test's DICOM store."""

    def __call__(
        self, *, state: str | None = "failed", kill_at: str | None = None, **changes: object
    ) -> SupervisedTask:
        """Start a task; ``kill_at`` names the message before whose answer the task gets its signal."""


@pytest.fixture
def stored() -> dict[str, Any]:
    """The task state."""
    return {}


@pytest.fixture
def start(
    where: dict[str, Any], bucket: str, control: Control, instances: list[Uids], stored: dict[str, Any]
) -> Iterator[TaskStarter]:
    """Starts tasks that export the test's DICOM store, which makes no progress on its own."""
    control.settings(advance="manual")
    tasks: list[SupervisedTask] = []

    def start(
        *, state: str | None = "failed", kill_at: str | None = None, **changes: object
    ) -> SupervisedTask:
        def before_answer(task: SupervisedTask, message: dict[str, Any]) -> None:
            if kill_at is not None and kill_at in (message["type"], message_name(message)):
                task.kill()
                time.sleep(HELD_BACK)

        arguments = where | {
            "destination": f"gs://{bucket}/nightly",
            "poll_interval": 0.05,
            "deferrable": False,
        }
        task: SupervisedTask = supervised_task.SupervisedTask(
            {**arguments, **changes}, state=state, stored=stored, before_answer=before_answer
        )
        tasks.append(task)
        return task

    yield start
    for task in tasks:
        task.__exit__()
    control.step()


def message_name(message: dict[str, Any]) -> str | None:
    """Name a message to Airflow by what it writes."""
    match message["type"]:
        case "SetXCom":
            return str(message["key"])
        case "SetTaskStateStore":
            return "operation recorded" if "/operations/" in json.dumps(message["value"]) else "intent"
    return None


def test_kill_before_the_submission_submits_nothing(
    start: TaskStarter, control: Control, store: DicomStoreName
) -> None:
    output = start(kill_at="intent").output()
    assert "The task was told to end before the submission; nothing was submitted." in output
    assert accepted_exports(control, store) == []


@pytest.mark.parametrize(
    ("moment", "deferrable"), [("operation recorded", True), ("operation_name", True), ("progress", False)]
)
def test_kill_while_airflow_stores_something_cancels_the_export(
    moment: str, deferrable: bool, start: TaskStarter, control: Control, store: DicomStoreName
) -> None:
    output = start(kill_at=moment, deferrable=deferrable).output()
    (name,) = accepted_exports(control, store)
    assert control.operation_state(name) == "CANCELLED"
    assert f"{name} is cancelled, as the API confirms" in output
    assert "DicomExportCancelledError" in output
    assert "DEFERRED" not in output


def test_kill_during_the_submission_cancels_the_export_as_soon_as_its_name_is_known(
    start: TaskStarter, control: Control, store: DicomStoreName
) -> None:
    control.fault("export", latency_seconds=2.5, count=1)
    task = start(deferrable=True)
    wait_for("the submission", lambda: request_count(control, "export"), timeout=60, pause=0.05)
    task.kill()
    output = task.output()
    (name,) = accepted_exports(control, store)
    assert control.operation_state(name) == "CANCELLED"
    # The reply came too late for Airflow's patience: the log had already said what may run.
    assert "The task was ended during the submission. The API may have accepted the request" in output
    assert f"{name} is cancelled, as the API confirms" in output


def test_kill_while_an_earlier_operation_is_looked_at_cancels_it(
    start: TaskStarter, control: Control, store: DicomStoreName
) -> None:
    assert "DEFERRED" in start(deferrable=True, state="running").output()
    (name,) = accepted_exports(control, store)
    control.reset_requests()
    control.fault("operations.get", latency_seconds=1.5, count=1)
    task = start()
    wait_for("the look-up", lambda: request_count(control, "operations.get"), timeout=60, pause=0.05)
    task.kill()
    output = task.output()
    assert f"requesting the cancellation of {name}" in output
    assert control.operation_state(name) == "CANCELLED"
    assert accepted_exports(control, store) == [name]


def test_kill_before_an_earlier_operation_is_known_cancels_it(
    start: TaskStarter, control: Control, store: DicomStoreName
) -> None:
    assert "DEFERRED" in start(deferrable=True, state="running").output()
    (name,) = accepted_exports(control, store)
    # The task reads its records twice: the signal comes before it has loaded its connection.
    output = start(kill_at="GetTaskStateStore").output()
    assert control.operation_state(name) == "CANCELLED"
    assert f"The task was ended. {name} is cancelled, as the API confirms" in output
    assert accepted_exports(control, store) == [name]


def test_kill_while_a_lost_export_is_looked_for_says_that_it_may_run_on(
    start: TaskStarter, control: Control, store: DicomStoreName, stored: dict[str, Any]
) -> None:
    assert "DEFERRED" in start(deferrable=True, state="running").output()
    for record in records_in(stored[STATE_KEY]):
        record.update(operation_name=None, state="intent")
    held = control.fault("operations.list", hold_seconds=60, count=1)
    task = start()
    wait_for("the list", lambda: request_count(control, "operations.list"), timeout=60, pause=0.05)
    task.kill()
    time.sleep(HELD_BACK)
    control.remove_fault(held)
    output = task.output()
    assert "The task was ended. The task knows of no running export. A submission since" in output
    assert "whose reply was lost may run on" in output
    assert "gcloud healthcare operations list" in output
    assert len(accepted_exports(control, store)) == 1


def test_kill_during_the_repetition_of_a_lost_submission_says_that_the_lost_one_may_run_on(
    start: TaskStarter, control: Control, store: DicomStoreName
) -> None:
    control.settings(denied_permissions=["healthcare.operations.list"])
    control.fault("export", reset="after", count=1)
    held = control.fault("export", hold_seconds=60, count=1)
    task = start()
    wait_for("the repetition", lambda: request_count(control, "export") == 2, timeout=60, pause=0.05)
    task.kill()
    time.sleep(HELD_BACK)
    control.remove_fault(held)
    output = task.output()
    lost, repeated = accepted_exports(control, store)
    assert control.operation_state(repeated) == "CANCELLED"
    assert control.operation_state(lost) == "RUNNING"
    assert f"The task was ended. {repeated} is cancelled, as the API confirms" in output
    assert "whose reply was lost may run on" in output


@pytest.mark.parametrize("state", ["running", None], ids=["still_running", "no_answer"])
def test_worker_that_stops_cancels_nothing(
    state: str | None, start: TaskStarter, control: Control, store: DicomStoreName
) -> None:
    task = start(state=state)
    wait_for("polls", lambda: request_count(control, "operations.get") > 2, timeout=60, pause=0.05)
    (name,) = accepted_exports(control, store)
    task.kill()
    time.sleep(HELD_BACK if state else supervised_task.TOO_LATE)
    assert request_count(control, "operations.cancel") == 0
    control.step()
    output = task.output()
    assert f"{name} goes on" in output
    assert ("so its worker is stopping" if state else "no answer within 3 s") in output
    assert 'RESULT {"operation_name"' in output


def test_task_that_was_ended_before_it_defers_cancels_the_export(
    start: TaskStarter, control: Control, store: DicomStoreName, hook: DicomStoreHook
) -> None:
    # Airflow sends no signal: the next heartbeat would have told the worker.
    output = start(deferrable=True, state="failed").output()
    (name,) = accepted_exports(control, store)
    assert hook.get_operation(name)["metadata"]["cancelRequested"]
    assert "DEFERRED" not in output


def test_airflow_timeout_during_the_submission_says_what_may_run(
    start: TaskStarter, control: Control, store: DicomStoreName
) -> None:
    # Even on a busy machine, the submission is under way when the time is over.
    control.fault("export", latency_seconds=12.0, count=1)
    output = start(execution_timeout=6.0).output()
    assert "AirflowTaskTimeout" in output
    assert "The API may have accepted the request to export" in output
    assert "gcloud healthcare operations list" in output
