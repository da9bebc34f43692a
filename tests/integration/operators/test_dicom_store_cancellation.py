"""Kills, timeouts and trigger failures: which of them cancel the export, and which errors they end in."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
from tests.support.healthcare_requests import accepted_exports, request_count
from tests.support.signalled_task import signal_during_a_poll
from tests.support.task_runs import TaskRun, both_modes, set_current_context
from tests.support.trigger_runs import patch_task_state, run_trigger

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.dicom_files import Uids
    from tests.integration.operators.conftest import ExportOperatorFactory

pytestmark = pytest.mark.usefixtures("quick")


@both_modes
@pytest.mark.parametrize("cancel_on_kill", [True, False])
def test_execution_timeout_cancels_the_export_if_cancel_on_kill(
    deferrable: bool,
    cancel_on_kill: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.settings(advance="manual")
    timeout = timedelta(seconds=1.2)
    task_run = TaskRun()
    task = operator(deferrable=deferrable, execution_timeout=timeout, cancel_on_kill=cancel_on_kill)
    with pytest.raises(exceptions.DicomExportTimeoutError) as error:
        task_run.run(task)
    assert datetime.now(UTC) - task_run.ti.start_date >= timeout
    assert accepted_exports(control, store) == [error.value.operation_name]
    assert ("is cancelled, as the API confirms" in str(error.value)) is cancel_on_kill
    assert ("goes on" in str(error.value)) is not cancel_on_kill
    assert request_count(control, "operations.cancel") == cancel_on_kill
    if deferrable:
        assert task_run.events[0]["status"] == "timeout"
        assert task_run.deferrals[0].timeout > timeout
    control.step()


@pytest.mark.parametrize("cancel_on_kill", [True, False])
def test_airflow_timeout_on_the_worker_cancels_the_export_if_cancel_on_kill(
    cancel_on_kill: bool, operator: ExportOperatorFactory, control: Control, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    # Airflow's alarm goes off during a poll, before the operator's own deadline, which is a minute later.
    control.fault("operations.get", latency_seconds=3.0, count=1)
    task_run = TaskRun(start_date=datetime.now(UTC) + timedelta(minutes=1))
    task = operator(deferrable=False, execution_timeout=timedelta(seconds=1), cancel_on_kill=cancel_on_kill)
    with pytest.raises(AirflowTaskTimeout):
        task_run.run_under_timeout(task)
    assert request_count(control, "operations.cancel") == cancel_on_kill
    control.step()


def test_kill_during_a_poll_on_the_worker_cancels_the_export(
    operator: ExportOperatorFactory,
    control: Control,
    instances: list[Uids],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patch_task_state(monkeypatch, "failed", None)
    control.settings(advance="manual")
    task = operator(deferrable=False)
    with signal_during_a_poll(task, control), pytest.raises(exceptions.DicomExportCancelledError):
        TaskRun().run(task)
    assert request_count(control, "operations.cancel") == 1


def test_kill_after_the_export_cancels_nothing(
    operator: ExportOperatorFactory, control: Control, instances: list[Uids]
) -> None:
    task = operator(deferrable=False)
    TaskRun().run(task)
    task.on_kill()
    assert request_count(control, "operations.cancel") == 0


@both_modes
def test_kill_before_the_task_begins_submits_nothing(
    deferrable: bool,
    operator: ExportOperatorFactory,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    task = operator(deferrable=deferrable)
    task.on_kill()
    with pytest.raises(exceptions.DicomExportCancelledError, match="nothing was submitted"):
        TaskRun().run(task)
    assert accepted_exports(control, store) == []


def test_deferral_timeout_of_a_finished_export_returns_its_result(
    operator: ExportOperatorFactory, control: Control, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    task = operator()
    task_run.run_until_deferred(task)
    # No triggerer ran; the export went on.
    control.step()
    assert task_run.end_deferral(task, timed_out=True)["state"] == "SUCCEEDED"
    assert request_count(control, "operations.cancel") == 0


@pytest.mark.parametrize("cancel_on_kill", [True, False])
def test_export_that_ended_while_the_triggerer_was_away_is_a_result_after_the_deadline(
    cancel_on_kill: bool, operator: ExportOperatorFactory, control: Control, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun(start_date=datetime.now(UTC) - timedelta(minutes=1))
    task = operator(execution_timeout=timedelta(minutes=1, seconds=20), cancel_on_kill=cancel_on_kill)
    deferral = task_run.run_until_deferred(task)
    control.step()
    # The trigger starts after the deadline.
    deferral.trigger.deadline = datetime.now(UTC).timestamp() - 1
    event = asyncio.run(run_trigger(deferral.trigger))
    assert event["status"] == "timeout"
    kwargs = {**(deferral.kwargs or {}), "event": event}
    result: Any = task.resume_execution(deferral.method_name, kwargs, task_run.context)
    assert (result["state"], result["success"]) == ("SUCCEEDED", 3)
    assert request_count(control, "operations.cancel") == 0


@both_modes
def test_export_that_ends_before_its_cancellation_at_the_deadline_is_a_result(
    deferrable: bool, operator: ExportOperatorFactory, control: Control, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    task = operator(deferrable=deferrable, execution_timeout=timedelta(seconds=1))
    # The export goes on although it is asked to stop, and the API tells of its end afterwards.
    control.fault("operations.cancel", status=400, message="The operation has already completed.", count=1)
    get_operation = DicomStoreHook.get_operation

    def end_then_get(hook: DicomStoreHook, name: str, **options: Any) -> Any:
        if request_count(control, "operations.cancel"):
            control.step(name)
        return get_operation(hook, name, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DicomStoreHook, "get_operation", end_then_get)
        result = TaskRun().run(task)
    assert (result["state"], result["success"]) == ("SUCCEEDED", 3)


def test_nothing_is_submitted_after_the_deadline(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    # The pause for a quota was longer than planned: the scheduler was down.
    task_run = TaskRun()
    task = operator(execution_timeout=timedelta(hours=1))
    control.fault("export", status=429)
    pause = task_run.run_until_deferred(task)
    control.clear_faults()
    kwargs = {**(pause.kwargs or {}), "deadline": datetime.now(UTC).timestamp() - 3600}
    with pytest.raises(exceptions.DicomExportTimeoutError, match="nothing was submitted"):
        task.resume_execution(pause.method_name, kwargs, task_run.context)
    assert accepted_exports(control, store) == []


def test_deferral_for_a_quota_that_fails_submits_nothing(
    operator: ExportOperatorFactory, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    task_run = TaskRun()
    task = operator()
    control.fault("export", status=429)
    task_run.run_until_deferred(task)
    with pytest.raises(exceptions.DicomExportError, match="waiting to submit"):
        task_run.end_deferral(task, timed_out=False)
    assert accepted_exports(control, store) == []


def test_deferral_timeout_of_airflow_cancels_the_export(
    operator: ExportOperatorFactory, control: Control, instances: list[Uids], hook: DicomStoreHook
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun(map_index=3)
    task = operator()
    task_run.run_until_deferred(task)
    with pytest.raises(
        exceptions.DicomExportTimeoutError, match="is cancelled, as the API confirms"
    ) as error:
        task_run.end_deferral(task, timed_out=True)
    assert error.value.operation_name == task_run.operation_name
    assert hook.get_operation(task_run.operation_name)["metadata"]["cancelRequested"]


def test_kill_of_a_deferred_task_in_airflow_2_cancels_the_export(
    operator: ExportOperatorFactory, control: Control, instances: list[Uids], hook: DicomStoreHook
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun(map_index=3)
    task_run.run_until_deferred(operator())
    task_run.ti.next_method = "execute_complete"
    # Airflow 2 calls on_kill of a new task object that it never resumes.
    with set_current_context(task_run.context):
        operator().on_kill()
    assert hook.get_operation(task_run.operation_name)["metadata"]["cancelRequested"]


def test_failed_trigger_ends_in_an_error_with_the_operation_name_and_cancels_nothing(
    operator: ExportOperatorFactory, control: Control, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun()
    task = operator()
    task_run.run_until_deferred(task)
    with pytest.raises(exceptions.DicomExportError, match="goes on") as error:
        task_run.end_deferral(task, timed_out=False)
    assert error.value.operation_name == task_run.operation_name
    assert request_count(control, "operations.cancel") == 0
    control.step()


def test_deadline_counts_from_the_start_of_the_task(
    operator: ExportOperatorFactory, control: Control, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    task_run = TaskRun(start_date=datetime.now(UTC) - timedelta(minutes=50))
    deferral = task_run.run_until_deferred(operator(execution_timeout=timedelta(hours=1)))
    left = deferral.trigger.deadline - datetime.now(UTC).timestamp()
    assert 9 * 60 < left <= 10 * 60
    assert deferral.timeout is not None
    assert deferral.timeout.total_seconds() > left
    control.step()
