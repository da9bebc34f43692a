"""Exports beside each other: submissions without a reply, predecessors, and several exports of one task."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom import exceptions
from tests.support.healthcare_requests import accepted_exports, request_count
from tests.support.task_runs import TaskRun, both_modes

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import BigQueryEmulator
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def table(bigquery: BigQueryEmulator, store: DicomStoreName) -> str:
    """A table of the test's own that does not exist yet."""
    dataset = f"twins_{store.dataset.dataset_id.replace('-', '_')}"
    bigquery.create_dataset("test-project", dataset)
    return f"bq://test-project.{dataset}.instances"


@pytest.fixture
def unlisted(control: Control) -> None:
    """The account may not list Operations, as most accounts."""
    control.settings(denied_permissions=["healthcare.operations.list"])


def time_of(value: str | None) -> datetime:
    """Parse a time of a result or of an Operation."""
    assert value is not None
    return datetime.fromisoformat(value)


def test_task_is_deferred_while_a_lost_submission_may_run_and_a_kill_does_not_cancel_it(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    control.fault("export", count=1, reset="after")
    task_run = TaskRun()
    deferral = task_run.run_until_deferred(operator(execution_timeout=timedelta(hours=1)))
    (twin,) = accepted_exports(control, store)
    assert deferral.method_name == "submit_again"
    assert deferral.trigger.operation_name == twin
    # Nobody knows for certain that the Operation is the task's own.
    assert deferral.trigger.cancel_on_kill is False
    assert deferral.trigger.deadline is not None
    control.settings(advance="time")
    result = task_run.resume(operator(), deferral, {"status": "success", "operation": {}, "message": None})
    assert accepted_exports(control, store) == [twin, result["operation_name"]]


def test_task_that_polls_on_the_worker_waits_there_for_a_lost_submission(
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
    hook: DicomStoreHook,
) -> None:
    control.settings(start_delay_seconds=0.5)
    control.fault("export", count=1, reset="after")
    name = TaskRun().run(operator(deferrable=False))["operation_name"]
    twin, second = accepted_exports(control, store)
    assert second == name
    times = [hook.get_operation(each)["metadata"] for each in (twin, second)]
    assert time_of(times[0]["endTime"]) <= time_of(times[1]["createTime"])


@both_modes
def test_deadline_that_passes_while_another_operation_has_to_end_says_that_nothing_was_submitted(
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.settings(advance="manual")
    control.fault("export", count=1, reset="after")
    task = operator(deferrable=deferrable, execution_timeout=timedelta(seconds=1.5))
    with pytest.raises(exceptions.DicomExportTimeoutError, match="nothing was submitted"):
        TaskRun().run(task)
    assert len(accepted_exports(control, store)) == 1
    assert request_count(control, "operations.cancel") == 0
    control.step()


@pytest.mark.usefixtures("unlisted")
@both_modes
def test_snapshot_time_is_not_after_a_lost_submission_that_may_write_last(
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
    hook: DicomStoreHook,
    table: str,
) -> None:
    control.settings(start_delay_seconds=0.3)
    control.fault("export", count=1, reset="after")
    task = operator(destination=table, write_disposition="WRITE_TRUNCATE", deferrable=deferrable)
    result = TaskRun().run(task)
    twin, second = accepted_exports(control, store)
    assert result["operation_name"] == second
    created = hook.get_operation(twin)["metadata"]["createTime"]
    assert time_of(result["snapshot_time"]) <= time_of(created) < time_of(result["create_time"])


def test_snapshot_time_is_the_create_time_without_a_lost_submission(
    operator: ExportOperatorFactory, instances: list[Uids]
) -> None:
    result = TaskRun().run(operator())
    assert result["snapshot_time"] == result["create_time"]


@pytest.mark.usefixtures("unlisted")
def test_later_try_that_reattaches_knows_of_the_lost_submission(
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
    hook: DicomStoreHook,
) -> None:
    control.settings(advance="manual")
    control.fault("export", count=1, reset="after")
    task_run = TaskRun()
    task_run.run_until_deferred(operator())
    task_run.begin_next_try()
    control.settings(advance="time")
    result = task_run.run(operator())
    twin, second = accepted_exports(control, store)
    assert result["operation_name"] == second
    assert time_of(result["snapshot_time"]) <= time_of(hook.get_operation(twin)["metadata"]["createTime"])


@pytest.mark.usefixtures("unlisted")
@both_modes
def test_timeout_says_that_a_lost_submission_may_run_on(
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    instances: list[Uids],
    printed: Callable[[], str],
) -> None:
    control.settings(advance="manual")
    control.fault("export", count=1, reset="after")
    task = operator(deferrable=deferrable, execution_timeout=timedelta(seconds=1.5))
    with pytest.raises(exceptions.DicomExportTimeoutError) as error:
        TaskRun().run(task)
    assert "whose reply was lost may run on" in str(error.value)
    assert "gcloud healthcare operations list" in str(error.value)
    # A triggerer that cancels the second export for a kill cannot say so.
    assert "an earlier submission may run on unseen" in printed()
    control.step()


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "unlisted"])
def test_table_that_a_lost_submission_has_filled_is_an_error_of_its_own(
    listed: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
    table: str,
) -> None:
    if not listed:
        # The first export is over when its reply is lost: nobody waits for it.
        control.settings(advance="immediate", denied_permissions=["healthcare.operations.list"])
    control.fault("export", count=1, reset="after")
    task_run = TaskRun()
    with pytest.raises(exceptions.DicomExportDestinationNotEmptyError) as error:
        task_run.run(operator(destination=table))
    assert error.value.operation_name == accepted_exports(control, store)[1]
    for part in ("Already Exists", table, "DicomStoreExportCheckOperator", "gcloud healthcare operations"):
        assert part in str(error.value)


def test_table_that_is_full_without_a_lost_submission_is_an_ordinary_error(
    operator: ExportOperatorFactory, instances: list[Uids], table: str
) -> None:
    TaskRun().run(operator(destination=table))
    with pytest.raises(exceptions.DicomExportError, match="Already Exists") as error:
        TaskRun().run(operator(destination=table))
    assert not isinstance(error.value, exceptions.DicomExportDestinationNotEmptyError)


@both_modes
def test_changed_request_waits_for_an_export_that_cannot_be_cancelled(
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
    hook: DicomStoreHook,
) -> None:
    control.settings(denied_permissions=["healthcare.operations.cancel"], start_delay_seconds=0.5)
    task_run = TaskRun()
    task_run.run_until_deferred(operator())
    task_run.begin_next_try()
    control.settings(start_delay_seconds=0)
    task_run.run(operator(mime_type="application/dicom", deferrable=deferrable))
    old, new = (hook.get_operation(name)["metadata"] for name in accepted_exports(control, store))
    assert time_of(old["endTime"]) <= time_of(new["createTime"])
    again = [deferral for deferral in task_run.deferrals if deferral.method_name == "submit_again"]
    assert [deferral.trigger.cancel_on_kill for deferral in again] == [True] * deferrable


def test_two_exports_of_one_task_do_not_cancel_each_other_in_any_try(
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
    bucket: str,
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()

    def both() -> list[str]:
        return [
            task_run.run_until_deferred(operator(destination=f"gs://{bucket}/{name}")).trigger.operation_name
            for name in ("first", "second")
        ]

    names = both()
    task_run.begin_next_try()
    assert both() == names == accepted_exports(control, store)
    assert request_count(control, "operations.cancel") == 0
    control.step()


@both_modes
@pytest.mark.parametrize("status", [429, 503])
def test_transient_error_while_reattaching_does_not_fail_the_task(
    status: int,
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    task_run.run_until_deferred(operator())
    task_run.begin_next_try()
    control.settings(advance="time")
    # More often than the connection repeats a request.
    control.fault("operations.get", count=6, status=status)
    result = task_run.run(operator(deferrable=deferrable))
    assert accepted_exports(control, store) == [result["operation_name"]]


def test_task_that_reattaches_in_spite_of_a_429_can_be_killed(
    operator: ExportOperatorFactory, control: Control, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    task_run.run_until_deferred(operator())
    name = task_run.operation_name
    task_run.begin_next_try()
    control.fault("operations.get", count=1, status=429)
    deferral = task_run.run_until_deferred(operator())
    assert (deferral.method_name, deferral.trigger.operation_name) == ("execute_complete", name)
    assert deferral.trigger.cancel_on_kill is True
    assert task_run.operation_name == name
    control.step()


@both_modes
def test_xcom_that_cannot_be_written_does_not_lose_the_operation(
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
    printed: Callable[[], str],
) -> None:
    task_run = TaskRun()

    def fail(**_: Any) -> None:
        raise RuntimeError("the API server is away")

    task_run.ti.xcom_push = fail  # type: ignore[assignment]
    result = task_run.run(operator(deferrable=deferrable))
    (name,) = accepted_exports(control, store)
    assert (result["operation_name"], task_run.record["operation_name"]) == (name, name)
    assert f"the task goes on with {name}: the API server is away" in printed()


@pytest.mark.parametrize("has_xcom", [True, False])
@pytest.mark.parametrize("timed_out", [True, False])
def test_end_of_a_deferral_names_the_operation_without_its_xcom(
    timed_out: bool,
    has_xcom: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    task_run.run_until_deferred(operator())
    (name,) = accepted_exports(control, store)
    if not has_xcom:
        task_run.ti.xcoms.clear()
    with pytest.raises(exceptions.DicomExportError) as error:
        task_run.end_deferral(operator(), timed_out=timed_out)
    assert error.value.operation_name == name
    assert name in str(error.value)
    assert request_count(control, "operations.cancel") == timed_out
    control.step()


@pytest.mark.parametrize("timed_out", [True, False])
def test_end_of_a_pause_before_a_submission_says_that_nothing_is_known_to_be_submitted(
    timed_out: bool, operator: ExportOperatorFactory, control: Control
) -> None:
    control.fault("export", status=429)
    task_run = TaskRun()
    task_run.run_until_deferred(operator())
    kind = exceptions.DicomExportTimeoutError if timed_out else exceptions.DicomExportError
    with pytest.raises(kind, match="while the task was waiting to submit"):
        task_run.end_deferral(operator(), timed_out=timed_out)
