"""The operator's wait for the end of an export, deferred and on the worker, and the outcome of the export."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from airflow_provider_dicom import console, exceptions
from rig.contract import RESULT_KEYS
from rig.servers import wait_for
from tests.support.healthcare_requests import accepted_exports, request_count
from tests.support.task_runs import TaskRun, both_modes

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.api_types import OperationMetadata
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.triggers.dicom_store import ExportEvent
    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import StorageEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick")


@both_modes
def test_result_is_the_same_in_every_mode(
    deferrable: bool,
    operator: ExportOperatorFactory,
    store: DicomStoreName,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
) -> None:
    task_run = TaskRun()
    result = task_run.run(operator(deferrable=deferrable))
    assert set(result) == RESULT_KEYS
    name = result["operation_name"]
    assert name.startswith(f"{store.dataset}/operations/")
    assert (result["dicom_store"], result["destination"]) == (str(store), f"gs://{bucket}/nightly")
    assert (result["state"], result["success"], result["failure"]) == ("SUCCEEDED", 3, 0)
    assert result["pending"] == 0
    assert datetime.fromisoformat(result["create_time"]) <= datetime.fromisoformat(result["end_time"])
    # The local Healthcare API and the provider, each on its own, ask for the same log entries.
    times: OperationMetadata = {"createTime": result["create_time"], "endTime": result["end_time"]}
    built = console.logs_query_url({"name": name, "metadata": times}, str(store))
    assert unquote(result["logs_url"]).replace(".000000", "") == unquote(built)
    assert task_run.operation_name == name
    progress = task_run.ti.xcoms["progress"]
    assert (progress["state"], progress["success"]) == ("SUCCEEDED", 3)
    assert progress["end_time"] == result["end_time"]
    assert len(storage.objects(bucket, "nightly/")) == len(instances)
    assert len(task_run.deferrals) == deferrable
    if deferrable:
        (event,) = task_run.events
        assert (event["status"], event["message"], event["operation"]["name"]) == ("success", None, name)


def test_error_of_failed_instances_names_the_limits_of_transcoding(
    operator: ExportOperatorFactory, control: Control, instances: list[Uids]
) -> None:
    control.settings(failing_instances=[instances[0].instance])
    task_run = TaskRun()
    with pytest.raises(exceptions.DicomExportTooManyFailuresError, match=r"1 GB and frames up to 150 MB"):
        task_run.run(operator(mime_type="application/dicom; transfer-syntax=1.2.840.10008.1.2.1"))


@both_modes
@pytest.mark.parametrize(
    ("max_failures", "state"), [(0, None), (0.3, None), (1, "PARTIAL"), (0.34, "PARTIAL"), (3, "PARTIAL")]
)
def test_task_fails_only_if_more_than_max_failures_instances_failed(
    max_failures: float,
    state: str | None,
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    instances: list[Uids],
) -> None:
    control.settings(failing_instances=[instances[0].instance])
    task = operator(max_failures=max_failures, deferrable=deferrable)
    task_run = TaskRun()
    if state is None:
        with pytest.raises(exceptions.DicomExportTooManyFailuresError, match="1 failed of 3") as error:
            task_run.run(task)
        assert task_run.ti.xcoms["progress"]["state"] == "FAILED"
        assert error.value.operation_name == task_run.operation_name
        assert error.value.counters
        assert error.value.counters.failure == 1
    else:
        result = task_run.run(task)
        assert (result["state"], result["success"], result["failure"]) == (state, 2, 1)
        assert task_run.ti.xcoms["progress"]["state"] == "PARTIAL"


@both_modes
@pytest.mark.parametrize("form", ["error", "both"])
def test_error_because_of_failed_instances_is_a_warning_within_max_failures(
    form: str,
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    instances: list[Uids],
    printed: Callable[[], str],
) -> None:
    control.settings(failing_instances=[instances[0].instance], partial_failure=form)
    task_run = TaskRun()
    result = task_run.run(operator(deferrable=deferrable, max_failures=1))
    assert (result["state"], result["success"], result["failure"]) == ("PARTIAL", 2, 1)
    assert task_run.ti.xcoms["progress"]["state"] == "PARTIAL"
    assert printed().count("ended with UNKNOWN (code 2): 1 instances could not be exported") == 1
    with pytest.raises(exceptions.DicomExportOperationFailedError, match="2 exported, 1 failed") as error:
        TaskRun().run(operator(deferrable=deferrable))
    assert "max_failures=0 allows 0" in str(error.value)
    assert "counts as partial" not in printed()


def test_later_try_warns_once_of_an_error_within_max_failures(
    operator: ExportOperatorFactory, control: Control, instances: list[Uids], printed: Callable[[], str]
) -> None:
    control.settings(advance="manual", failing_instances=[instances[0].instance], partial_failure="error")
    task_run = TaskRun()
    task_run.run_until_deferred(operator(max_failures=1))
    control.step()
    task_run.ti.try_number += 1
    assert task_run.run(operator(max_failures=1))["state"] == "PARTIAL"
    assert printed().count("counts as partial") == 1


@both_modes
def test_error_of_the_operation_fails_the_task_and_a_permission_error_names_the_role(
    deferrable: bool, operator: ExportOperatorFactory, control: Control, instances: list[Uids], bucket: str
) -> None:
    control.settings(operation_error={"code": 13, "message": "internal trouble"})
    with pytest.raises(exceptions.DicomExportOperationFailedError, match="internal trouble") as failed:
        TaskRun().run(operator(deferrable=deferrable, max_failures=1.0))
    assert failed.value.operation
    assert failed.value.operation["error"]["code"] == 13
    assert "https://console.cloud.google.com/logs" in str(failed.value)
    message = (
        "Healthcare API doesn't have required Cloud Storage permission. See https://x for more information"
    )
    control.settings(operation_error={"code": 7, "message": message})
    filtered = {"resource_paths": [f"/studies/{instances[0].study}"], "filter_uri": f"gs://{bucket}/f.txt"}
    with pytest.raises(exceptions.DicomExportPermissionError) as denied:
        TaskRun().run(operator(deferrable=deferrable, **filtered))
    assert f"roles/storage.objectAdmin on the bucket {bucket}" in str(denied.value)
    assert f"roles/storage.objectViewer on the bucket {bucket}" in str(denied.value)


FAULTS: list[dict[str, Any]] = [
    *({"status": status} for status in (408, 425, 429, 500, 502, 503, 504)),
    {"reset": "before"},
    {"reset": "after"},
    {"body": "truncated"},
    {"body": "html"},
    {"body": "empty"},
]


@both_modes
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_transient_errors_of_polls_do_not_fail_the_task(
    fault: dict[str, Any],
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.fault("operations.get", count=5, **fault)
    result = TaskRun().run(operator(deferrable=deferrable))
    assert result["success"] == 3
    assert accepted_exports(control, store) == [result["operation_name"]]
    assert request_count(control, "operations.get") >= 6


@both_modes
@pytest.mark.parametrize("status", [401, 403, 404])
def test_two_refused_polls_do_not_fail_the_task(
    status: int,
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    instances: list[Uids],
) -> None:
    control.fault("operations.get", count=2, status=status)
    assert TaskRun().run(operator(deferrable=deferrable))["success"] == 3
    assert request_count(control, "operations.get") >= 3


@both_modes
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, exceptions.DicomExportAuthenticationError),
        (403, exceptions.DicomExportPermissionError),
        (404, exceptions.DicomExportNotFoundError),
    ],
)
def test_persistently_refused_polls_fail_the_task_with_the_operation_name(
    status: int,
    kind: type[exceptions.DicomExportError],
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.settings(advance="manual")
    control.fault("operations.get", status=status)
    with pytest.raises(kind) as error:
        TaskRun().run(operator(deferrable=deferrable))
    (name,) = accepted_exports(control, store)
    assert error.value.operation_name == name
    assert name in str(error.value)
    assert request_count(control, "operations.get") >= 3
    if status == 403:
        assert "The export itself goes on" in str(error.value)
        assert "datasets add-iam-policy-binding" in str(error.value)
    control.clear_faults()
    control.step()


def test_vanished_operation_fails_the_task_with_a_hint_at_its_retention(
    operator: ExportOperatorFactory, control: Control, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    control.fault("operations.get", vanish=True, count=1)
    with pytest.raises(exceptions.DicomExportNotFoundError, match="about 30 days"):
        TaskRun().run(operator())


@both_modes
def test_export_that_another_client_cancels_fails_the_task_as_cancelled(
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    instances: list[Uids],
    hook: DicomStoreHook,
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()

    def cancel() -> None:
        name = wait_for(
            "the submission", lambda: task_run.ti.xcoms.get("operation_name"), timeout=60, pause=0.02
        )
        control.step(instances=1)
        hook.cancel_operation(name)

    other_client = threading.Thread(target=cancel)
    other_client.start()
    with pytest.raises(exceptions.DicomExportCancelledError) as error:
        task_run.run(operator(deferrable=deferrable))
    other_client.join(60)
    assert error.value.counters
    assert error.value.counters.success == 1
    if deferrable:
        assert task_run.events[0]["status"] == "cancelled"


def test_error_event_of_a_running_export_makes_the_task_defer_again(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    task = operator(execution_timeout=timedelta(hours=1))
    first = task_run.run_until_deferred(task)
    event: ExportEvent = {
        "status": "error",
        "operation": {"name": first.trigger.operation_name},
        "message": "no answer",
    }
    second = task_run.resume_until_deferred(task, first, event)
    assert second.trigger.serialize() == first.trigger.serialize()
    assert len(accepted_exports(control, store)) == 1
    control.step()
