"""The sensor, which waits for an export that another task has started, and never cancels it."""

from __future__ import annotations

import time
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


def test_airflow_task_timeout_passes_through_a_poke(sensor: SensorFactory, control: Control) -> None:
    control.fault("operations.get", latency_seconds=3.0, count=1)
    with pytest.raises(AirflowTaskTimeout), timeout(1):
        sensor(deferrable=False).poke({})
    assert request_count(control, "operations.get") == 1
    control.step()
