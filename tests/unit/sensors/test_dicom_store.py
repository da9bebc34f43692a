"""Parameters of the sensor: invalid ones are refused when the DAG is parsed."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.sensors.dicom_store import DicomStoreExportSensor


@pytest.fixture(autouse=True)
def no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """No local Healthcare API is configured."""
    monkeypatch.delenv("HEALTHCARE_EMULATOR_HOST", raising=False)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("operation_name", "operations/1"),
        ("operation_name", ""),
        ("max_failures", -1),
        ("poll_interval", 0),
        ("gcp_conn_id", ""),
        ("api_endpoint", "http://host.example"),
    ],
)
def test_invalid_parameters_of_the_sensor_are_refused(parameter: str, value: Any) -> None:
    valid = {"task_id": "wait", "operation_name": "projects/p/locations/l/datasets/d/operations/1"}
    with pytest.raises(DicomExportInvalidRequestError) as error:
        DicomStoreExportSensor(**(valid | {parameter: value}))
    assert f"{parameter}={value!r}" in str(error.value)
    assert "accepted: " in str(error.value)
