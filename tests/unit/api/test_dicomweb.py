"""The pages of a search: no match is lost while others are deleted or added, in memory of one page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.api.dicomweb import MAX_SEARCH_MOVES, path_of_match, search_pages
from airflow_provider_dicom.exceptions import DicomExportUnavailableError

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import DicomJson


def match(number: int) -> DicomJson:
    """Return a study as a search returns it."""
    return {"0020000D": {"vr": "UI", "Value": [f"1.{number}"]}}


class ChangingStore:
    """
    A DICOM store with studies in a fixed order, which changes after each page.

    :param studies: the studies' numbers.
    :param limit: matches on a page.
    :param changes: for each page, the studies that are deleted and those that are stored after it.
    """

    def __init__(self, studies: set[int], limit: int, changes: list[tuple[set[int], set[int]]]) -> None:
        self.studies = set(studies)
        self.requests: list[int] = []
        self._limit = limit
        self._changes = iter(changes)

    def search(self, offset: int) -> list[DicomJson]:
        """Return a page."""
        self.requests.append(offset)
        page = [match(number) for number in sorted(self.studies)[offset : offset + self._limit]]
        deleted, stored = next(self._changes, (set(), set()))
        self.studies = (self.studies - deleted) | stored
        return page


def found(store: ChangingStore) -> list[str]:
    """Return the resource paths of all matches."""
    return [path_of_match(match, "studies") for match in search_pages(store.search)]


STUDIES = st.sets(st.integers(0, 40))


@given(STUDIES, st.integers(2, 7), st.lists(st.tuples(STUDIES, STUDIES), max_size=12))
def test_no_study_that_stays_is_lost(
    studies: set[int], limit: int, changes: list[tuple[set[int], set[int]]]
) -> None:
    store = ChangingStore(studies, limit, changes)
    always_there = studies.difference(*(deleted for deleted, _ in changes))
    assert {f"/studies/1.{number}" for number in always_there} <= set(found(store))


@given(STUDIES, st.integers(2, 7))
def test_each_match_of_a_store_without_changes_comes_once(studies: set[int], limit: int) -> None:
    store = ChangingStore(studies, limit, [])
    assert found(store) == [f"/studies/1.{number}" for number in sorted(studies)]


def test_deletion_costs_two_more_requests() -> None:
    store = ChangingStore(set(range(20)), 6, [(set(), set()), ({0, 1}, set())])
    assert {f"/studies/1.{number}" for number in range(2, 20)} <= set(found(store))
    assert store.requests == [0, 5, 10, 4, 9, 14, 17]


def test_matches_without_a_stable_order_end_in_an_error() -> None:
    numbers = iter(range(1_000_000))
    with pytest.raises(DicomExportUnavailableError, match="no stable order"):
        list(search_pages(lambda _: [match(next(numbers)) for _ in range(3)]))
    assert next(numbers) <= 3 * 3 * MAX_SEARCH_MOVES
