"""Operations that have ended, as the API returns them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_dicom.api_types import Operation, Status

NAME = "projects/p/locations/l/datasets/d/operations/77"
LOGS = "https://console.cloud.google.com/logs/the-apis-own"


def ended(counter: Mapping[str, int], error: Status | None = None) -> Operation:
    """Return an Operation with these counters, which ended with an error or with a response."""
    operation: Operation = {
        "name": NAME,
        "done": True,
        "metadata": {
            "createTime": "2025-11-23T01:00:00.5Z",
            "endTime": "2025-11-23T02:00:00Z",
            "logsUrl": LOGS,
            "counter": {name: str(count) for name, count in counter.items()},  # type: ignore[typeddict-item]
        },
    }
    if error is not None:
        operation["error"] = error
    else:
        operation["response"] = {"@type": "whatever"}
    return operation
