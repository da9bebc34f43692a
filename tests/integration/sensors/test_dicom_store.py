"""The sensor, which waits for an export that another task has started, and never cancels it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    timeout,
)

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
from airflow_provider_dicom.sensors.dicom_store import DicomStoreExportSensor
from tests.support.healthcare_requests import request_count
from tests.support.task_runs import TaskRun, both_modes
from tests.support.trigger_runs import run_trigger

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator

pytestmark = pytest.mark.usefixtures("quick")


class SensorFactory(Protocol):
    """Builds sensors that wait for the test's export."""

    def __call__(self, **changes: object) -> DicomStoreExportSensor:
        """Build a sensor; ``changes`` are its parameters other than the defaults."""


@pytest.fixture
def name(
    anonymous: str,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
    instances: list[Uids],
    bucket: str,
    control: Control,
) -> str:
    """The Operation of an export of three instances that makes no progress on its own."""
    control.settings(advance="manual")
    with DicomStoreHook(anonymous, api_endpoint=healthcare.url) as hook:
        return hook.export(store, ExportRequest(destination=f"gs://{bucket}/out"))["name"]


@pytest.fixture
def sensor(anonymous: str, healthcare: HealthcareEmulator, name: str) -> SensorFactory:
    """Builds sensors that wait for the test's export."""

    def build(**changes: object) -> DicomStoreExportSensor:
        arguments: dict[str, Any] = {
            "task_id": "wait",
            "operation_name": name,
            "gcp_conn_id": anonymous,
            "api_endpoint": healthcare.url,
            "poll_interval": 0.05,
            "poke_interval": 0.05,
        }
        return DicomStoreExportSensor(**(arguments | changes))

    return build


@both_modes
def test_sensor_returns_the_result_of_a_finished_export(
    deferrable: bool, sensor: SensorFactory, control: Control, name: str
) -> None:
    control.settings(advance="time")
    result = TaskRun(task_id="wait").run(sensor(deferrable=deferrable))
    assert (result["operation_name"], result["state"], result["success"]) == (name, "SUCCEEDED", 3)
    assert (result["dicom_store"], result["destination"]) == (None, None)


@both_modes
def test_sensor_fails_only_if_more_than_max_failures_failed(
    deferrable: bool, sensor: SensorFactory, control: Control, instances: list[Uids]
) -> None:
    control.settings(failing_instances=[instances[0].instance])
    control.step()
    with pytest.raises(exceptions.DicomExportTooManyFailuresError):
        TaskRun(task_id="wait").run(sensor(deferrable=deferrable))
    assert TaskRun(task_id="wait").run(sensor(deferrable=deferrable, max_failures=1))["state"] == "PARTIAL"


@both_modes
@pytest.mark.parametrize("form", ["error", "both"])
def test_sensor_warns_of_an_error_because_of_failed_instances_within_max_failures(
    form: str,
    deferrable: bool,
    sensor: SensorFactory,
    control: Control,
    instances: list[Uids],
    capsys: pytest.CaptureFixture[str],
    logged: pytest.LogCaptureFixture,
) -> None:
    control.settings(failing_instances=[instances[0].instance], partial_failure=form)
    control.step()
    task_run = TaskRun(task_id="wait")
    assert task_run.run(sensor(deferrable=deferrable, max_failures=1))["state"] == "PARTIAL"
    assert task_run.ti.xcoms["progress"]["state"] == "PARTIAL"
    assert (capsys.readouterr().out or logged.text).count("ended with UNKNOWN (code 2): 1 instances") == 1
    with pytest.raises(exceptions.DicomExportOperationFailedError, match="2 exported, 1 failed"):
        TaskRun(task_id="wait").run(sensor(deferrable=deferrable))


@both_modes
def test_sensor_timeout_fails_or_skips_the_task_and_cancels_nothing(
    deferrable: bool, sensor: SensorFactory, control: Control
) -> None:
    start = time.monotonic()
    with pytest.raises(AirflowSensorTimeout):
        TaskRun(task_id="wait").run(sensor(deferrable=deferrable, timeout=0.5))
    assert time.monotonic() - start >= 0.45
    with pytest.raises(AirflowSkipException):
        TaskRun(task_id="wait").run(sensor(deferrable=deferrable, timeout=0.2, soft_fail=True))
    assert request_count(control, "operations.cancel") == 0
    control.step()


MODES: dict[str, dict[str, Any]] = {
    "deferred": {"deferrable": True},
    "poke": {"deferrable": False},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
}
#: What becomes of every kind of error: without a flag, with soft_fail, and with never_fail.
OUTCOMES: dict[str, tuple[type[BaseException], bool]] = {
    "timeout": (AirflowSensorTimeout, True),
    "execution timeout": (AirflowTaskTimeout, True),
    "operation failed": (exceptions.DicomExportOperationFailedError, False),
    "too many failures": (exceptions.DicomExportTooManyFailuresError, False),
    "cancelled": (exceptions.DicomExportCancelledError, False),
    "not found": (exceptions.DicomExportNotFoundError, True),
    "forbidden": (exceptions.DicomExportPermissionError, False),
}


def prepare(error: str, mode: str, control: Control, name: str, instances: list[Uids]) -> dict[str, Any]:
    """Let a sensor's wait end in an error, and return the parameters that this takes."""
    match error:
        case "timeout":
            return {"timeout": 0.4}
        case "execution timeout":
            if mode == "reschedule":  # where only a single poke can take too long
                control.fault("operations.get", latency_seconds=3.0, count=1)
            return {"execution_timeout": timedelta(seconds=0.6), "poke_interval": 5.0}
        case "operation failed":
            control.settings(operation_error={"code": 13, "message": "broke"})
        case "cancelled":
            control.settings(operation_error={"code": 1, "message": "cancelled"})
        case "too many failures":
            control.settings(failing_instances=[instances[0].instance])
        case "forbidden":
            control.fault("operations.get", status=403)
            return {}
        case "not found":
            return {"operation_name": f"{name.rpartition('/')[0]}/1"}
    control.step()
    return {}


@pytest.mark.parametrize("flag", [None, "soft_fail", "never_fail"])
@pytest.mark.parametrize(
    "mode",
    [
        "deferred",
        "poke",
        pytest.param(
            "reschedule", marks=pytest.mark.airflow("3.1", "reschedules that are read without a database")
        ),
    ],
)
@pytest.mark.parametrize("error", OUTCOMES)
def test_every_error_has_the_same_outcome_in_all_modes(
    error: str,
    mode: str,
    flag: str | None,
    sensor: SensorFactory,
    control: Control,
    name: str,
    instances: list[Uids],
) -> None:
    kind, is_soft = OUTCOMES[error]
    parameters = prepare(error, mode, control, name, instances)
    if kind is AirflowTaskTimeout and mode == "deferred":
        kind = exceptions.DicomExportTimeoutError
    task = sensor(**MODES[mode], **parameters, **({flag: True} if flag else {}))
    is_skip = flag == "never_fail" or (flag == "soft_fail" and is_soft)
    with pytest.raises(AirflowSkipException if is_skip else kind):
        TaskRun(task_id="wait").run_with_reschedules(task)
    assert request_count(control, "operations.cancel") == 0


@both_modes
@pytest.mark.parametrize("fault", [{"status": 503}, {"reset": "before"}, {"body": "html"}], ids=str)
def test_transient_errors_of_polls_do_not_fail_the_sensor(
    fault: dict[str, Any], deferrable: bool, sensor: SensorFactory, control: Control
) -> None:
    control.step()
    control.fault("operations.get", count=10, **fault)
    assert TaskRun(task_id="wait").run(sensor(deferrable=deferrable))["success"] == 3
    assert request_count(control, "operations.get") == 11


@both_modes
def test_single_403_of_a_poll_does_not_fail_the_sensor(
    deferrable: bool, sensor: SensorFactory, control: Control
) -> None:
    control.step()
    control.fault("operations.get", count=1, status=403)
    assert TaskRun(task_id="wait").run(sensor(deferrable=deferrable))["success"] == 3
    assert request_count(control, "operations.get") == 2


@both_modes
def test_sensor_of_an_unknown_operation_fails_with_its_name(
    deferrable: bool, sensor: SensorFactory, control: Control, name: str
) -> None:
    missing = f"{name.rpartition('/')[0]}/1"
    with pytest.raises(exceptions.DicomExportNotFoundError, match="about 30 days") as error:
        TaskRun(task_id="wait").run(sensor(deferrable=deferrable, operation_name=missing))
    assert error.value.operation_name == missing
    control.step()


def test_sensor_refuses_an_invalid_rendered_name_before_any_request(
    sensor: SensorFactory, control: Control
) -> None:
    task = sensor(operation_name="{{ params.name }}")
    task.render_template_fields({"params": {"name": "operations/7"}})
    control.reset_requests()
    with pytest.raises(exceptions.DicomExportInvalidRequestError, match="operation_name='operations/7'"):
        TaskRun(task_id="wait").run(task)
    assert request_count(control) == 0
    control.step()


def test_deferral_of_a_sensor_ends_without_a_triggerer(sensor: SensorFactory, control: Control) -> None:
    task_run = TaskRun(task_id="wait")
    task = sensor(timeout=60, execution_timeout=timedelta(hours=1))
    deferral = task_run.run_until_deferred(task)
    assert deferral.timeout is not None
    assert timedelta(seconds=60) < deferral.timeout < timedelta(minutes=5)
    with pytest.raises(AirflowSensorTimeout):
        task_run.end_deferral(task, timed_out=True)
    control.step()
    assert task_run.end_deferral(task, timed_out=True)["state"] == "SUCCEEDED"


@pytest.mark.parametrize(("flag", "is_skip"), [(None, False), ("soft_fail", False), ("never_fail", True)])
def test_failed_trigger_of_a_sensor_is_an_error_like_any_other(
    flag: str | None, is_skip: bool, sensor: SensorFactory, control: Control
) -> None:
    task_run = TaskRun(task_id="wait")
    task = sensor(**({flag: True} if flag else {}))
    task_run.run_until_deferred(task)
    with pytest.raises(AirflowSkipException if is_skip else exceptions.DicomExportError, match="goes on"):
        task_run.end_deferral(task, timed_out=False)
    control.step()


def test_execution_timeout_of_a_sensor_counts_from_the_start_of_the_task(
    sensor: SensorFactory, control: Control
) -> None:
    task_run = TaskRun(task_id="wait", start_date=datetime.now(UTC) - timedelta(minutes=50))
    deferral = task_run.run_until_deferred(sensor(execution_timeout=timedelta(hours=1)))
    left = deferral.trigger.deadline - time.time()
    assert 9 * 60 < left <= 10 * 60
    assert not deferral.trigger.cancel_on_kill
    control.step()


def test_export_that_ended_while_the_triggerer_was_away_is_the_result_of_a_late_sensor(
    sensor: SensorFactory, control: Control
) -> None:
    task_run = TaskRun(task_id="wait")
    task = sensor(timeout=0.3)
    deferral = task_run.run_until_deferred(task)
    control.step()
    deferral.trigger.deadline = time.time() - 1
    event = asyncio.run(run_trigger(deferral.trigger))
    assert event["status"] == "timeout"
    kwargs = {**(deferral.kwargs or {}), "event": event}
    result: Any = task.resume_execution(deferral.method_name, kwargs, task_run.context)
    assert result["state"] == "SUCCEEDED"


def test_airflow_task_timeout_passes_through_a_poke(sensor: SensorFactory, control: Control) -> None:
    control.fault("operations.get", latency_seconds=3.0, count=1)
    with pytest.raises(AirflowTaskTimeout), timeout(1):
        sensor(deferrable=False).poke({})
    assert request_count(control, "operations.get") == 1
    control.step()
