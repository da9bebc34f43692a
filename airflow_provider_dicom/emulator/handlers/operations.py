"""Methods of ``projects.locations.datasets.operations``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers.paging import page_size, page_token, previous_item
from airflow_provider_dicom.emulator.messages import JSON_TYPE, json_response

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.handlers.call import Call
    from airflow_provider_dicom.emulator.models.operations import Operation


def operation_response(operation: Operation) -> Response:
    """Return an operation as a response; its JSON is not encoded again for every poll."""
    return Response(operation.encoded(), media_type=JSON_TYPE)


async def get_operation(call: Call) -> Response:
    """Return an operation."""
    return operation_response(call.operations.get(call.names["name"]))


async def list_operations(call: Call) -> Response:
    """Return a page of the operations of a dataset, the newest first."""
    if call.query.get("returnPartialSuccess"):
        raise ApiError.unimplemented("return_partial_success is not supported.")
    await run_in_threadpool(call.archive.dataset, call.names["name"])
    previous = previous_item(call.query)
    if previous and not previous.isdecimal():
        raise ApiError.invalid_argument(f"invalid page_token {call.query['pageToken']!r}")
    found, before = call.operations.page(
        call.names["name"],
        before=int(previous) if previous else None,
        size=page_size(call.query),
        done=_done(cast("str", call.query.get("filter", ""))),
    )
    content = b'{"operations":[' + b",".join(operation.encoded() for operation in found) + b"]"
    if before is not None:
        content += b',"nextPageToken":"' + page_token(str(before)).encode() + b'"'
    return Response(content + b"}" if found else b"{}", media_type=JSON_TYPE)


def _done(expression: str) -> bool | None:
    """Return the value that a filter requires of ``done``; None without a filter."""
    if not expression.strip():
        return None
    match = re.fullmatch(r"\s*done\s*=\s*(true|false)\s*", expression)
    if match is None:
        raise ApiError.invalid_argument(
            f"invalid filter {expression!r}: this server supports only done=true and done=false"
        )
    return match[1] == "true"


async def cancel_operation(call: Call) -> Response:
    """Request the cancellation of an operation."""
    await call.runner.cancel(call.names["name"])
    return json_response({})
