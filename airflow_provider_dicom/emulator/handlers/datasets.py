"""Methods of ``projects.locations.datasets``."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast
from zoneinfo import ZoneInfo

from starlette.concurrency import run_in_threadpool

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers.field_mask import masked_update
from airflow_provider_dicom.emulator.handlers.operations import operation_response
from airflow_provider_dicom.emulator.handlers.paging import page, page_size, previous_item
from airflow_provider_dicom.emulator.messages import json_response
from airflow_provider_dicom.emulator.names import check_id

if TYPE_CHECKING:
    from starlette.responses import Response

    from airflow_provider_dicom.emulator.handlers.call import Call
    from airflow_provider_dicom.emulator.handlers.field_mask import Fields
    from airflow_provider_dicom.emulator.messages import JsonObject

_UPDATABLE: Fields = {"timeZone": None}


async def create_dataset(call: Call) -> Response:
    """Create a dataset; the operation in the response is done."""
    dataset_id = check_id("datasetId", cast("str", call.query.get("datasetId")))
    name = f"{call.names['parent']}/datasets/{dataset_id}"
    body = {key: value for key, value in call.body.items() if key != "name"}
    _check_time_zone(body)
    await run_in_threadpool(call.archive.create_dataset, name, body)
    operation = call.operations.create(
        "google.cloud.healthcare.v1.dataset.DatasetService.CreateDataset", name, call.body
    )
    operation.success = 1
    resource_type = "type.googleapis.com/google.cloud.healthcare.v1.dataset.Dataset"
    await call.operations.finish(operation, response={"@type": resource_type, **body, "name": name})
    return operation_response(operation)


async def get_dataset(call: Call) -> Response:
    """Return a dataset."""
    return json_response(await run_in_threadpool(call.archive.dataset, call.names["name"]))


async def update_dataset(call: Call) -> Response:
    """Replace the fields of a dataset that ``updateMask`` names."""

    def update(dataset: JsonObject) -> JsonObject:
        updated = masked_update(dataset, call.body, call.query, _UPDATABLE)
        _check_time_zone(updated)
        return updated

    return json_response(await run_in_threadpool(call.archive.update, call.names["name"], update))


def _check_time_zone(dataset: JsonObject) -> None:
    name = cast("str", dataset.get("timeZone", "UTC"))
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ApiError.invalid_argument(f"invalid time_zone {name!r}: it is no IANA time zone") from error


async def list_datasets(call: Call) -> Response:
    """Return a page of the datasets of a location."""
    size = page_size(call.query)
    found = await run_in_threadpool(
        call.archive.datasets, call.names["parent"], previous_item(call.query), size + 1
    )
    return json_response(page("datasets", found, size))


async def delete_dataset(call: Call) -> Response:
    """Delete a dataset with all stores in it."""
    await run_in_threadpool(call.archive.delete_dataset, call.names["name"])
    return json_response({})
