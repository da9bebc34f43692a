"""QIDO-RS: searches for studies, series and instances (PS3.18, 10.6)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.messages import dicomweb_url, json_response
from airflow_provider_dicom.emulator.models import dicom_files, search
from airflow_provider_dicom.emulator.models.dicom_files import SERIES_TAGS, STUDY_TAGS, tags
from airflow_provider_dicom.emulator.models.search_index import Condition, texts
from airflow_provider_dicom.emulator.names import ResourcePath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_provider_dicom.emulator.handlers.call import Call
    from airflow_provider_dicom.emulator.models.dicom_files import Attributes
    from airflow_provider_dicom.emulator.models.search import Level

MAX_OFFSET = 1_000_000
MAX_LIMITS: dict[Level, int] = {"studies": 5_000, "series": 5_000, "instances": 50_000}

_COMPUTED_FOR_STUDIES = tags(
    "ModalitiesInStudy",
    "SOPClassesInStudy",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
)
_COMPUTED_FOR_SERIES = tags("NumberOfSeriesRelatedInstances")
#: Attributes that filters and ``includefield`` may name at each level; None: all.
_KNOWN: dict[Level, frozenset[str] | None] = {
    "studies": STUDY_TAGS | _COMPUTED_FOR_STUDIES,
    "series": STUDY_TAGS | SERIES_TAGS | _COMPUTED_FOR_SERIES,
    "instances": None,
}
#: Attributes that are returned without ``includefield`` (PS3.18, tables 10.6.3-3 to 10.6.3-5).
_STUDY_DEFAULTS = _COMPUTED_FOR_STUDIES | tags(
    *("SpecificCharacterSet", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
    *("TimezoneOffsetFromUTC", "PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyID"),
)
_SERIES_DEFAULTS = _COMPUTED_FOR_SERIES | tags(
    *("SpecificCharacterSet", "Modality", "TimezoneOffsetFromUTC", "SeriesDescription", "StudyInstanceUID"),
    *("SeriesInstanceUID", "SeriesNumber", "PerformedProcedureStepStartDate"),
    *("PerformedProcedureStepStartTime", "RequestAttributesSequence"),
)
_INSTANCE_DEFAULTS = tags(
    *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "TimezoneOffsetFromUTC", "StudyInstanceUID"),
    *("SeriesInstanceUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames"),
)


@dataclass(frozen=True)
class Query:
    """A search.

    :param level: what is searched for.
    :param below: the study or series that is searched, or the whole store.
    :param filters: the required values by tag.
    :param fields: the tags to return; None for all.
    :param limit: the maximum number of results.
    :param offset: the number of results to skip.
    """

    level: Level
    below: ResourcePath
    filters: dict[str, str]
    fields: frozenset[str] | None
    limit: int
    offset: int


async def search_store(call: Call) -> Response:
    """Return the results of a search; 204 if there are none."""
    query = parse(call.names["dicomWebPath"], call.request.query_params.multi_items())
    store = call.names["parent"]
    base = dicomweb_url(call.request, store)

    def find() -> list[Attributes]:
        call.archive.store(store)
        candidates = search.candidates(
            call.archive.database, query.level, store, query.below, conditions(query)
        )
        return [_answer(query, found, base) for found in run(query, candidates)]

    found = await run_in_threadpool(find)
    if not found:
        return Response(status_code=204)
    return json_response(found, media_type="application/dicom+json")


def parse(path: str, parameters: Iterable[tuple[str, str]]) -> Query:
    """Read a search from the path below ``dicomWeb/`` and the query parameters.

    :raises ApiError: a parameter is unknown, or its value is invalid.
    """
    level = path.rsplit("/", 1)[-1]
    if level not in MAX_LIMITS:
        raise ApiError.not_found(f"{path} cannot be searched")
    filters: dict[str, str] = {}
    included: set[str] = set()
    everything = False
    limit, offset = MAX_LIMITS[level], 0
    for name, value in parameters:
        if name == "limit":
            limit = _number(name, value, 1, MAX_LIMITS[level])
        elif name == "offset":
            offset = _number(name, value, 0, MAX_OFFSET)
        elif name == "fuzzymatching":
            if value != "false":
                raise ApiError.invalid_argument("fuzzymatching is not supported by this server")
        elif name == "includefield":
            everything = everything or value == "all"
            included.update(_tag(field, level) for field in value.split(",") if field != "all")
        else:
            filters[_tag(name, level)] = value
    fields = None if everything else frozenset(included | filters.keys() | _defaults(level, path))
    # The last part of the path is the level, without a UID.
    return Query(level, ResourcePath.parse(path.rpartition("/")[0]), filters, fields, limit, offset)


def _defaults(level: Level, path: str) -> frozenset[str]:
    if level == "studies":
        return _STUDY_DEFAULTS
    # Attributes of a higher level are returned unless the search is inside one resource of that level.
    outer = frozenset() if path.startswith("studies/") else _STUDY_DEFAULTS
    if level == "series":
        return _SERIES_DEFAULTS | outer
    return _INSTANCE_DEFAULTS | outer | (frozenset() if "series/" in path else _SERIES_DEFAULTS)


def _number(name: str, value: str, least: int, most: int) -> int:
    if not value.isdecimal() or not least <= int(value) <= most:
        raise ApiError.invalid_argument(f"invalid {name} {value!r}: it must be from {least} to {most}")
    return int(value)


def _tag(name: str, level: Level) -> str:
    if re.fullmatch(r"[0-9A-Fa-f]{8}", name):
        tag = name.upper()
    else:
        number = tag_for_keyword(name)
        if number is None:
            raise ApiError.invalid_argument(f"unknown query parameter or attribute {name!r}")
        tag = f"{number:08X}"
    known = _KNOWN[level]
    if known is not None and tag not in known:
        raise ApiError.invalid_argument(f"attribute {name!r} cannot be used in searches for {level}")
    return tag


def run(query: Query, candidates: Iterable[Attributes]) -> Iterator[Attributes]:
    """Yield the candidates that match all filters; nothing is read after the last result."""
    required = conditions(query)
    matching = (
        attributes
        for attributes in candidates
        if all(c.matches(attributes.get(c.tag, {}).get("Value", [])) for c in required)
    )
    return islice(matching, query.offset, query.offset + query.limit)


def conditions(query: Query) -> list[Condition]:
    """Return the conditions that a search requires.

    :raises ApiError: a value is invalid.
    """
    return [
        Condition(tag, _matcher(tag, required), _uids(tag, required))
        for tag, required in query.filters.items()
        if required
    ]


def _uids(tag: str, required: str) -> tuple[str, ...] | None:
    """Return the UIDs that a filter lists; None for other attributes."""
    return tuple(re.split(r"[,\\]", required)) if _vr(tag) == "UI" else None


def _answer(query: Query, found: Attributes, base: str) -> Attributes:
    uids = [found.get(tag, {}).get("Value", [None])[0] for tag in ("0020000D", "0020000E", "00080018")]
    depth = {"studies": 1, "series": 2, "instances": 3}[query.level]
    chosen = found if query.fields is None else dicom_files.select(found, query.fields)
    url = f"{base}{ResourcePath(*uids[:depth])}"
    return dict(sorted({**chosen, "00081190": {"vr": "UR", "Value": [url]}}.items()))


# ---------------------------------------------------------------------------------------------------------
# Matching (PS3.4, C.2.2.2)


def _matcher(tag: str, required: str) -> Callable[[list[object]], bool]:
    vr = _vr(tag)
    if vr in ("DA", "TM", "DT") and "-" in required:
        return _range(tag, vr, required)
    if uids := _uids(tag, required):
        return lambda values: any(str(value) in uids for value in values)
    if vr in ("DA", "TM", "DT"):
        return lambda values: any(str(value) == required for value in values)
    pattern = _wildcards(required, ignore_case=vr == "PN")
    return lambda values: any(pattern.fullmatch(text) for value in values for text in texts(value))


def _vr(tag: str) -> str:
    if not keyword_for_tag(tag):
        return "UN"
    return dictionary_VR(tag)


def _wildcards(required: str, *, ignore_case: bool) -> re.Pattern[str]:
    text = required.rstrip("^") if ignore_case else required
    pattern = re.escape(text).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(pattern, re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def _range(tag: str, vr: str, required: str) -> Callable[[list[object]], bool]:
    shape = {"DA": r"\d{8}", "TM": r"\d{2,6}(?:\.\d{1,6})?", "DT": r"\d{4,14}(?:\.\d{1,6})?"}[vr]
    match = re.fullmatch(f"({shape})?-({shape})?", required)
    if match is None or not (match[1] or match[2]):
        raise ApiError.invalid_argument(f"invalid range {required!r} for {keyword_for_tag(tag)}")
    first, last = match[1] or "", match[2]

    def matches(values: list[object]) -> bool:
        # A shortened time includes everything that begins with it: 10 ends at 10:59:59.
        return any(
            str(value) >= first and (last is None or str(value)[: len(last)] <= last) for value in values
        )

    return matches
