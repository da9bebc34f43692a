"""Exports that were unfinished when the server stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_dicom.emulator.models.operations import EXPORT_METHOD, State
from airflow_provider_dicom.emulator.server.state import Limits, ServerState

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_dicom.emulator.messages import JsonObject

STORE = "projects/p/locations/l/datasets/d/dicomStores/s"
BIGQUERY: JsonObject = {"bigqueryDestination": {"tableUri": "bq://p.d.t"}}


async def test_interrupted_load_job_is_not_repeated_after_a_restart(tmp_path: Path) -> None:
    before = ServerState.open(tmp_path, Limits())
    before.archive.create_store(STORE, {}, create_dataset=True)
    operation = before.operations.create(EXPORT_METHOD, STORE, BIGQUERY)
    operation.state = State.CLOSING
    await before.operations.save(operation)
    await before.close()

    after = ServerState.open(tmp_path, Limits())
    await after.runner.recover()
    recovered = after.operations.get(operation.name)
    assert recovered.done
    assert recovered.error == {
        "code": 14,
        "message": "The server stopped while it made the output visible.",
    }
    await after.close()


async def test_unfinished_export_with_an_invalid_request_ends_after_a_restart(tmp_path: Path) -> None:
    before = ServerState.open(tmp_path, Limits())
    request: JsonObject = {"gcsDestination": {"uriPrefix": "gone://b"}}
    operation = before.operations.create(EXPORT_METHOD, STORE, request)
    await before.operations.save(operation)
    await before.close()
    after = ServerState.open(tmp_path, Limits())
    await after.runner.recover()
    error = after.operations.get(operation.name).error
    assert error is not None
    assert error["code"] == 3
    await after.close()
