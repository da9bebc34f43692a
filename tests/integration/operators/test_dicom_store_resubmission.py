"""What is submitted again, after a lost reply or by a later try, and what must not be."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_dicom import exceptions
from rig.servers import wait_for
from tests.support.healthcare_requests import accepted_exports, request_count
from tests.support.task_runs import TaskRun, TaskStateStore, both_modes, records_in

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import BigQueryEmulator, StorageEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick", "bigquery_dataset")
TABLE = "bq://test-project.resubmission.instances"
APPEND = {"destination": TABLE, "write_disposition": "WRITE_APPEND"}
gcs_and_append = pytest.mark.parametrize("options", [{}, APPEND], ids=["gcs", "append"])
lost_replies = pytest.mark.parametrize(
    "fault",
    [{"reset": "before"}, {"reset": "after"}, {"status": 500}, {"status": 503}, {"body": "html"}],
    ids=str,
)


@pytest.fixture(scope="module")
def bigquery_dataset(bigquery: BigQueryEmulator) -> None:
    """The dataset of ``TABLE``."""
    bigquery.create_dataset("test-project", "resubmission")


def run_killed_try(task: DicomStoreExportOperator, task_run: TaskRun) -> str:
    """Run a try that ends, without ``on_kill``, once it has submitted; return the Operation's name."""
    task_run.run_until_deferred(task)
    name = task_run.operation_name
    task_run.begin_next_try()
    return name


@lost_replies
def test_export_to_cloud_storage_is_resubmitted_after_a_lost_reply(
    fault: dict[str, Any],
    operator: ExportOperatorFactory,
    control: Control,
    instances: list[Uids],
    bucket: str,
    storage: StorageEmulator,
) -> None:
    control.fault("export", count=2, **fault)
    result = TaskRun().run(operator())
    assert result["success"] == 3
    assert len(storage.objects(bucket, "nightly/")) == 3
    assert request_count(control, "export") == 3


@lost_replies
def test_append_export_is_not_resubmitted_after_a_lost_reply(
    fault: dict[str, Any], operator: ExportOperatorFactory, control: Control
) -> None:
    control.fault("export", count=1, **fault)
    with pytest.raises(AirflowFailException) as error:
        TaskRun().run(operator(**APPEND))
    assert isinstance(error.value, exceptions.DicomExportDuplicateRiskError)
    assert request_count(control, "export") == 1
    assert "WRITE_APPEND" in str(error.value)
    assert "gcloud healthcare operations list" in str(error.value)


@pytest.mark.parametrize("disposition", ["WRITE_TRUNCATE", "WRITE_EMPTY", None])
def test_other_bigquery_export_is_resubmitted_after_a_lost_reply(
    disposition: str | None, operator: ExportOperatorFactory, control: Control, store: DicomStoreName
) -> None:
    control.fault("export", count=1, status=502)
    task = operator(destination=TABLE, write_disposition=disposition, wait_for_completion=False)
    name = TaskRun().run(task)
    assert accepted_exports(control, store) == [name]
    assert request_count(control, "export") == 2


def test_append_export_is_resubmitted_after_a_429(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName
) -> None:
    control.fault("export", count=2, status=429)
    name = TaskRun().run(operator(wait_for_completion=False, **APPEND))
    assert accepted_exports(control, store) == [name]
    assert request_count(control, "export") == 3


@both_modes
@gcs_and_append
def test_retry_reattaches_to_a_running_export(
    options: dict[str, Any],
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    name = run_killed_try(operator(**options), task_run)
    control.settings(advance="time")
    assert task_run.run(operator(deferrable=deferrable, **options))["operation_name"] == name
    assert task_run.operation_name == name
    assert accepted_exports(control, store) == [name]


def test_retry_returns_the_result_of_an_export_that_has_succeeded(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    task_run = TaskRun()
    result = task_run.run(operator(), delivers=False)
    task_run.begin_next_try()
    control.reset_requests()
    assert task_run.run(operator()) == result
    assert control.requests()["counts"] == {"operations.get": 1}


def test_failed_export_to_cloud_storage_is_resubmitted(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    control.settings(operation_error={"code": 13, "message": "internal trouble"})
    task_run = TaskRun()
    with pytest.raises(exceptions.DicomExportOperationFailedError):
        task_run.run(operator())
    control.settings(operation_error=None)
    assert task_run.run(operator())["success"] == 3
    assert len(accepted_exports(control, store)) == 2


def test_failed_append_export_is_not_resubmitted(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    control.settings(operation_error={"code": 13, "message": "internal trouble"})
    task_run = TaskRun()
    with pytest.raises(exceptions.DicomExportOperationFailedError):
        task_run.run(operator(**APPEND))
    with pytest.raises(exceptions.DicomExportDuplicateRiskError, match="earlier try failed") as error:
        task_run.run(operator(**APPEND))
    assert isinstance(error.value, AirflowFailException)
    assert len(accepted_exports(control, store)) == 1


@gcs_and_append
def test_export_whose_operation_has_vanished_is_resubmitted_unless_it_appends(
    options: dict[str, Any],
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    run_killed_try(operator(**options), task_run)
    control.fault("operations.get", vanish=True, count=1)
    if options:
        with pytest.raises(exceptions.DicomExportDuplicateRiskError, match="does not exist any more"):
            task_run.run(operator(**options))
        assert len(accepted_exports(control, store)) == 1
        return
    control.settings(advance="time")
    assert task_run.run(operator(**options))["success"] == 3
    assert len(accepted_exports(control, store)) == 2


@gcs_and_append
def test_export_without_a_recorded_operation_is_resubmitted_unless_it_appends(
    options: dict[str, Any],
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    name = run_killed_try(operator(**options), task_run)
    task_run.change_record(operation_name=None, state="intent")
    if not options:
        control.step()
    if options:
        with pytest.raises(
            exceptions.DicomExportDuplicateRiskError, match="ended before it could record"
        ) as error:
            task_run.run(operator(**options))
        assert name in str(error.value), "the Operation that may be the earlier try's is named"
        assert len(accepted_exports(control, store)) == 1
        return
    control.settings(advance="time")
    assert task_run.run(operator(**options))["success"] == 3
    assert len(accepted_exports(control, store)) == 2


def test_append_export_is_submitted_after_a_refused_submission_of_an_earlier_try(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    task_run = TaskRun()
    control.fault("export", status=403)
    with pytest.raises(exceptions.DicomExportError):
        task_run.run(operator(**APPEND))
    task_run.begin_next_try()
    control.clear_faults()
    assert task_run.run(operator(**APPEND))["success"] == 3
    assert len(accepted_exports(control, store)) == 1


def test_changed_request_cancels_the_export_of_the_earlier_try(
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
    bucket: str,
    hook: DicomStoreHook,
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    name = run_killed_try(operator(), task_run)
    second = run_killed_try(operator(mime_type="application/dicom"), task_run)
    assert second != name
    assert hook.get_operation(name)["metadata"].get("cancelRequested")
    assert not hook.get_operation(second)["metadata"].get("cancelRequested")
    control.step()


@both_modes
def test_cleared_task_resubmits_an_export_that_was_cancelled_with_the_earlier_try(
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
    hook: DicomStoreHook,
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    name = run_killed_try(operator(), task_run)
    task = operator(deferrable=deferrable)
    if deferrable:
        first = task_run.run_until_deferred(task)
        hook.cancel_operation(name)
        event = {"status": "cancelled", "operation": hook.get_operation(name), "message": None}
        control.settings(advance="time")
        second = task_run.resume_until_deferred(task, first, event)
        assert second.trigger.operation_name != name
    else:
        hook.cancel_operation(name)
        control.settings(advance="time")
        assert task_run.run(task)["operation_name"] != name
    assert len(accepted_exports(control, store)) == 2


def test_cleared_task_resubmits_an_export_that_is_cancelled_while_it_polls_on_the_worker(
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
    hook: DicomStoreHook,
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    name = run_killed_try(operator(), task_run)
    control.reset_requests()

    def cancel() -> None:
        # The first request re-attaches; the later ones are polls.
        wait_for("polls", lambda: request_count(control, "operations.get") > 2, timeout=60, pause=0.02)
        hook.cancel_operation(name)
        control.settings(advance="time")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    try:
        assert task_run.run(operator(deferrable=False))["operation_name"] != name
    finally:
        canceller.join()
    assert len(accepted_exports(control, store)) == 2


def test_durable_false_submits_in_every_try_and_records_nothing(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName
) -> None:
    task_run = TaskRun()
    for _ in range(2):
        task_run.run(operator(durable=False, wait_for_completion=False))
        task_run.begin_next_try()
    assert len(accepted_exports(control, store)) == 2
    assert task_run.context["task_state_store"].values == {}


@gcs_and_append
def test_retry_without_task_state_resubmits_unless_it_appends(
    options: dict[str, Any], operator: ExportOperatorFactory, control: Control, store: DicomStoreName
) -> None:
    task_run = TaskRun()
    del task_run.context["task_state_store"]
    task_run.run(operator(wait_for_completion=False, **options))
    task_run.begin_next_try()
    if options:
        with pytest.raises(exceptions.DicomExportDuplicateRiskError, match="This is a retry"):
            task_run.run(operator(wait_for_completion=False, **options))
    else:
        task_run.run(operator(wait_for_completion=False, **options))
    assert len(accepted_exports(control, store)) == (1 if options else 2)


def test_superseded_attempt_submits_nothing(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName
) -> None:
    class ReadsNothingBack(TaskStateStore):
        def get(self, key: str, default: object = None) -> Any:
            return default

    task_run = TaskRun()
    task_run.context["task_state_store"] = ReadsNothingBack()
    with pytest.raises(exceptions.DicomExportError, match="taken over"):
        task_run.run(operator())
    assert accepted_exports(control, store) == []


def test_submitted_export_is_not_lost_if_its_name_cannot_be_recorded(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    class FailsToRecordNames(TaskStateStore):
        def set(self, key: str, value: Any, *, retention: object = None) -> None:
            if any(record["operation_name"] for record in records_in(value)):
                raise RuntimeError("the API server does not respond")
            super().set(key, value)

    task_run = TaskRun()
    task_run.context["task_state_store"] = FailsToRecordNames()
    assert task_run.run(operator())["success"] == 3
    assert len(accepted_exports(control, store)) == 1
