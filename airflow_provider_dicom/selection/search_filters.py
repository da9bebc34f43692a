"""
The attributes of a search and their values, as a DAG gives them, and as the query sends them.

The values may name a patient: no error quotes one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from itertools import product
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.api.resource_names import uid_error
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.validation import is_nothing, is_template

if TYPE_CHECKING:
    from collections.abc import Iterator

_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:\.[A-Za-z0-9]+)*|[0-9A-Fa-f]{8}(?:\.[0-9A-Fa-f]{8})*")
_UID_TAGS = frozenset({"0020000D", "0020000E", "00080018", "00080016"})
_DATE_OR_RANGE = re.compile(r"[0-9]{8}(-([0-9]{8})?)?|-[0-9]{8}")
#: Texts without anything that an attribute could be compared with; "-" is a range without ends.
_UNLIMITED = re.compile(r"[*?\s^=,\\-]+")
#: Matches everything, and says so.
EVERYTHING = "*"


def search_filter_errors(filters: object, *, is_rendered: bool) -> Iterator[str]:
    """
    Yield one sentence for each validation error of a search's filters.

    :param filters: the filters; None if the search has none.
    :param is_rendered: the filters hold no templates any more.
    """
    if filters is None or (not is_rendered and not isinstance(filters, Mapping) and is_template(filters)):
        return
    if not isinstance(filters, Mapping):
        yield f"filters is {type(filters).__name__}; accepted: a dictionary of attributes."
        return
    if not filters:
        yield "filters is an empty dictionary; accepted: at least one attribute. Left out, all matches."
    for position, (name, value) in enumerate(filters.items(), start=1):
        if not isinstance(name, str) or not _ATTRIBUTE.fullmatch(name):
            yield f"filters: attribute {position} is not a name; accepted: a keyword or a tag."
        elif is_rendered or not is_template(value):
            try:
                _texts(name, value)
            except DicomExportInvalidRequestError as error:
                yield str(error)


def search_queries(filters: Mapping[str, object] | None) -> Iterator[list[tuple[str, str]]]:
    """
    Yield the queries that together find what the filters ask for: attributes and texts that they must have.

    The API compares with single values: a list of UIDs in one query would match nothing.

    :param filters: the rendered filters.
    :raises DicomExportInvalidRequestError: if a filter is invalid.
    :raises AirflowSkipException: if a list of UIDs is empty.
    """
    texts = {name: _texts(name, value) for name, value in (filters or {}).items()}
    for name, accepted in texts.items():
        if not accepted:
            raise AirflowSkipException(f"filters[{name!r}] is an empty list: there is nothing to export.")
    for combination in product(*texts.values()):
        yield list(zip(texts, combination, strict=True))


def _texts(name: str, value: object) -> list[str]:
    """Return the texts of a value: several for a list of UIDs, none for an empty one."""
    if isinstance(value, datetime | date):
        if name.endswith("Time"):
            raise _refused(name, f"is {type(value).__name__}", "a text such as '120000' or '110000-120000'")
        return [f"{value:%Y%m%d}"]
    if isinstance(value, int) and not isinstance(value, bool):
        return [str(value)]
    if isinstance(value, str):
        return _checked(name, value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return _uid_list(name, value)
    if value is None:
        raise _refused(
            name, "is None, or a template in it renders to nothing", f"a value, {EVERYTHING!r} for all"
        )
    raise _refused(name, f"is {type(value).__name__}", "a text, a whole number, a date, or a list of UIDs")


def _checked(name: str, text: str) -> list[str]:
    if is_nothing(text, is_rendered=True):
        raise _refused(name, "is empty, or the text 'None'", f"a value, {EVERYTHING!r} for all")
    if is_template(text):
        raise _refused(
            name,
            "still holds a template",
            "a value; values that come from other tasks, forms or Variables are data and are never rendered",
        )
    if text != EVERYTHING and _UNLIMITED.fullmatch(text):
        raise _refused(name, "limits nothing", f"a value, {EVERYTHING!r} for all")
    if name.endswith("Date") and text != EVERYTHING and not _DATE_OR_RANGE.fullmatch(text):
        raise _refused(name, "is no DICOM date", "YYYYMMDD, such as '{{ ds_nodash }}', or YYYYMMDD-YYYYMMDD")
    if _is_uid(name) and text != EVERYTHING:
        return _uid_list(name, re.split(r"[,\\]", text))
    return [text]


def _is_uid(name: str) -> bool:
    return name.endswith("UID") or name.rpartition(".")[2].upper() in _UID_TAGS


def _uid_list(name: str, values: Sequence[object]) -> list[str]:
    if not _is_uid(name):
        raise _refused(name, f"is {type(values).__name__}", "one value; a list for UIDs only")
    for position, value in enumerate(values, start=1):
        if uid_error(name, value):
            raise _refused(name, f"holds no UID at position {position}", "a list of UIDs")
    return list(dict.fromkeys(map(str, values)))


def _refused(name: str, problem: str, accepted: str) -> DicomExportInvalidRequestError:
    return DicomExportInvalidRequestError(f"filters[{name!r}] {problem}; accepted: {accepted}.")
