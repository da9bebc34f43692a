"""DICOMweb: resource paths of studies, series and instances, and the paging of searches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Literal

from airflow_provider_dicom.api.resource_names import MAX_UID_LENGTH, UID_PATTERN
from airflow_provider_dicom.exceptions import DicomExportUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from airflow_provider_dicom.api_types import DicomJson

#: The form of a resource path, for error messages.
ACCEPTED = "'/studies/UID[/series/UID[/instances/UID]]'"
SearchLevel = Literal["studies", "series", "instances"]
SearchFilters = Mapping[str, str | int] | Iterable[tuple[str, str | int]]

#: The API refuses larger offsets.
MAX_SEARCH_OFFSET = 1_000_000
#: The API's largest pages, in matches.
MAX_SEARCH_LIMIT = {"studies": 5_000, "series": 5_000, "instances": 50_000}
#: How often the matches of a search may move while its pages are read, by deletions above all.
MAX_SEARCH_MOVES = 100
_RESOURCE_PATH = re.compile(rf"/studies/{UID_PATTERN}(?:/series/{UID_PATTERN}(?:/instances/{UID_PATTERN})?)?")
_KINDS = ("studies", "series", "instances")
_TAGS = {"studies": "0020000D", "series": "0020000E", "instances": "00080018"}
_NUMBER_OF_FRAMES = "00280008"
STUDY_DATE_TAG = "00080020"
STUDY_UID_TAG = _TAGS["studies"]


def is_resource_path(path: object) -> bool:
    """
    Tell whether a value is the resource path of a study, a series or an instance.

    :param path: the value.
    """
    return (
        isinstance(path, str)
        and _RESOURCE_PATH.fullmatch(path) is not None
        and all(len(part) <= MAX_UID_LENGTH for part in path.split("/"))
    )


def resource_path(*uids: object) -> str:
    """
    Build a resource path.

    :param uids: the UID of the study, then those of the series and the instance, if the path has them.
    :raises DicomExportUnavailableError: if one of them is not a UID.
    """
    path = "".join(f"/{kind}/{uid}" for kind, uid in zip(_KINDS, uids, strict=False))
    if not is_resource_path(path):
        raise DicomExportUnavailableError("The response holds an invalid UID.")
    return path


def path_of_match(match: DicomJson, level: str, *, below: Sequence[str] = ()) -> str:
    """
    Build the resource path of a search's match from its UIDs; its other attributes are not read.

    :param match: the match.
    :param level: studies, series or instances.
    :param below: the UIDs of the study, and of the series, to which the search was limited.
    :raises DicomExportUnavailableError: if the match holds no UID.
    """
    kinds = _KINDS[len(below) : _KINDS.index(level) + 1]
    return resource_path(*below, *(_first_value(match, _TAGS[kind]) for kind in kinds))


def number_of_frames(match: DicomJson) -> int:
    """
    Return the number of frames of a search's match: 1 without that attribute, 0 if it is not a number.

    :param match: the match at the level of instances.
    """
    value = _first_value(match, _NUMBER_OF_FRAMES)
    if value is None:
        return 1
    try:
        return max(0, int(str(value)))
    except ValueError:
        return 0


def study_date(match: DicomJson) -> date | None:
    """
    Return the StudyDate of a search's match; None if it has none, or no valid one.

    :param match: the match at the level of studies.
    """
    value = _first_value(match, STUDY_DATE_TAG)
    return parse_date(value) if isinstance(value, str) else None


def parse_date(text: str) -> date | None:
    """
    Return the date that a text in DICOM's notation is; None if it is none.

    :param text: the text.
    """
    if not re.fullmatch(r"[0-9]{8}", text):
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


def uids_of(path: str) -> list[str]:
    """
    Return the UIDs in a resource path.

    :param path: the resource path.
    """
    return path.split("/")[2::2]


def _first_value(match: object, tag: str) -> object:
    element = match.get(tag) if isinstance(match, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


class TooManyMatchesError(Exception):
    """A search has more matches than the API returns."""


def search_pages(search: Callable[[int], list[DicomJson]]) -> Iterator[DicomJson]:
    """
    Yield the matches of all pages of a search, although matches are deleted or added meanwhile.

    Every page begins with the last match of the page before. If it does not, the matches have moved: the
    search goes back until a page overlaps again, and then some matches can come twice. This needs an order of
    the matches that is the same for every page; an order that keeps changing ends in an error.

    :param search: returns the page of matches, two at least if there are as many, that begins at an offset.
    :raises DicomExportUnavailableError: if the matches move more than ``MAX_SEARCH_MOVES`` times.
    :raises TooManyMatchesError: after the last match that the API returns, if there are more.
    """
    offset = moves = way_back = 0
    known: frozenset[tuple[str, ...]] = frozenset()
    while True:
        page = search(offset)
        uids = [_uids_of_match(match) for match in page]
        if offset and (not page or uids[0] not in known):
            moves += 1
            if moves > MAX_SEARCH_MOVES:
                raise DicomExportUnavailableError(
                    f"The matches of the search moved {moves} times while their pages were read: instances "
                    "are deleted or added faster than that, or the API returns the matches in no stable "
                    "order. Nothing was selected; search again when fewer instances change."
                )
            way_back = 2 * way_back or len(known)
            offset = max(0, offset - way_back)
            continue
        yield from (match for match, uid in zip(page, uids, strict=True) if uid not in known)
        # The API may cap the limit of a page: only the last match alone certainly is the end.
        if len(page) < 2:
            return
        way_back = 0
        known = frozenset(uids)
        offset += len(page) - 1
        if offset > MAX_SEARCH_OFFSET:
            raise TooManyMatchesError
        # Two pages at a time would take twice the memory.
        del page


def _uids_of_match(match: DicomJson) -> tuple[str, ...]:
    return tuple(str(_first_value(match, _TAGS[kind])) for kind in _KINDS)
