"""``entries.list`` of Cloud Logging: an entry for each instance that an export could not write."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, cast

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers.paging import page_size, page_token, previous_item
from airflow_provider_dicom.emulator.messages import json_response
from airflow_provider_dicom.emulator.models.operations import EXPORT_METHOD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.responses import Response

    from airflow_provider_dicom.emulator.handlers.call import Call
    from airflow_provider_dicom.emulator.messages import Json, JsonObject
    from airflow_provider_dicom.emulator.models.operations import LogEntry, Operation

_ENTRY_TYPE = "type.googleapis.com/google.cloud.healthcare.logging.ExportDicomLogEntry"
_COMPARISON = re.compile(r'([\w.@]+)\s*(>=|<=|=|:)\s*("(?:[^"\\]|\\.)*")')
_ORDERS = ("", "timestamp asc", "timestamp desc")


class _Comparison(NamedTuple):
    """One comparison of a filter: a field of the entry, an operator and a value."""

    field: str
    operator: str
    value: str

    def matches(self, entry: JsonObject) -> bool:
        found: Json = entry
        for name in self.field.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        if not isinstance(found, str):
            return False
        if self.operator == ":":
            return self.value.casefold() in found.casefold()
        if self.operator == "=":
            return self.value == found
        time, limit = _time(found), _time(self.value)
        return time >= limit if self.operator == ">=" else time <= limit


async def list_entries(call: Call) -> Response:
    """Return a page of log entries."""
    projects = cast("list[str]", call.body.get("resourceNames", []))
    if not projects or not all(re.fullmatch(r"projects/[^/]+", project) for project in projects):
        raise ApiError.invalid_argument(
            "resource_names must not be empty, and this server supports only projects/PROJECT_ID."
        )
    order = cast("str", call.body.get("orderBy", ""))
    if order not in _ORDERS:
        raise ApiError.invalid_argument(f"invalid order_by {order!r}: this server supports {_ORDERS[1:]}")
    comparisons = _comparisons(cast("str", call.body.get("filter", "")))
    newest = datetime.now(UTC) - timedelta(seconds=call.settings.log_lag_seconds)
    entries = [
        entry
        for operation in call.operations.started_by(EXPORT_METHOD)
        if "/".join(operation.name.split("/", 2)[:2]) in projects
        for entry in _entries(operation, call.settings.max_log_entries)
        if _time(str(entry["timestamp"])) <= newest and all(one.matches(entry) for one in comparisons)
    ]
    entries.sort(key=lambda entry: str(entry["timestamp"]), reverse=order.endswith("desc"))
    return json_response(_page(call.body, entries))


def _page(body: JsonObject, entries: list[JsonObject]) -> JsonObject:
    previous = previous_item(body)
    if previous and not previous.isdecimal():
        raise ApiError.invalid_argument(f"invalid page_token {body['pageToken']!r}")
    begin = int(previous or 0)
    end = begin + page_size(body)
    page: JsonObject = {}
    if shown := entries[begin:end]:
        page["entries"] = list(shown)
    if end < len(entries):
        page["nextPageToken"] = page_token(str(end))
    return page


def _entries(operation: Operation, limit: int) -> Iterator[JsonObject]:
    for number, error in enumerate(operation.log[:limit]):
        if "time" in error:
            yield _entry(operation, number, error)


def _entry(operation: Operation, number: int, error: LogEntry) -> JsonObject:
    _, project, _, location, _, dataset, _, store = operation.resource.split("/")
    return {
        "insertId": f"{operation.id}-{number}",
        "logName": f"projects/{project}/logs/healthcare.googleapis.com%2Fdicom_export",
        "timestamp": error["time"],
        "receiveTimestamp": error["time"],
        "severity": "ERROR",
        "resource": {
            "type": "healthcare_dicom_store",
            "labels": {
                "project_id": project,
                "location": location,
                "dataset_id": dataset,
                "dicom_store_id": store,
            },
        },
        "operation": {"id": operation.name, "producer": "ExportDicomData"},
        "jsonPayload": {
            "@type": _ENTRY_TYPE,
            "resourceName": f"{operation.resource}/dicomWeb{error['path']}",
            "error": {"code": error["code"], "message": error["message"]},
        },
    }


def _comparisons(expression: str) -> list[_Comparison]:
    comparisons = []
    for part in re.split(r"\n| AND ", expression):
        if not part.strip():
            continue
        if (match := _COMPARISON.fullmatch(part.strip())) is None:
            raise ApiError.invalid_argument(
                f'Invalid filter: {part!r}. This server supports FIELD="VALUE", with the operators '
                "=, :, >= and <=, and comparisons joined by AND or line breaks."
            )
        field, operator, value = match.groups()
        comparison = _Comparison(field, operator, json.loads(value))
        if operator in (">=", "<="):
            _time(comparison.value)
        comparisons.append(comparison)
    return comparisons


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ApiError.invalid_argument(f"Invalid filter: {text!r} is not a timestamp.") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
