"""QIDO-RS: searches for studies, series and instances (PS3.18, 10.6)."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from pydicom.datadict import dictionary_VR, keyword_for_tag
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers.search_attributes import (
    INSTANCE_AVAILABILITY,
    MODALITIES_IN_STUDY,
    included_tag,
    returned_tags,
    searchable_tag,
)
from airflow_provider_dicom.emulator.messages import json_response
from airflow_provider_dicom.emulator.models import dicom_files, search
from airflow_provider_dicom.emulator.models.search_index import Condition, texts
from airflow_provider_dicom.emulator.names import ResourcePath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_provider_dicom.emulator.handlers.call import Call
    from airflow_provider_dicom.emulator.models.archive import Archive
    from airflow_provider_dicom.emulator.models.dicom_files import Attributes
    from airflow_provider_dicom.emulator.models.search import Level

PATIENT_NAME = "00100010"
MAX_OFFSET = 1_000_000
MAX_LIMITS: dict[Level, int] = {"studies": 5_000, "series": 5_000, "instances": 50_000}

#: Results without the parameter ``limit``.
DEFAULT_LIMITS: dict[Level, int] = {"studies": 100, "series": 100, "instances": 1_000}
#: Matches everything, also what lacks the attribute.
EVERYTHING = ("", "*")


@dataclass(frozen=True)
class Query:
    """A search.

    :param level: what is searched for.
    :param below: the study or series that is searched, or the whole store.
    :param filters: the accepted values by tag; only a UID can have several.
    :param fields: the tags to return; None for all.
    :param limit: the maximum number of results.
    :param offset: the number of results to skip.
    :param fuzzy: a patient's name matches if a word of it begins with a word of the value.
    :param any_search: see :class:`airflow_provider_dicom.emulator.settings.Settings`.
    """

    level: Level
    below: ResourcePath
    filters: dict[str, list[str]]
    fields: frozenset[str] | None
    limit: int
    offset: int
    fuzzy: bool = False
    any_search: bool = False


async def search_store(call: Call) -> Response:
    """Return the results of a search; 204 if there are none."""
    query = parse(
        call.names["dicomWebPath"],
        call.search,
        any_search=call.settings.any_search,
    )
    found = await run_in_threadpool(_find, call.archive, call.names["parent"], query)
    if not found:
        return Response(status_code=204)
    return json_response(found, media_type="application/dicom+json")


def _find(archive: Archive, store: str, query: Query) -> list[Attributes]:
    archive.store(store)
    database, required = archive.database, conditions(query)
    candidates = search.candidates(database, query.level, store, query.below, required)
    if query.level != "studies" and MODALITIES_IN_STUDY in query.filters:
        study = ResourcePath(query.below.study)
        candidates = _with_modalities(
            candidates, search.candidates(database, "studies", store, study, required)
        )
    return [_answer(query, found) for found in run(query, candidates)]


def _with_modalities(candidates: Iterable[Attributes], studies: Iterable[Attributes]) -> Iterator[Attributes]:
    modalities = {_uid(study): study[MODALITIES_IN_STUDY] for study in studies}
    for attributes in candidates:
        yield {**attributes, MODALITIES_IN_STUDY: modalities[_uid(attributes)]}


def _uid(attributes: Attributes) -> str:
    return str(attributes["0020000D"]["Value"][0])


def parse(path: str, parameters: Iterable[tuple[str, str]], *, any_search: bool = False) -> Query:
    """Read a search from the path below ``dicomWeb/`` and the query parameters.

    :param any_search: accept also what Google's API refuses.
    :raises ApiError: a parameter is unknown, or its value is invalid.
    """
    level = path.rsplit("/", 1)[-1]
    if level not in MAX_LIMITS:
        raise ApiError.not_found(f"{path} cannot be searched")
    filters: dict[str, list[str]] = {}
    included: list[str] = []
    limit, offset, fuzzy = DEFAULT_LIMITS[level], 0, False
    for name, value in parameters:
        if name == "limit":
            limit = _number(name, value, 1, MAX_LIMITS[level])
        elif name == "offset":
            offset = _number(name, value, 0, MAX_OFFSET)
        elif name == "fuzzymatching":
            if value not in ("true", "false"):
                raise ApiError.invalid_argument(f"invalid fuzzymatching {value!r}: it must be true or false")
            fuzzy = value == "true"
        elif name == "includefield":
            included += value.split(",")
        else:
            tag = searchable_tag(name, level, any_attribute=any_search)
            filters.setdefault(tag, []).append(_checked(name, tag, value, any_search=any_search))
            if len(filters[tag]) > 1 and _vr(tag) != "UI":
                raise ApiError.invalid_argument(f"{name} has several values, which only a UID may have")
    wanted = {included_tag(name, any_attribute=any_search) for name in included if name != "all"}
    fields = returned_tags(
        level,
        path,
        frozenset(wanted | filters.keys()),
        everything="all" in included,
        any_attribute=any_search,
    )
    # The last part of the path is the level, without a UID.
    below = ResourcePath.parse(path.rpartition("/")[0])
    return Query(level, below, filters, fields, limit, offset, fuzzy, any_search)


def _checked(name: str, tag: str, value: str, *, any_search: bool) -> str:
    """Return the value of a filter.

    :raises ApiError: it has wildcards. Google's API compares values exactly; what it does with wildcards is
        not known.
    """
    if not any_search and value not in EVERYTHING and _vr(tag) != "UI" and "*" in value:
        raise ApiError.invalid_argument(
            f"{name} has wildcards: only single value, exact matching is supported, and * alone"
        )
    return value


def _number(name: str, value: str, least: int, most: int) -> int:
    if not value.isdecimal() or not least <= int(value) <= most:
        raise ApiError.invalid_argument(f"invalid {name} {value!r}: it must be from {least} to {most}")
    return int(value)


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
        Condition(tag, _matcher(tag, accepted, query), _uids(tag, accepted, query))
        for tag, accepted in query.filters.items()
        if not any(value in EVERYTHING for value in accepted)
    ]


def _uids(tag: str, accepted: list[str], query: Query) -> tuple[str, ...] | None:
    """Return the UIDs that a filter accepts; None for other attributes."""
    if _vr(tag) != "UI":
        return None
    # Google's API takes a list in one value as one UID, which nothing has.
    return tuple(
        uid for value in accepted for uid in (re.split(r"[,\\]", value) if query.any_search else [value])
    )


def _answer(query: Query, found: Attributes) -> Attributes:
    found = {**found, INSTANCE_AVAILABILITY: {"vr": "CS", "Value": ["ONLINE"]}}
    chosen = found if query.fields is None else dicom_files.select(found, query.fields)
    return dict(sorted(chosen.items()))


# ---------------------------------------------------------------------------------------------------------
# Matching (PS3.4, C.2.2.2)

Matcher: TypeAlias = "Callable[[list[object]], bool]"


def _matcher(tag: str, accepted: list[str], query: Query) -> Matcher:
    vr, required = _vr(tag), accepted[0]
    if uids := _uids(tag, accepted, query):
        return lambda values: any(str(value) in uids for value in values)
    if vr in ("DA", "TM", "DT"):
        if "-" in required:
            return _range(tag, vr, required)
        return lambda values: any(str(value) == required for value in values)
    if tag == PATIENT_NAME and query.fuzzy:
        return _fuzzy(required)
    if query.any_search:
        return _pattern(_wildcards(required, ignore_case=vr == "PN"))
    exact = required.rstrip("^") if vr == "PN" else required
    return lambda values: any(text == exact for value in values for text in texts(value))


def _vr(tag: str) -> str:
    if not keyword_for_tag(tag):
        return "UN"
    return dictionary_VR(tag)


def _fuzzy(required: str) -> Matcher:
    """Match names of which a word begins with one of the required words, as Google's API does."""
    beginnings = tuple(_words(required))
    return lambda values: any(
        word.startswith(beginnings) for value in values for text in texts(value) for word in _words(text)
    )


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case, without accents."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return re.findall(r"\w+", "".join(one for one in decomposed if not unicodedata.combining(one)))


def _pattern(pattern: re.Pattern[str]) -> Matcher:
    return lambda values: any(pattern.fullmatch(text) for value in values for text in texts(value))


def _wildcards(required: str, *, ignore_case: bool) -> re.Pattern[str]:
    text = required.rstrip("^") if ignore_case else required
    first, *others = (re.escape(part).replace(r"\?", ".") for part in re.split(r"\*+", text))
    # Each part is taken where it occurs first, for good: a search backwards could take years.
    pattern = first + "".join(f"(?>.*?{part})" for part in others[:-1])
    if others:
        pattern += f".*{others[-1]}"
    return re.compile(pattern, re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def _range(tag: str, vr: str, required: str) -> Matcher:
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
