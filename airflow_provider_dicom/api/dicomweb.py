"""DICOMweb: resource paths of studies, series and instances, and the paging of searches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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
_RESOURCE_PATH = re.compile(rf"/studies/{UID_PATTERN}(?:/series/{UID_PATTERN}(?:/instances/{UID_PATTERN})?)?")
_KINDS = ("studies", "series", "instances")
_TAGS = {"studies": "0020000D", "series": "0020000E", "instances": "00080018"}


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
    return resource_path(*below, *(_first(match.get(_TAGS[kind], {}).get("Value")) for kind in kinds))


def uids_of(path: str) -> list[str]:
    """
    Return the UIDs in a resource path.

    :param path: the resource path.
    """
    return path.split("/")[2::2]


def _first(values: object) -> object:
    return values[0] if isinstance(values, list) and values else None


def search_pages(search: Callable[[int], list[DicomJson]]) -> Iterator[DicomJson]:
    """
    Yield the matches of all pages of a search.

    :param search: returns the page of matches that begins at an offset.
    """
    offset = 0
    # The API may cap the limit of a page: only an empty page certainly is the end.
    while page := search(offset):
        offset += len(page)
        yield from page
        # Two pages at a time would take twice the memory.
        del page
