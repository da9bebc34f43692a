"""``getIamPolicy`` and ``setIamPolicy`` of datasets and DICOM stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from starlette.concurrency import run_in_threadpool

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.messages import json_response
from airflow_provider_dicom.emulator.models import policies

if TYPE_CHECKING:
    from starlette.responses import Response

    from airflow_provider_dicom.emulator.handlers.call import Call
    from airflow_provider_dicom.emulator.messages import JsonObject


async def get_policy(call: Call) -> Response:
    """Return the IAM policy of a dataset or a DICOM store."""
    name = await _resource(call)
    version = cast("int", call.query.get("options.requestedPolicyVersion", 0))
    return json_response(await run_in_threadpool(policies.get, call.archive.database, name, version))


async def set_policy(call: Call) -> Response:
    """Replace the IAM policy of a dataset or a DICOM store."""
    name = await _resource(call)
    policy = cast("JsonObject | None", call.body.get("policy"))
    if policy is None:
        raise ApiError.invalid_argument("policy is required")
    mask = [field for field in cast("str", call.body.get("updateMask", "")).split(",") if field]
    return json_response(await run_in_threadpool(policies.put, call.archive.database, name, policy, mask))


async def _resource(call: Call) -> str:
    name = call.names["resource"]
    exists = call.archive.store if "/dicomStores/" in name else call.archive.dataset
    await run_in_threadpool(exists, name)
    return name
