"""Later tries of a task: what they follow, what they submit again, and what they must not."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
from airflow_provider_dicom.operators.dicom_store import STATE_KEY
from rig.servers import wait_for
from tests.support.around_tasks import end_deferral, set_current_context
from tests.support.provider_rig import Run, StateStore

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import BigQueryEmulator, HealthcareEmulator

pytestmark = pytest.mark.usefixtures("quick", "bigquery_dataset")
APPEND = {"destination": "bq://test-project.retries.instances", "write_disposition": "WRITE_APPEND"}
MODES = [pytest.param(True, id="deferred"), pytest.param(False, id="on_worker")]


@pytest.fixture(scope="module")
def bigquery_dataset(bigquery: BigQueryEmulator) -> None:
    bigquery.create_dataset("test-project", "retries")


@pytest.fixture
def hook(anonymous: str, healthcare: HealthcareEmulator) -> Any:
    with DicomStoreHook(anonymous, api_endpoint=healthcare.url) as hook:
        yield hook


def exports(control: Control, store: DicomStoreName) -> list[str]:
    return [o["name"] for o in control.exports()["operations"] if o["dicomStore"] == str(store)]


def first_try(task: DicomStoreExportOperator, run: Run) -> str:
    """Run a try that is killed once it has submitted, and return the Operation's name."""
    with pytest.raises(TaskDeferred):
        task.execute(run.context)
    run.ti.try_number += 1
    return str(run.ti.xcoms.pop("operation_name"))


@pytest.mark.parametrize("deferrable", MODES)
@pytest.mark.parametrize("options", [{}, APPEND], ids=["gcs", "append"])
def test_an_export_that_goes_on_is_followed(
    options: dict[str, Any],
    deferrable: bool,
    operator: Any,
    control: Control,
    store: DicomStoreName,
    instances: list[Uids],
) -> None:
    control.settings(advance="manual")
    run = Run()
    name = first_try(operator(**options), run)
    control.settings(advance="time")
    assert run(operator(deferrable=deferrable, **options))["operation_name"] == name
    assert run.ti.xcoms["operation_name"] == name
    assert exports(control, store) == [name]


def test_an_export_that_ended_well_meanwhile_is_the_result(
    operator: Any, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    run = Run()
    result = run(operator())
    run.ti.try_number += 1
    control.reset_requests()
    assert run(operator()) == result
    assert control.requests()["counts"] == {"operations.get": 1}


def test_one_that_ended_badly_is_submitted_again(
    operator: Any, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    control.settings(operation_error={"code": 13, "message": "internal trouble"})
    run = Run()
    with pytest.raises(exceptions.DicomExportOperationFailedError):
        run(operator())
    control.settings(operation_error=None)
    assert run(operator())["success"] == 3
    assert len(exports(control, store)) == 2


def test_but_not_when_it_appends(
    operator: Any, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    control.settings(operation_error={"code": 13, "message": "internal trouble"})
    run = Run()
    with pytest.raises(exceptions.DicomExportOperationFailedError):
        run(operator(**APPEND))
    with pytest.raises(exceptions.DicomExportDuplicateRiskError, match="earlier try failed") as error:
        run(operator(**APPEND))
    assert isinstance(error.value, AirflowFailException)
    assert len(exports(control, store)) == 1


@pytest.mark.parametrize("options", [{}, APPEND], ids=["gcs", "append"])
def test_an_operation_that_is_gone(
    options: dict[str, Any], operator: Any, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    run = Run()
    first_try(operator(**options), run)
    control.fault("operations.get", vanish=True, count=1)
    if options:
        with pytest.raises(exceptions.DicomExportDuplicateRiskError, match="does not exist any more"):
            run(operator(**options))
        assert len(exports(control, store)) == 1
        return
    control.settings(advance="time")
    assert run(operator(**options))["success"] == 3
    assert len(exports(control, store)) == 2


@pytest.mark.parametrize("options", [{}, APPEND], ids=["gcs", "append"])
def test_a_try_that_died_between_sending_and_noting(
    options: dict[str, Any], operator: Any, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    run = Run()
    name = first_try(operator(**options), run)
    memory = run.context["task_state_store"]
    memory.set(STATE_KEY, {**memory.get(STATE_KEY), "operation_name": None})
    if options:
        with pytest.raises(
            exceptions.DicomExportDuplicateRiskError, match="ended before it could record"
        ) as error:
            run(operator(**options))
        assert name in str(error.value), "the candidate is named"
        assert len(exports(control, store)) == 1
        return
    control.settings(advance="time")
    assert run(operator(**options))["success"] == 3
    assert len(exports(control, store)) == 2


def test_a_submission_that_was_refused_does_not_stand_in_the_way(
    operator: Any, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    run = Run()
    control.fault("export", status=403)
    with pytest.raises(exceptions.DicomExportError):
        run(operator(**APPEND))
    run.ti.try_number += 1
    control.clear_faults()
    assert run(operator(**APPEND))["success"] == 3
    assert len(exports(control, store)) == 1


def test_a_changed_request_replaces_the_earlier_export(
    operator: Any, control: Control, store: DicomStoreName, instances: list[Uids], bucket: str, hook: Any
) -> None:
    control.settings(advance="manual")
    run = Run()
    name = first_try(operator(), run)
    second = first_try(operator(destination=f"gs://{bucket}/elsewhere"), run)
    assert second != name
    assert hook.get_operation(name)["metadata"].get("cancelRequested")
    assert not hook.get_operation(second)["metadata"].get("cancelRequested")
    control.step()


@pytest.mark.parametrize("deferrable", MODES)
def test_a_cleared_task_does_not_inherit_the_cancellation(
    deferrable: bool, operator: Any, control: Control, store: DicomStoreName, instances: list[Uids], hook: Any
) -> None:
    control.settings(advance="manual")
    run = Run()
    name = first_try(operator(), run)
    task = operator(deferrable=deferrable)
    if deferrable:
        with pytest.raises(TaskDeferred) as first:
            task.execute(run.context)
        hook.cancel_operation(name)
        event = {"status": "cancelled", "operation": hook.get_operation(name), "message": None}
        control.settings(advance="time")
        with pytest.raises(TaskDeferred) as second:
            task.execute_complete(run.context, event, **(first.value.kwargs or {}))
        assert second.value.trigger.operation_name != name
    else:
        hook.cancel_operation(name)
        control.settings(advance="time")
        assert run(task)["operation_name"] != name
    assert len(exports(control, store)) == 2


def test_nor_when_it_waits_on_the_worker_meanwhile(
    operator: Any, control: Control, store: DicomStoreName, instances: list[Uids], hook: Any
) -> None:
    control.settings(advance="manual")
    run = Run()
    name = first_try(operator(), run)
    control.reset_requests()

    def cancel() -> None:
        # Once to re-attach, and then to wait.
        wait_for("polls", lambda: control.requests()["counts"].get("operations.get", 0) > 2, timeout=60)
        hook.cancel_operation(name)
        control.settings(advance="time")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    try:
        assert run(operator(deferrable=False))["operation_name"] != name
    finally:
        canceller.join()
    assert len(exports(control, store)) == 2


def test_not_durable_means_afresh(operator: Any, control: Control, store: DicomStoreName) -> None:
    run = Run()
    for _ in range(2):
        run(operator(durable=False, wait_for_completion=False))
        run.ti.try_number += 1
    assert len(exports(control, store)) == 2
    assert run.context["task_state_store"].values == {}


@pytest.mark.parametrize("options", [{}, APPEND], ids=["gcs", "append"])
def test_without_a_memory_a_retry_is_blind(
    options: dict[str, Any], operator: Any, control: Control, store: DicomStoreName
) -> None:
    run = Run()
    del run.context["task_state_store"]
    run(operator(wait_for_completion=False, **options))
    run.ti.try_number += 1
    if options:
        with pytest.raises(exceptions.DicomExportDuplicateRiskError, match="This is a retry"):
            run(operator(wait_for_completion=False, **options))
    else:
        run(operator(wait_for_completion=False, **options))
    assert len(exports(control, store)) == (1 if options else 2)


def test_a_superseded_attempt_submits_nothing(operator: Any, control: Control, store: DicomStoreName) -> None:
    class Superseded(StateStore):
        def get(self, key: str, default: Any = None) -> Any:
            return default

    run = Run()
    run.context["task_state_store"] = Superseded()
    with pytest.raises(exceptions.DicomExportError, match="taken over"):
        run(operator())
    assert exports(control, store) == []


def test_a_memory_that_fails_after_the_submission_loses_nothing(
    operator: Any, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    class Failing(StateStore):
        def set(self, key: str, value: Any, *, retention: Any = None) -> None:
            if value["operation_name"]:
                raise RuntimeError("the API server is away")
            super().set(key, value)

    run = Run()
    run.context["task_state_store"] = Failing()
    assert run(operator())["success"] == 3
    assert len(exports(control, store)) == 1


def test_a_trigger_that_gave_up_too_early_is_followed_by_another(
    operator: Any, control: Control, store: DicomStoreName, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    run = Run()
    task = operator(execution_timeout=timedelta(hours=1))
    with pytest.raises(TaskDeferred) as first:
        task.execute(run.context)
    event = {
        "status": "error",
        "operation": {"name": first.value.trigger.operation_name},
        "message": "no answer",
    }
    with pytest.raises(TaskDeferred) as second:
        task.execute_complete(run.context, event, **(first.value.kwargs or {}))
    assert second.value.trigger.serialize() == first.value.trigger.serialize()
    control.settings(advance="time")
    assert len(exports(control, store)) == 1


def test_a_deferral_that_airflow_times_out_cancels(
    operator: Any, control: Control, instances: list[Uids], hook: Any
) -> None:
    control.settings(advance="manual")
    run = Run(map_index=3)
    task = operator()
    with pytest.raises(TaskDeferred):
        task.execute(run.context)
    name = run.ti.xcoms["operation_name"]
    with pytest.raises(
        exceptions.DicomExportTimeoutError, match="is cancelled, as the API confirms"
    ) as error:
        end_deferral(task, run, timed_out=True)
    assert error.value.operation_name == name
    assert hook.get_operation(name)["metadata"]["cancelRequested"]


def test_a_task_that_airflow_2_kills_instead_of_resuming_cancels(
    operator: Any, control: Control, instances: list[Uids], hook: Any
) -> None:
    control.settings(advance="manual")
    run = Run(map_index=3)
    with pytest.raises(TaskDeferred):
        operator().execute(run.context)
    run.ti.next_method = "execute_complete"
    with set_current_context(run.context):
        operator().on_kill()
    assert hook.get_operation(run.ti.xcoms["operation_name"])["metadata"]["cancelRequested"]


def test_a_trigger_that_crashed_is_told_with_the_operations_name(
    operator: Any, control: Control, instances: list[Uids]
) -> None:
    control.settings(advance="manual")
    run = Run()
    task = operator()
    with pytest.raises(TaskDeferred):
        task.execute(run.context)
    with pytest.raises(exceptions.DicomExportError, match="goes on") as error:
        end_deferral(task, run, timed_out=False)
    assert error.value.operation_name == run.ti.xcoms["operation_name"]
    assert "operations.cancel" not in control.requests()["counts"]
    control.step()


def test_a_resumed_task_keeps_its_deadline(operator: Any, control: Control, instances: list[Uids]) -> None:
    control.settings(advance="manual")
    run = Run(start_date=datetime.now(UTC) - timedelta(minutes=50))
    with pytest.raises(TaskDeferred) as deferral:
        operator(execution_timeout=timedelta(hours=1)).execute(run.context)
    left = deferral.value.trigger.deadline - datetime.now(UTC).timestamp()
    assert 9 * 60 < left <= 10 * 60
    assert deferral.value.timeout is not None
    assert deferral.value.timeout.total_seconds() > left
    control.step()
