"""Methods of ``projects.locations.datasets.dicomStores`` but for DICOMweb; ``testIamPermissions``."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, cast
from unicodedata import category

from starlette.concurrency import run_in_threadpool

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.exports.changes import check_config
from airflow_provider_dicom.emulator.handlers.field_mask import MAP, masked_update
from airflow_provider_dicom.emulator.handlers.paging import page, page_size, previous_item
from airflow_provider_dicom.emulator.messages import json_response
from airflow_provider_dicom.emulator.models.operations import EXPORT_METHOD, IMPORT_METHOD
from airflow_provider_dicom.emulator.names import ResourcePath, check_id

if TYPE_CHECKING:
    from starlette.responses import Response

    from airflow_provider_dicom.emulator.handlers.call import Call
    from airflow_provider_dicom.emulator.handlers.field_mask import Fields
    from airflow_provider_dicom.emulator.messages import JsonObject
    from airflow_provider_dicom.emulator.models.instances import Metrics

_UPDATABLE: Fields = {
    "labels": MAP,
    "notificationConfig": {"pubsubTopic": None, "sendForBulkImport": None},
    "notificationConfigs": None,
    "streamConfigs": None,
}
_MAX_LABELS = 64
_MAX_LABEL_LENGTH = 63
_MAX_LABEL_BYTES = 128


async def create_store(call: Call) -> Response:
    """Create a DICOM store."""
    store = check_id("dicomStoreId", cast("str", call.query.get("dicomStoreId")))
    body = {key: value for key, value in call.body.items() if key != "name"}
    name = f"{call.names['parent']}/dicomStores/{store}"
    _check_labels(body)
    await run_in_threadpool(check_config, body)
    create_dataset = call.settings.create_missing_datasets
    created = await run_in_threadpool(call.archive.create_store, name, body, create_dataset=create_dataset)
    return json_response(created)


async def get_store(call: Call) -> Response:
    """Return a DICOM store."""
    return json_response(await run_in_threadpool(call.archive.store, call.names["name"]))


async def update_store(call: Call) -> Response:
    """Replace the fields of a DICOM store that ``updateMask`` names."""

    def update(store: JsonObject) -> JsonObject:
        updated = masked_update(store, call.body, call.query, _UPDATABLE)
        if not updated.get("labels"):
            updated.pop("labels", None)
        _check_labels(updated)
        check_config(updated)
        return updated

    return json_response(await run_in_threadpool(call.archive.update, call.names["name"], update))


async def list_stores(call: Call) -> Response:
    """Return a page of the DICOM stores of a dataset."""
    size = page_size(call.query)
    labels = _labels(cast("str", call.query.get("filter", "")))

    def find() -> list[JsonObject]:
        stores = call.archive.stores(call.names["parent"], previous_item(call.query))
        matching = (store for store in stores if labels.items() <= _labels_of(store).items())
        return list(islice(matching, size + 1))

    return json_response(page("dicomStores", await run_in_threadpool(find), size))


def _check_labels(store: JsonObject) -> None:
    """Check the labels of a store.

    :raises ApiError: there are too many, or a key or value is invalid.
    """
    labels = _labels_of(store)
    if len(labels) > _MAX_LABELS:
        raise ApiError.invalid_argument(f"{len(labels)} labels; at most {_MAX_LABELS} are allowed")
    for key, value in labels.items():
        if not (key and _is_label(key) and _is_letter(key[0]) and _is_label(value)):
            raise ApiError.invalid_argument(
                f"invalid label {key!r}: a key begins with a lowercase letter; keys and values have up to 63 "
                "lowercase letters, digits, '_' and '-'"
            )


def _is_label(text: str) -> bool:
    return (
        len(text) <= _MAX_LABEL_LENGTH
        and len(text.encode()) <= _MAX_LABEL_BYTES
        and all(
            _is_letter(character) or category(character)[0] == "N" or character in "_-" for character in text
        )
    )


def _is_letter(one: str) -> bool:
    return category(one) in ("Ll", "Lo")


def _labels_of(store: JsonObject) -> dict[str, str]:
    return cast("dict[str, str]", store.get("labels", {}))


def _labels(expression: str) -> dict[str, str]:
    """Return the labels that a filter requires: ``labels.key=value``, joined with ``AND``."""
    labels = {}
    for term in filter(None, re.split(r"\s+AND\s+", expression.strip())):
        match = re.fullmatch(r"labels\.([^\s=]+)\s*=\s*(?:\"([^\"]*)\"|([^\s\"]+))", term.strip())
        if match is None:
            raise ApiError.invalid_argument(
                f"invalid filter {expression!r}: this server supports only labels.key=value, joined with AND"
            )
        labels[match[1]] = match[2] if match[2] is not None else match[3]
    return labels


async def delete_store(call: Call) -> Response:
    """Delete a DICOM store with all its instances."""
    await run_in_threadpool(call.archive.delete_store, call.names["name"])
    return json_response({})


async def store_metrics(call: Call) -> Response:
    """Return the metrics of a DICOM store."""
    name = call.names["name"]
    await run_in_threadpool(call.archive.store, name)
    metrics = await run_in_threadpool(call.archive.metrics, name)
    return json_response({"name": name, **_counts(metrics, "studyCount", "seriesCount", "instanceCount")})


async def study_metrics(call: Call) -> Response:
    """Return the metrics of a study."""
    name = call.names["study"]
    metrics = await run_in_threadpool(_metrics_below, call, name)
    return json_response({"study": name, **_counts(metrics, "seriesCount", "instanceCount")})


async def series_metrics(call: Call) -> Response:
    """Return the metrics of a series."""
    name = call.names["series"]
    metrics = await run_in_threadpool(_metrics_below, call, name)
    return json_response({"series": name, **_counts(metrics, "instanceCount")})


def _metrics_below(call: Call, name: str) -> Metrics:
    store, path = name.split("/dicomWeb/", 1)
    call.archive.store(store)
    metrics = call.archive.metrics(store, ResourcePath.parse(path))
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
    # In the JSON form of proto3, an int64 is a string and zeros are omitted.
    return {
        name: str(count)
        for name, count in counts.items()
        if count and (name in wanted or name.endswith("SizeBytes"))
    }


async def test_permissions(call: Call) -> Response:
    """Return the permissions that the caller has: all but the setting ``denied_permissions``.

    For a resource that does not exist the list is empty; this is no error.
    """
    requested = cast("list[str]", call.body.get("permissions", []))
    for permission in requested:
        if "*" in permission or not permission:
            raise ApiError.invalid_argument(f"Permission {permission} is not valid for this resource.")
    name = call.names["resource"]
    exists = call.archive.store if "/dicomStores/" in name else call.archive.dataset
    try:
        await run_in_threadpool(exists, name)
    except ApiError:
        return json_response({})
    held = [permission for permission in requested if permission not in call.settings.denied_permissions]
    return json_response({"permissions": held} if held else {})


async def export(call: Call) -> Response:
    """Submit an export, and return its operation."""
    return await _submit(EXPORT_METHOD, call)


async def import_instances(call: Call) -> Response:
    """Submit an import, and return its operation."""
    return await _submit(IMPORT_METHOD, call)


async def _submit(method: str, call: Call) -> Response:
    operation = await call.runner.submit(method, call.names["name"], call.body)
    return json_response({"name": operation.name})
