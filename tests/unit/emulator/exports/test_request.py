"""The requests of exports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom.emulator.exports import bigquery_destination, request

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.messages import JsonObject


@pytest.mark.parametrize(
    ("given", "disposition"),
    [
        ({}, "WRITE_EMPTY"),
        ({"force": True}, "WRITE_TRUNCATE"),
        ({"force": True, "writeDisposition": "WRITE_DISPOSITION_UNSPECIFIED"}, "WRITE_TRUNCATE"),
        ({"force": True, "writeDisposition": "WRITE_APPEND"}, "WRITE_APPEND"),
        ({"force": True, "writeDisposition": "WRITE_EMPTY"}, "WRITE_EMPTY"),
    ],
)
def test_force_is_ignored_beside_a_write_disposition(given: JsonObject, disposition: str) -> None:
    destination = request.destination({"bigqueryDestination": {"tableUri": "bq://p.d.t", **given}})
    assert isinstance(destination, bigquery_destination.BigQueryDestination)
    assert destination.disposition == disposition
