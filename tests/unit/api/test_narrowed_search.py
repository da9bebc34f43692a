"""Searches with more matches than the API returns: nothing is left out, whatever dates there are."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.api import dicomweb
from airflow_provider_dicom.api.dicomweb import path_of_match, study_date
from airflow_provider_dicom.api.narrowed_search import Search, search_all
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.api_types import DicomJson

LOG = logging.getLogger(__name__)
MOST = 20
PAGE = 7
DATES = ["20260101", "20260102", "20260102", "19991231", "00010101", "99991231", "", "2026.01.01", "20260231"]


@pytest.fixture(autouse=True, scope="module")
def small_offsets() -> Iterator[None]:
    """The API returns few matches."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(dicomweb, "MAX_SEARCH_OFFSET", MOST)
        yield


class DatedStudies:
    """
    A DICOM store that answers searches by StudyDate, and refuses offsets beyond ``MOST``.

    :param studies: the number of instances of each study, with the study's date.
    """

    def __init__(self, studies: list[tuple[str, int]]) -> None:
        self._studies = studies
        self.searches: list[Search] = []

    def page(self, search: Search, offset: int, at_most: int | None) -> list[DicomJson]:
        """Return a page of a search."""
        assert offset <= MOST
        self.searches.append(search)
        matches = [*self._matches(search)]
        return matches[offset : offset + (at_most or PAGE)]

    def _matches(self, search: Search) -> Iterator[DicomJson]:
        filters = dict(search.filters)
        wanted = str(filters.get("StudyDate", filters.get("00080020", "*")))
        for number, (date, count) in enumerate(self._studies):
            if search.study_uid not in (None, f"1.{number}") or not is_within(date, wanted):
                continue
            study: DicomJson = {"0020000D": {"vr": "UI", "Value": [f"1.{number}"]}}
            if date:
                study["00080020"] = {"vr": "DA", "Value": [date]}
            if search.level == "studies":
                yield study
                continue
            for instance in range(count if "Modality" not in filters else count // 2):
                own: DicomJson = {} if search.study_uid else study
                series: DicomJson = {"0020000E": {"vr": "UI", "Value": [f"1.{number}.1"]}}
                yield {**own, **series, "00080018": {"vr": "UI", "Value": [f"1.{number}.1.{instance}"]}}

    def paths(self, *dates: str) -> set[str]:
        """Return the paths of the instances of studies with these dates; of all if none is given."""
        return {
            f"/studies/1.{number}/series/1.{number}.1/instances/1.{number}.1.{instance}"
            for number, (date, count) in enumerate(self._studies)
            for instance in range(count)
            if not dates or date in dates
        }


def is_within(date: str, wanted: str) -> bool:
    if wanted == "*":
        return True
    first, _, last = wanted.partition("-") if "-" in wanted else (wanted, "", wanted)
    # As servers compare dates: without looking whether there is such a day.
    return date.isdecimal() and len(date) == 8 and (first or "0") <= date <= (last or "99999999")


def found(archive: DatedStudies, search: Search) -> list[str]:
    matches = search_all(search, archive.page, where="the store", log=LOG)
    return [path_of_match(match, search.level) for match in matches]


@given(st.lists(st.tuples(st.sampled_from(DATES), st.integers(0, 12)), max_size=15))
def test_no_instance_is_left_out_whatever_its_date(studies: list[tuple[str, int]]) -> None:
    archive = DatedStudies(studies)
    assert set(found(archive, Search("instances"))) == archive.paths()


def test_search_that_fits_is_not_narrowed() -> None:
    archive = DatedStudies([("20260101", MOST)])
    assert len(found(archive, Search("instances"))) == MOST
    assert set(archive.searches) == {Search("instances")}


def test_ranges_are_halved_until_they_fit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    archive = DatedStudies([("20260101", 10), ("20260102", 10), ("20260103", 10), ("", 5)])
    assert set(found(archive, Search("instances", (("Modality", "CT"),)))) < archive.paths()
    caplog.clear()
    assert set(found(archive, Search("instances"))) == archive.paths()
    assert "more than 20 matches, and the API returns no more: narrowing it by StudyDate" in caplog.text
    assert "searches of ranges of StudyDate, and 1 of single studies" in caplog.text


def test_other_filters_stay_in_every_narrowed_search() -> None:
    archive = DatedStudies([("20260101", 30), ("20260102", 30), ("", 30)])
    assert len(set(found(archive, Search("instances", (("Modality", "CT"),))))) == 45
    assert len(archive.searches) > 10
    for search in archive.searches:
        assert search.level == "studies" or ("Modality", "CT") in search.filters


@pytest.mark.parametrize(
    ("value", "dates"),
    [
        ("20260101-20260102", ["20260101", "20260102"]),
        ("20260102-", ["20260102", "20260103"]),
        ("-20260101", ["20260101"]),
        ("20260101", ["20260101"]),
        ("*", []),
    ],
)
@pytest.mark.parametrize("name", ["StudyDate", "00080020"])
def test_range_of_the_search_itself_is_never_widened(value: str, dates: list[str], name: str) -> None:
    archive = DatedStudies([("20260101", 15), ("20260101", 15), ("20260102", 12), ("20260103", 12), ("", 3)])
    assert set(found(archive, Search("instances", ((name, value),)))) == archive.paths(*dates)


def test_single_day_with_too_many_instances_is_searched_study_by_study() -> None:
    archive = DatedStudies([("20260101", 9)] * 9)
    assert set(found(archive, Search("instances"))) == archive.paths()
    assert {search.study_uid for search in archive.searches} >= {f"1.{number}" for number in range(9)}


@pytest.mark.parametrize(
    ("studies", "search", "message"),
    [
        ([("20260101", 1)] * 30, Search("studies"), "would leave out studies without a date"),
        ([("20260101", 1)] * 30, Search("instances"), "too many studies to find those without a date"),
        (
            [("20260101", 1)] * 30,
            Search("instances", (("StudyDate", "20260101"),)),
            "too many studies with the StudyDate 20260101",
        ),
        (
            [("20260101", 1)] * 30,
            Search("studies", (("StudyDate", "20260101"),)),
            "So many have the StudyDate 20260101",
        ),
        ([("", 30)], Search("instances"), r"So many lie within the study 1\.0"),
        ([("", 30)], Search("instances", study_uid="1.0"), "They lie within one study"),
        (
            [("20260101", 30)],
            Search("instances", (("StudyDate", "20260101"), ("StudyDate", "20260101"))),
            "no date and no range",
        ),
    ],
)
def test_search_fails_where_something_could_be_left_out(
    studies: list[tuple[str, int]], search: Search, message: str
) -> None:
    with pytest.raises(DicomExportInvalidRequestError, match=message) as raised:
        list(search_all(search, DatedStudies(studies).page, where="the store", log=LOG))
    assert "more than 20 matches" in str(raised.value)


def test_studies_with_dates_are_narrowed_if_the_search_asks_for_dates() -> None:
    archive = DatedStudies([(f"202601{day:02d}", 1) for day in range(1, 31)] + [("", 1)])
    paths = found(archive, Search("studies", (("StudyDate", "00010101-99991231"),)))
    assert set(paths) == {f"/studies/1.{number}" for number in range(30)}


@pytest.mark.parametrize("value", ["2026.01.01", "20260231", "", "202601"])
def test_study_date_that_is_no_date_counts_as_none(value: str) -> None:
    assert study_date({"00080020": {"vr": "DA", "Value": [value]}}) is None
    assert study_date({}) is None
