"""Sentences about finished exports: their speed, and the effect of a cancellation request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.longrunning.outcome import describe_cancellation, describe_speed
from tests.support.finished_operations import NAME, ended

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation


@pytest.mark.parametrize(
    ("created", "finished", "text"),
    [
        ("2026-11-24T18:00:00Z", "2026-11-24T18:00:20.5Z", " in 20 s (4.9 instances/s)"),
        ("2026-11-24T18:00:00Z", "2026-11-24T18:00:10Z", " in 10 s (10.0 instances/s)"),
        ("2026-11-24T18:00:00Z", "2026-11-24T18:00:09.5Z", " in 9.5 s (10.5 instances/s)"),
        ("2026-11-24T18:00:00Z", "2026-11-24T18:02:30Z", " in 150 s (40.0 instances/min)"),
        ("2026-11-24T18:00:00Z", "2026-11-24T18:00:02.500000001Z", " in 2.5 s (40.0 instances/s)"),
        ("2026-11-24T18:00:00Z", "2026-11-24T18:00:00.5Z", " in 0.5 s (200.0 instances/s)"),
        ("2026-11-24T18:00:00Z", "2026-11-24T18:01:40Z", " in 100 s (1.0 instances/s)"),
        ("2026-11-24T18:00:00Z", "2026-11-24T18:01:15Z", " in 75 s (1.3 instances/s)"),
        ("2026-11-24T18:00:00Z", "2026-11-24T19:00:00Z", " in 3600 s (1.7 instances/min)"),
        ("2026-11-24T18:00:00Z", "2026-11-24T18:00:00Z", ""),
        ("2026-11-24T18:00:01Z", "2026-11-24T18:00:00Z", ""),
        ("2026-11-24T18:00:00Z", None, ""),
        ("yesterday", "today", ""),
    ],
)
def test_speed_of_an_export(created: str, finished: Any, text: str) -> None:
    counter: Any = {"success": "97", "failure": "3"}
    assert (
        describe_speed(
            {"name": NAME, "metadata": {"createTime": created, "endTime": finished, "counter": counter}}
        )
        == text
    )


def test_speed_of_an_operation_without_metadata_is_empty() -> None:
    assert describe_speed({"name": NAME}) == ""


@pytest.mark.parametrize(
    ("operation", "effect"),
    [
        (ended({"success": 3}, {"code": 1, "message": "stopped"}), "is cancelled, as the API confirms"),
        (ended({"success": 3}), "had ended before it could be cancelled"),
        (ended({"success": 3}, {"code": 13, "message": "broke"}), "had ended before it could be cancelled"),
        (
            {"name": NAME, "metadata": {"counter": {"success": "3"}}},
            "was asked to stop; the API has not confirmed it yet",
        ),
    ],
)
def test_effect_of_a_cancellation_request(operation: Operation, effect: str) -> None:
    progress = "It had come to: 3 exported, 0 failed, 0 pending"
    assert describe_cancellation(operation) == f"{NAME} {effect}. {progress}"
