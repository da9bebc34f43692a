"""
Searches with more matches than the API returns, narrowed by StudyDate.

Invariants:

- A search is narrowed only after it has shown more matches than the API returns. Its matches up to there have
  been yielded by then, and come again.
- A range of dates with too many matches is halved. A single day with too many of them is searched study by
  study.
- Ranges do not match what has no valid StudyDate. Unless the search itself asks for dates, the studies
  without one are found in the list of all studies and searched one by one, first of all; if that list has too
  many entries, the search fails. This needs the same StudyDate in all instances of a study.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_dicom.api import dicomweb
from airflow_provider_dicom.api.dicomweb import (
    STUDY_DATE_TAG,
    TooManyMatchesError,
    parse_date,
    path_of_match,
    search_pages,
    study_date,
    uids_of,
)
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_dicom.api.dicomweb import SearchLevel
    from airflow_provider_dicom.api_types import DicomJson
    from airflow_provider_dicom.compat import Log

    Filters = tuple[tuple[str, str | int], ...]

_STUDY_DATE = "StudyDate"
_ADVICE = (
    "Query a metadata table, or give the filter StudyDate a range if studies without a date do not matter"
)
_RANGE = re.compile(r"([0-9]{8})?(-)?([0-9]{8})?")


class Search(NamedTuple):
    """
    A search, without its pages.

    :param level: the level of the matches.
    :param filters: attributes and the values that they must have.
    :param study_uid: search within this study only.
    :param series_uid: search within this series of the study only.
    """

    level: SearchLevel
    filters: Filters = ()
    study_uid: str | None = None
    series_uid: str | None = None


@dataclass
class _Tally:
    searches: int = 0
    studies: int = 0


def search_all(
    search: Search, page: Callable[[Search, int, int | None], list[DicomJson]], *, where: object, log: Log
) -> Iterator[DicomJson]:
    """
    Yield all matches of a search, however many; some can come twice.

    :param search: the search.
    :param page: returns the matches of a search from an offset on, at most as many as the last argument says;
        a full page if it is None.
    :param where: the DICOM store, for messages.
    :param log: the log that says how a search was narrowed.
    :raises DicomExportInvalidRequestError: if the search cannot be narrowed so that it finds everything.
    :raises DicomExportError: if the API refuses, or keeps moving the matches.
    """
    try:
        yield from search_pages(lambda offset: page(search, offset, None))
    except TooManyMatchesError:
        narrowing = _Narrowing(search, page, where, log)
    else:
        return
    yield from narrowing.matches()


class _Narrowing:
    def __init__(
        self,
        search: Search,
        page: Callable[[Search, int, int | None], list[DicomJson]],
        where: object,
        log: Log,
    ) -> None:
        self._search = search
        self._page = page
        self._where = where
        self._log = log
        self._tally = _Tally()
        dates = [str(value) for name, value in search.filters if _is_study_date(name)]
        self._others = tuple(pair for pair in search.filters if not _is_study_date(pair[0]))
        self._limits: tuple[date, date] | None = None
        if dates and dates != ["*"]:
            self._limits = _limits(dates[0]) if len(dates) == 1 else None
            if self._limits is None:
                raise self._refusal("Its StudyDate is no date and no range of dates that could be narrowed")

    def matches(self) -> Iterator[DicomJson]:
        search = self._search
        if search.study_uid is not None:
            raise self._refusal("They lie within one study. Search its series one by one")
        if self._limits is None and search.level == "studies":
            raise self._refusal(
                f"Narrowed by StudyDate, it would leave out studies without a date. {_ADVICE}"
            )
        self._log.warning(
            "The search for %s in %s has more than %d matches, and the API returns no more: narrowing it by "
            "StudyDate.",
            search.level,
            self._where,
            dicomweb.MAX_SEARCH_OFFSET,
        )
        if self._limits is None:
            yield from self._without_date()
        yield from self._between(*(self._limits or (date.min, date.max)))
        self._log.info(
            "The search for %s was narrowed to %d searches of ranges of StudyDate, and %d of single studies.",
            search.level,
            self._tally.searches,
            self._tally.studies,
        )

    def _without_date(self) -> Iterator[DicomJson]:
        yield from self._by_study(
            (),
            lambda study: study_date(study) is None,
            f"There are too many studies to find those without a date. {_ADVICE}",
        )

    def _between(self, first: date, last: date) -> Iterator[DicomJson]:
        filters = (*self._others, (_STUDY_DATE, f"{_text(first)}-{_text(last)}"))
        narrowed = self._search._replace(filters=filters)
        self._tally.searches += 1
        if not self._page(narrowed, dicomweb.MAX_SEARCH_OFFSET, 1):
            try:
                yield from search_pages(lambda offset: self._page(narrowed, offset, None))
                return
            except TooManyMatchesError:  # they arrived meanwhile
                pass
        if first < last:
            middle = date.fromordinal((first.toordinal() + last.toordinal()) // 2)
            yield from self._between(first, middle)
            yield from self._between(date.fromordinal(middle.toordinal() + 1), last)
        elif self._search.level == "studies":
            raise self._refusal(f"So many have the StudyDate {_text(first)}. Add a filter")
        else:
            yield from self._by_study(
                filters[-1:],
                lambda _: True,
                f"There are too many studies with the StudyDate {_text(first)}. Query a metadata table",
            )

    def _by_study(
        self, filters: Filters, is_wanted: Callable[[DicomJson], bool], problem: str
    ) -> Iterator[DicomJson]:
        studies = Search("studies", filters)
        try:
            for study in search_pages(lambda offset: self._page(studies, offset, None)):
                if is_wanted(study):
                    yield from self._within(study)
        except TooManyMatchesError:
            raise self._refusal(problem) from None

    def _within(self, study: DicomJson) -> Iterator[DicomJson]:
        (uid,) = uids_of(path_of_match(study, "studies"))
        self._tally.studies += 1
        search = self._search._replace(filters=self._others, study_uid=uid)
        try:
            for match in search_pages(lambda offset: self._page(search, offset, None)):
                # What the API leaves out of a match within a study is known.
                yield {dicomweb.STUDY_UID_TAG: {"vr": "UI", "Value": [uid]}, **match}
        except TooManyMatchesError:
            raise self._refusal(f"So many lie within the study {uid}. Search its series one by one") from None

    def _refusal(self, problem: str) -> DicomExportInvalidRequestError:
        return DicomExportInvalidRequestError(
            f"The search for {self._search.level} in {self._where} has more than "
            f"{dicomweb.MAX_SEARCH_OFFSET} matches, and the API returns no more. {problem}."
        )


def _is_study_date(name: str) -> bool:
    return name in (_STUDY_DATE, STUDY_DATE_TAG)


def _limits(value: str) -> tuple[date, date] | None:
    """Return the first and the last date for which a search asks; None if it is not known."""
    match = _RANGE.fullmatch(value)
    if match is None:
        return None
    begin, dash, end = match.groups()
    first = parse_date(begin) if begin else date.min
    last = parse_date(end) if end else (date.max if dash else first)
    return None if first is None or last is None or not (begin or end) else (first, last)


def _text(day: date) -> str:
    # strftime() writes years before 1000 without zeros on some systems.
    return f"{day.year:04d}{day.month:02d}{day.day:02d}"
