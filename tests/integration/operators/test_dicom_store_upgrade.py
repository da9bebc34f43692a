"""
Upgrades under way: tasks that one version of the provider begins, and another one resumes or tries again.

The earlier version is the released wheel, in a process of its own.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal

import pytest

from airflow_provider_dicom.operators._submission_record import SubmissionRecords
from airflow_provider_dicom.operators.dicom_store import STATE_KEY
from tests.support.healthcare_requests import accepted_exports
from tests.support.release_steps import EarlierRelease, ThisVersion
from tests.support.task_runs import TaskStateStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.dicom_files import Uids
    from tests.support.release_steps import Json

pytestmark = pytest.mark.usefixtures("quick")
Who = Literal["0.1.0", "new"]
#: The versions of the worker that begins, of the triggerer, and of the worker that resumes.
MIXED = [who for who in itertools.product(("0.1.0", "new"), repeat=3) if len(set(who)) == 2]
TABLE = "bq://test-project.upgrades.exports"


@pytest.fixture(scope="module")
def earlier() -> Iterator[EarlierRelease]:
    """The released version 0.1.0."""
    with EarlierRelease("0.1.0") as release:
        yield release


class Task:
    """
    A task, and what Airflow keeps of it between the steps of whichever version.

    :param earlier: the released version.
    :param arguments: the parameters of the operator.
    :param kind: the operator.
    """

    def __init__(self, earlier: EarlierRelease, arguments: Json, kind: str = "export") -> None:
        self._versions: dict[Who, EarlierRelease | ThisVersion] = {"0.1.0": earlier, "new": ThisVersion()}
        self.arguments = arguments
        self.kind = kind
        self.try_number = 1
        self.xcoms: Json = {}
        self.state: dict[str, str] = {}

    def execute(self, who: Who) -> Json:
        """Run the next step of a worker, and return its outcome."""
        return self._run(who, {"step": "execute"})

    def wait(self, who: Who, deferral: Json) -> Json:
        """Run the trigger of a deferral, and return its event."""
        event: Json = self._versions[who].perform({"step": "wait", "deferral": deferral})["event"]
        return event

    def resume(self, who: Who, deferral: Json, event: Any) -> Json:
        """Resume a deferred task, and return the outcome."""
        return self._run(who, {"step": "resume", "deferral": deferral, "event": event})

    def try_again(self, who: Who) -> Json:
        """Run the first step of the next try."""
        self.try_number += 1
        self.xcoms = {}
        return self.execute(who)

    def _run(self, who: Who, step: Json) -> Json:
        kept = {"xcoms": self.xcoms, "state": self.state, "try_number": self.try_number}
        request = {**step, **kept, "kind": self.kind, "arguments": self.arguments}
        outcome = self._versions[who].perform(request)
        self.xcoms, self.state = outcome["xcoms"], outcome["state"]
        return outcome

    @property
    def records(self) -> SubmissionRecords:
        """The records of the task, as the new version reads them."""
        store = TaskStateStore()
        store.values = dict(self.state)
        return SubmissionRecords(store, STATE_KEY)


@pytest.fixture
def task(earlier: EarlierRelease, where: dict[str, Any], bucket: str, instances: list[Uids]) -> Task:
    """An export of two of three instances to Cloud Storage."""
    return Task(
        earlier,
        where
        | {
            "destination": f"gs://{bucket}/nightly",
            "filter_uri": f"gs://{bucket}/filter.txt",
            "resource_paths": [uids.path for uids in instances[:2]],
            "poll_interval": 0.05,
        },
    )


@pytest.fixture
def appending(earlier: EarlierRelease, where: dict[str, Any], control: Control) -> Task:
    """An export that adds rows to a table; the API lets no export proceed."""
    control.settings(advance="manual")
    return Task(earlier, where | {"destination": TABLE, "write_disposition": "WRITE_APPEND"})


@pytest.mark.parametrize(("begins", "waits", "resumes"), MIXED)
def test_deferred_task_is_waited_for_and_resumed_by_other_versions(
    begins: Who, waits: Who, resumes: Who, task: Task, control: Control, store: DicomStoreName
) -> None:
    deferral = task.execute(begins)["deferral"]
    name = task.xcoms["operation_name"]
    event = task.wait(waits, deferral)
    assert event["status"] == "success"
    result = task.resume(resumes, deferral, event)["result"]
    assert (result["operation_name"], result["state"], result["success"]) == (name, "SUCCEEDED", 2)
    assert accepted_exports(control, store) == [name]


@pytest.mark.parametrize(("begins", "resumes"), [("0.1.0", "new"), ("new", "0.1.0")])
def test_sensor_is_resumed_by_the_other_version(begins: Who, resumes: Who, task: Task, where: Json) -> None:
    task.execute("new")
    connection = {name: where[name] for name in ("gcp_conn_id", "api_endpoint")}
    arguments = {"operation_name": task.xcoms["operation_name"], "poke_interval": 0.05, "poll_interval": 0.05}
    sensor = Task(task._versions["0.1.0"], arguments | connection, "sensor")  # type: ignore[arg-type]
    deferral = sensor.execute(begins)["deferral"]
    outcome = sensor.resume(resumes, deferral, sensor.wait(begins, deferral))
    assert outcome["result"]["success"] == 2


@pytest.mark.parametrize(("begins", "retries"), [("0.1.0", "new"), ("new", "0.1.0")])
def test_retry_of_the_other_version_reattaches(
    begins: Who, retries: Who, task: Task, control: Control, store: DicomStoreName
) -> None:
    task.execute(begins)
    name = task.xcoms["operation_name"]
    again = task.try_again(retries)
    assert "error" not in again
    assert task.xcoms["operation_name"] == name
    assert accepted_exports(control, store) == [name]


@pytest.mark.parametrize(("begins", "resumes"), [("0.1.0", "new"), ("new", "0.1.0")])
def test_task_that_waits_for_a_quota_is_resumed_by_the_other_version(
    begins: Who, resumes: Who, task: Task, control: Control, store: DicomStoreName
) -> None:
    quota = control.fault("export", status=429, message="Quota exceeded.")
    deferral = task.execute(begins)["deferral"]
    assert deferral["method"] == "submit_again"
    control.remove_fault(quota)
    # The trigger is Airflow's clock.
    deferral = task.resume(resumes, deferral, None)["deferral"]
    assert task.resume(resumes, deferral, task.wait(resumes, deferral))["result"]["success"] == 2
    assert len(accepted_exports(control, store)) == 1


@pytest.mark.parametrize(("begins", "clears"), [("0.1.0", "new"), ("new", "0.1.0")])
def test_task_cleared_after_its_success_returns_the_earlier_result_if_either_version_is_0_1_0(
    begins: Who, clears: Who, task: Task, control: Control, store: DicomStoreName
) -> None:
    deferral = task.execute(begins)["deferral"]
    result = task.resume(begins, deferral, task.wait(begins, deferral))["result"]
    again = task.try_again(clears)["result"]
    assert again["operation_name"] == result["operation_name"]
    assert len(accepted_exports(control, store)) == 1


def test_append_of_the_new_version_is_not_repeated_by_a_worker_of_0_1_0(
    appending: Task, control: Control, store: DicomStoreName
) -> None:
    appending.execute("new")
    name = appending.xcoms["operation_name"]
    # The worker cannot read the record, and ends before it submits anything.
    assert appending.try_again("0.1.0")["error"].startswith("KeyError")
    # Another selection is no reason to repeat it, either.
    appending.arguments["include_source_store"] = True
    assert appending.try_again("0.1.0")["error"].startswith("KeyError")
    del appending.arguments["include_source_store"]
    deferral = appending.try_again("new")["deferral"]
    assert deferral["kwargs"]["reattached"] is True
    assert accepted_exports(control, store) == [name]


def test_append_whose_reply_was_lost_in_0_1_0_is_refused(
    appending: Task, control: Control, store: DicomStoreName
) -> None:
    control.fault("export", reset="after", count=1)
    assert appending.execute("0.1.0")["error"].startswith("DicomExportDuplicateRiskError")
    assert appending.try_again("new")["error"].startswith("DicomExportDuplicateRiskError")
    assert len(accepted_exports(control, store)) == 1


def test_append_of_0_1_0_with_another_selection_is_refused(
    appending: Task, control: Control, store: DicomStoreName
) -> None:
    appending.execute("0.1.0")
    appending.arguments["include_source_store"] = True
    assert appending.try_again("new")["error"].startswith("DicomExportDuplicateRiskError")
    assert len(accepted_exports(control, store)) == 1


def test_first_try_of_the_new_version_that_submits_nothing_is_not_repeated_wrongly_by_0_1_0(
    task: Task, control: Control, store: DicomStoreName
) -> None:
    control.fault("export", status=400, message="Invalid.", count=1)
    assert "error" in task.execute("new")
    assert "deferral" in task.try_again("0.1.0")
    assert len(accepted_exports(control, store)) == 1


def test_records_of_both_versions_have_the_same_key(task: Task) -> None:
    task.execute("0.1.0")
    (before,) = task.records.read() or {}
    task.state = {}
    task.execute("new")
    assert list(task.records.read() or {}) == [before]
