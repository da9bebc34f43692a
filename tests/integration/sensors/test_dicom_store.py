"""The sensor: waits for an export that it did not start, and never cancels it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

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
from tests.support.provider_rig import Run

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator

pytestmark = pytest.mark.usefixtures("quick")
MODES = [pytest.param(True, id="deferred"), pytest.param(False, id="on_worker")]


@pytest.fixture
def name(
    anonymous: str,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
    instances: list[Uids],
    bucket: str,
    control: Control,
) -> str:
    """An export of three instances that stands still."""
    control.settings(advance="manual")
    with DicomStoreHook(anonymous, api_endpoint=healthcare.url) as hook:
        return hook.export(store, ExportRequest(destination=f"gs://{bucket}/out"))["name"]


@pytest.fixture
def sensor(anonymous: str, healthcare: HealthcareEmulator, name: str) -> Any:
    """Builds sensors for the export ``name``."""

    def build(**changes: Any) -> DicomStoreExportSensor:
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


@pytest.mark.parametrize("deferrable", MODES)
def test_success(deferrable: bool, sensor: Any, control: Control, name: str) -> None:
    control.settings(advance="time")
    result = Run(task_id="wait")(sensor(deferrable=deferrable))
    assert (result["operation_name"], result["state"], result["success"]) == (name, "SUCCEEDED", 3)
    assert (result["dicom_store"], result["destination"]) == (None, None)


@pytest.mark.parametrize("deferrable", MODES)
def test_too_many_failures(deferrable: bool, sensor: Any, control: Control, instances: list[Uids]) -> None:
    control.settings(failing_instances=[instances[0].instance])
    control.step()
    with pytest.raises(exceptions.DicomExportTooManyFailuresError):
        Run(task_id="wait")(sensor(deferrable=deferrable))
    assert Run(task_id="wait")(sensor(deferrable=deferrable, max_failures=1))["state"] == "PARTIAL"


@pytest.mark.parametrize("deferrable", MODES)
def test_a_timeout_is_a_sensors_and_cancels_nothing(deferrable: bool, sensor: Any, control: Control) -> None:
    start = time.monotonic()
    with pytest.raises(AirflowSensorTimeout):
        Run(task_id="wait")(sensor(deferrable=deferrable, timeout=1))
    assert time.monotonic() - start >= 0.9
    with pytest.raises(AirflowSkipException):
        Run(task_id="wait")(sensor(deferrable=deferrable, timeout=0.5, soft_fail=True))
    assert "operations.cancel" not in control.requests()["counts"]
    control.step()


@pytest.mark.parametrize("deferrable", MODES)
@pytest.mark.parametrize("fault", [{"status": 503}, {"reset": "before"}, {"body": "html"}], ids=str)
def test_faults_while_polling_do_not_fail_it(
    fault: dict[str, Any], deferrable: bool, sensor: Any, control: Control
) -> None:
    control.step()
    control.fault("operations.get", count=10, **fault)
    assert Run(task_id="wait")(sensor(deferrable=deferrable))["success"] == 3


@pytest.mark.parametrize("deferrable", MODES)
def test_one_refusal_does_not_either(deferrable: bool, sensor: Any, control: Control) -> None:
    control.step()
    control.fault("operations.get", count=1, status=403)
    assert Run(task_id="wait")(sensor(deferrable=deferrable))["success"] == 3


@pytest.mark.parametrize("deferrable", MODES)
def test_an_unknown_operation(deferrable: bool, sensor: Any, control: Control, name: str) -> None:
    missing = f"{name.rpartition('/')[0]}/1"
    with pytest.raises(exceptions.DicomExportNotFoundError, match="about 30 days") as error:
        Run(task_id="wait")(sensor(deferrable=deferrable, operation_name=missing))
    assert error.value.operation_name == missing
    control.step()


def test_a_rendered_mistake_is_refused_before_any_request(sensor: Any, control: Control) -> None:
    task = sensor(operation_name="{{ params.name }}")
    task.render_template_fields({"params": {"name": "operations/7"}})
    control.reset_requests()
    with pytest.raises(exceptions.DicomExportInvalidRequestError, match="operation_name='operations/7'"):
        Run(task_id="wait")(task)
    assert control.requests()["counts"] == {}
    control.step()


def test_airflows_own_timeout_is_not_swallowed(sensor: Any, control: Control) -> None:
    control.fault("operations.get", latency_seconds=3.0, count=1)
    with pytest.raises(AirflowTaskTimeout), timeout(1):
        sensor(deferrable=False).poke({})
    assert control.requests()["counts"]["operations.get"] == 1
    control.step()
