"""Failed instances: how long they are waited for, and how they are grouped and described."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.api.log_entries import FailedInstance
from airflow_provider_dicom.exceptions import (
    DicomExportCancelledError,
    DicomExportPermissionError,
    DicomExportQuotaExhaustedError,
    DicomExportUnavailableError,
)
from airflow_provider_dicom.longrunning import failures as module
from airflow_provider_dicom.longrunning.failures import (
    describe_cause,
    describe_causes,
    group_by_cause,
    wait_for_failures,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_dicom.exceptions import DicomExportError


def path(number: int) -> str:
    return f"/studies/1.2/series/3.4/instances/5.6.{number}"


def instances(count: int, message: str = "no", *, first: int = 0) -> list[FailedInstance]:
    return [FailedInstance(path(number), 3, message) for number in range(first, first + count)]


class LateEntries:
    """
    Cloud Logging in virtual time: what it lists, or how it fails, at each read.

    :param reads: what the reads return or raise; the last one is repeated.
    """

    def __init__(self, *reads: list[FailedInstance] | DicomExportError) -> None:
        self._reads = [*reads]
        self.times: list[float] = []
        self.time = 0.0

    def read(self) -> Iterable[FailedInstance]:
        """Read once."""
        self.times.append(self.time)
        found = self._reads.pop(0) if len(self._reads) > 1 else self._reads[0]
        if isinstance(found, Exception):
            raise found
        return iter(found)

    def wait(self, failure: int, **options: Any) -> Any:
        """Wait for the failed instances."""

        def sleep(seconds: float) -> None:
            self.time += seconds

        return wait_for_failures(self.read, failure, sleep=sleep, now=lambda: self.time, **options)


def test_wait_ends_as_soon_as_all_failed_instances_are_known() -> None:
    entries = LateEntries([], instances(1), instances(3), instances(3))
    assert entries.wait(3)["known"] == 3
    assert entries.times == [0, 1, 3]


def test_wait_ends_after_its_time_with_what_is_known() -> None:
    entries = LateEntries(instances(2))
    found = entries.wait(3)
    assert (found["failure"], found["known"]) == (3, 2)
    assert entries.times == [0, 1, 3, 7, 15, 23, 30]
    assert "2 of the 3 failed instances; entries arrive late" in describe_causes(found)


def test_wait_ends_when_as_many_are_known_as_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INSTANCES", 2)
    entries = LateEntries(instances(5))
    assert entries.wait(100)["known"] == 2
    assert entries.times == [0]


def test_transient_errors_are_repeated_a_few_times() -> None:
    quota = DicomExportQuotaExhaustedError("quota")
    assert LateEntries(quota, quota, instances(1)).wait(1)["known"] == 1
    entries = LateEntries(DicomExportUnavailableError("no response"))
    with pytest.raises(DicomExportUnavailableError, match="no response"):
        entries.wait(1)
    assert entries.times == [0, 1, 3]


def test_error_after_a_read_leaves_what_is_known() -> None:
    found = LateEntries(instances(1), DicomExportUnavailableError("no response")).wait(2)
    assert (found["known"], found["failure"]) == (1, 2)


def test_refusal_is_not_repeated() -> None:
    entries = LateEntries(DicomExportPermissionError("no"))
    with pytest.raises(DicomExportPermissionError):
        entries.wait(1)
    assert entries.times == [0]


def test_errors_that_begin_late_do_not_outlast_the_time() -> None:
    entries = LateEntries([], DicomExportUnavailableError("no response"))
    assert entries.wait(1, seconds=2)["known"] == 0
    assert entries.time <= 2


def test_sleep_may_end_the_wait() -> None:
    def killed(_: float) -> None:
        raise DicomExportCancelledError("ended")

    with pytest.raises(DicomExportCancelledError):
        wait_for_failures(list, 1, sleep=killed)


def test_instances_are_grouped_by_code_and_cause_the_most_frequent_first() -> None:
    found = group_by_cause(
        [
            *instances(1, "rare"),
            *(FailedInstance(path(n), 3, f"cannot read 5.6.{n}") for n in range(10, 15)),
            FailedInstance(path(20), 5, "rare"),
            FailedInstance(None, None, "nowhere"),
        ],
        8,
    )
    assert found["known"] == 8
    assert [(c["code"], c["message"], c["count"]) for c in found["causes"]] == [
        (3, "cannot read ...", 5),
        (3, "rare", 1),
        (5, "rare", 1),
        (None, "nowhere", 1),
    ]
    assert [describe_cause(cause) for cause in found["causes"]] == [
        f"5 x cannot read ... (code 3): {path(10)}, {path(11)}, {path(12)}, and 2 more",
        f"1 x rare (code 3): {path(0)}",
        f"1 x rare (code 5): {path(20)}",
        "1 x nowhere",
    ]
    assert describe_causes(found) == (
        "Cloud Logging lists 8 of the 8 failed instances: 5 x cannot read ...; 1 x rare; 1 x rare; "
        "further causes: 1."
    )
    assert found["failures"][1] == {"resource_path": path(10), "code": 3, "message": "cannot read 5.6.10"}


def test_several_entries_about_an_instance_count_once() -> None:
    found = group_by_cause([*instances(2), *instances(2, "again")], 2)
    assert (found["known"], len(found["causes"]), len(found["failures"])) == (2, 1, 2)


def test_lists_are_limited() -> None:
    many = [FailedInstance(path(n), 3, f"cause {chr(65 + n % 26)}") for n in range(module.MAX_LISTED + 50)]
    found = group_by_cause(many, len(many))
    assert len(found["failures"]) == module.MAX_LISTED
    assert len(found["causes"]) == module.MAX_CAUSES
    assert found["more_causes"] == 26 - module.MAX_CAUSES
    assert all(len(cause["resource_paths"]) == module.PATHS_OF_A_CAUSE for cause in found["causes"])
    assert describe_causes(found).endswith("; further causes: 23.")


def test_no_entry_at_all_is_said() -> None:
    assert describe_causes(group_by_cause([], 3)) == (
        "Cloud Logging lists 0 of the 3 failed instances; entries arrive late, and are limited in number."
    )
