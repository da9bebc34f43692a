"""Sorting on disk, and sets that are built with it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_dicom.selection import sorted_lines
from airflow_provider_dicom.selection.disk_set import DiskMap, DiskSet


@pytest.fixture(params=[40, sorted_lines.RUN_BYTES], ids=["many runs", "one run"])
def run_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that are shorter than the lines of a test, or longer."""
    monkeypatch.setattr(sorted_lines, "RUN_BYTES", request.param)
    monkeypatch.setattr(sorted_lines, "MAX_RUNS", 3)


@pytest.mark.usefixtures("run_bytes")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 99).map(lambda number: f"/studies/1.{number}\n".encode()), max_size=60))
def test_lines_are_sorted_and_none_is_lost(lines: list[bytes]) -> None:
    with sorted_lines.sorted_lines(iter(lines)) as result:
        assert list(result) == sorted(lines)


@pytest.mark.usefixtures("run_bytes")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(["a", "a.1", "a/b", "b", "é"]), st.integers(0, 10**6)), max_size=40)
)
def test_map_keeps_the_largest_number_of_a_string(items: list[tuple[str, int]]) -> None:
    expected: Counter[str] = Counter()
    for value, number in items:
        expected[value] = max(expected[value], number)
    with DiskMap(iter(items)) as numbers:
        assert dict(numbers.items()) == expected
        assert [value for value, _ in numbers.items()] == sorted(expected, key=str.encode)
        assert len(numbers) == len(expected)
    with DiskSet(value for value, _ in items) as values:
        assert list(values) == sorted(expected, key=str.encode)
        assert ("a" in values) == ("a" in expected)
        assert values.has_prefix("a/") == ("a/b" in expected)
