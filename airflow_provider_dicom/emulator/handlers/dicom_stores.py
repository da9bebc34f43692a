"""Datasets, DICOM stores and operations over HTTP."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, cast

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers.paging import page_size, page_token, position
from airflow_provider_dicom.emulator.messages import JSON_TYPE, json_response
from airflow_provider_dicom.emulator.names import check_id
from airflow_provider_dicom.emulator.resource_path import ResourcePath

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.messages import Call, Handler
    from airflow_provider_dicom.emulator.models.archive import Metrics
    from airflow_provider_dicom.emulator.models.operations import Operation
    from airflow_provider_dicom.emulator.server.discovery import JsonObject

# ---------------------------------------------------------------------------------------------------------
# Datasets


async def create_dataset(call: Call) -> Response:
    """Create a dataset; the operation has ended when it is answered."""
    name = (
        f"{call.names['parent']}/datasets/{check_id('datasetId', cast('str', call.query.get('datasetId')))}"
    )
    body = {key: value for key, value in call.body.items() if key != "name"}
    await run_in_threadpool(call.state.archive.create_dataset, name, body)
    operation = call.state.operations.create(
        "google.cloud.healthcare.v1.dataset.DatasetService.CreateDataset", name, call.body
    )
    operation.success = 1
    resource_type = "type.googleapis.com/google.cloud.healthcare.v1.dataset.Dataset"
    await call.state.operations.finish(operation, response={"@type": resource_type, **body, "name": name})
    return _operation_response(operation)


async def get_dataset(call: Call) -> Response:
    """Return a dataset."""
    return json_response(await run_in_threadpool(call.state.archive.dataset, call.names["name"]))


async def list_datasets(call: Call) -> Response:
    """Return a page of the datasets of a location."""
    size = page_size(call.query)
    found = await run_in_threadpool(
        call.state.archive.datasets, call.names["parent"], position(call.query), size + 1
    )
    return json_response(_page("datasets", found, size))


async def delete_dataset(call: Call) -> Response:
    """Delete a dataset with all stores in it."""
    await run_in_threadpool(call.state.archive.delete_dataset, call.names["name"])
    return json_response({})


# ---------------------------------------------------------------------------------------------------------
# DICOM stores


async def create_store(call: Call) -> Response:
    """Create a DICOM store."""
    store = check_id("dicomStoreId", cast("str", call.query.get("dicomStoreId")))
    body = {key: value for key, value in call.body.items() if key != "name"}
    name = f"{call.names['parent']}/dicomStores/{store}"
    return json_response(await run_in_threadpool(call.state.archive.create_store, name, body))


async def get_store(call: Call) -> Response:
    """Return a DICOM store."""
    return json_response(await run_in_threadpool(call.state.archive.store, call.names["name"]))


async def update_store(call: Call) -> Response:
    """Change the fields of a DICOM store that ``updateMask`` names."""
    mask = [part for part in cast("str", call.query.get("updateMask", "")).split(",") if part]
    if not mask:
        raise ApiError.invalid_argument("update_mask is required")
    fields = {re.sub(r"_([a-z])", lambda match: match[1].upper(), part) for part in mask}
    allowed = {"labels", "notificationConfig", "notificationConfigs", "streamConfigs"}
    if fields - allowed:
        raise ApiError.invalid_argument(f"invalid update_mask: {', '.join(sorted(fields - allowed))}")
    changes = {name: call.body.get(name) for name in fields}
    return json_response(
        await run_in_threadpool(call.state.archive.update_store, call.names["name"], changes)
    )


async def list_stores(call: Call) -> Response:
    """Return a page of the DICOM stores of a dataset."""
    size = page_size(call.query)
    labels = _labels(cast("str", call.query.get("filter", "")))

    def find() -> list[JsonObject]:
        stores = call.state.archive.stores(call.names["parent"], position(call.query))
        matching = (store for store in stores if labels.items() <= _labels_of(store).items())
        return list(islice(matching, size + 1))

    return json_response(_page("dicomStores", await run_in_threadpool(find), size))


def _labels_of(store: JsonObject) -> dict[str, str]:
    return cast("dict[str, str]", store.get("labels", {}))


def _labels(expression: str) -> dict[str, str]:
    """Return the labels that a filter asks for: ``labels.key=value``, several with ``AND``."""
    labels = {}
    for term in filter(None, re.split(r"\s+AND\s+", expression.strip())):
        match = re.fullmatch(r"labels\.([^\s=]+)\s*=\s*(?:\"([^\"]*)\"|([^\s\"]+))", term.strip())
        if match is None:
            raise ApiError.invalid_argument(
                f"invalid filter {expression!r}: this server knows labels.key=value, joined with AND"
            )
        labels[match[1]] = match[2] if match[2] is not None else match[3]
    return labels


async def delete_store(call: Call) -> Response:
    """Delete a DICOM store with everything in it."""
    await run_in_threadpool(call.state.archive.delete_store, call.names["name"])
    return json_response({})


async def store_metrics(call: Call) -> Response:
    """Return how much a DICOM store holds."""
    name = call.names["name"]
    await run_in_threadpool(call.state.archive.store, name)
    metrics = await run_in_threadpool(call.state.archive.metrics, name)
    return json_response(
        {
            "name": name,
            **_counts(metrics, "studyCount", "seriesCount", "instanceCount"),
        }
    )


async def study_metrics(call: Call) -> Response:
    """Return how much a study holds."""
    name = call.names["study"]
    metrics = await run_in_threadpool(_metrics_below, call, name)
    return json_response({"study": name, **_counts(metrics, "seriesCount", "instanceCount")})


async def series_metrics(call: Call) -> Response:
    """Return how much a series holds."""
    name = call.names["series"]
    metrics = await run_in_threadpool(_metrics_below, call, name)
    return json_response({"series": name, **_counts(metrics, "instanceCount")})


def _metrics_below(call: Call, name: str) -> Metrics:
    store, path = name.split("/dicomWeb/", 1)
    call.state.archive.store(store)
    metrics = call.state.archive.metrics(store, ResourcePath.parse(path))
    if not metrics["instances"]:
        raise ApiError.not_found(f"{name} does not exist")
    return metrics


def _counts(metrics: Metrics, *wanted: str) -> dict[str, str]:
    counts = {
        "studyCount": metrics["studies"],
        "seriesCount": metrics["series"],
        "instanceCount": metrics["instances"],
        "structuredStorageSizeBytes": metrics["structured_bytes"],
        "blobStorageSizeBytes": metrics["blob_bytes"],
    }
    # int64 is a string in JSON, and proto3 leaves zeros out.
    return {
        name: str(count)
        for name, count in counts.items()
        if count and (name in wanted or name.endswith("SizeBytes"))
    }


async def test_permissions(call: Call) -> Response:
    """Return which of the permissions the caller has: all that the settings do not deny.

    None on what does not exist; that is no error here.
    """
    asked = cast("list[str]", call.body.get("permissions", []))
    for permission in asked:
        if "*" in permission or not permission:
            raise ApiError.invalid_argument(f"Permission {permission} is not valid for this resource.")
    name = call.names["resource"]
    exists = call.state.archive.store if "/dicomStores/" in name else call.state.archive.dataset
    try:
        await run_in_threadpool(exists, name)
    except ApiError:
        return json_response({})
    held = [permission for permission in asked if permission not in call.state.settings.denied_permissions]
    return json_response({"permissions": held} if held else {})


async def export(call: Call) -> Response:
    """Start an export."""
    operation = await call.state.runner.submit(call.names["name"], call.body)
    return json_response({"name": operation.name})


# ---------------------------------------------------------------------------------------------------------
# Operations


async def get_operation(call: Call) -> Response:
    """Return an operation."""
    return _operation_response(call.state.operations.get(call.names["name"]))


def _operation_response(operation: Operation) -> Response:
    return Response(operation.encoded(), media_type=JSON_TYPE)


async def list_operations(call: Call) -> Response:
    """Return a page of the operations of a dataset, the newest first."""
    if call.query.get("returnPartialSuccess"):
        raise ApiError.unimplemented("return_partial_success is not supported.")
    await run_in_threadpool(call.state.archive.dataset, call.names["name"])
    token = position(call.query)
    if token and not token.isdecimal():
        raise ApiError.invalid_argument(f"invalid page_token {call.query['pageToken']!r}")
    found, before = call.state.operations.page(
        call.names["name"],
        before=int(token) if token else None,
        size=page_size(call.query),
        done=_done(cast("str", call.query.get("filter", ""))),
    )
    content = b'{"operations":[' + b",".join(operation.encoded() for operation in found) + b"]"
    if before is not None:
        content += b',"nextPageToken":"' + page_token(str(before)).encode() + b'"'
    return Response(content + b"}" if found else b"{}", media_type=JSON_TYPE)


def _done(expression: str) -> bool | None:
    if not expression.strip():
        return None
    match = re.fullmatch(r"\s*done\s*=\s*(true|false)\s*", expression)
    if match is None:
        raise ApiError.invalid_argument(
            f"invalid filter {expression!r}: this server knows done=true and done=false"
        )
    return match[1] == "true"


async def cancel_operation(call: Call) -> Response:
    """Ask an operation to stop."""
    await call.state.runner.cancel(call.names["name"])
    return json_response({})


def _page(field: str, found: list[JsonObject], size: int) -> JsonObject:
    page: JsonObject = {}
    if found:
        page[field] = list(found[:size])
    if len(found) > size:
        page["nextPageToken"] = page_token(str(found[size - 1]["name"]))
    return page


#: The methods by their ids in the discovery document; what is asked for most comes first.
HANDLERS: dict[str, Handler] = {
    "datasets.operations.get": get_operation,
    "datasets.operations.list": list_operations,
    "datasets.operations.cancel": cancel_operation,
    "datasets.dicomStores.export": export,
    "datasets.dicomStores.getDICOMStoreMetrics": store_metrics,
    "datasets.dicomStores.testIamPermissions": test_permissions,
    "datasets.dicomStores.dicomWeb.studies.getStudyMetrics": study_metrics,
    "datasets.dicomStores.dicomWeb.studies.series.getSeriesMetrics": series_metrics,
    "datasets.testIamPermissions": test_permissions,
    "datasets.dicomStores.create": create_store,
    "datasets.dicomStores.list": list_stores,
    "datasets.dicomStores.get": get_store,
    "datasets.dicomStores.patch": update_store,
    "datasets.dicomStores.delete": delete_store,
    "datasets.create": create_dataset,
    "datasets.list": list_datasets,
    "datasets.get": get_dataset,
    "datasets.delete": delete_dataset,
}
