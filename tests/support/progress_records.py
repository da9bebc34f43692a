"""Operations with counters, and progress records that are written at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_dicom.longrunning import record_schedule

if TYPE_CHECKING:
    import pytest

    from airflow_provider_dicom.api_types import Operation

NAME = "projects/p/locations/l/datasets/d/operations/77"


def operation(success: int = 0, pending: int = 0, failure: int = 0, **changes: Any) -> Operation:
    """
    Build an Operation; ``changes`` are fields other than the name and the metadata.

    :param success: the number of instances exported.
    :param pending: the number of instances still to export.
    :param failure: the number of instances that could not be exported.
    """
    counter = {"success": str(success), "pending": str(pending), "failure": str(failure)}
    base: Any = {"name": NAME, "metadata": {"createTime": "2026-11-24T18:00:00Z", "counter": counter}}
    return base | changes  # type: ignore[no-any-return]


def write_records_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let every change of the counters be written at once, whatever the writes cost.

    :param monkeypatch: pytest's fixture.
    """
    monkeypatch.setattr(record_schedule, "RECORD_PAUSE", 0.0)
    monkeypatch.setattr(record_schedule, "VISIBLE_AGE", 0.0)
    monkeypatch.setattr(record_schedule, "WRITE_SHARE", 1e9)
