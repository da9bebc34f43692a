"""High-water marks: up to when everything that arrived has been exported, kept in Airflow Variables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_dicom.compat import read_variable
from airflow_provider_dicom.exceptions import DicomExportError, DicomExportInvalidRequestError

if TYPE_CHECKING:
    from airflow_provider_dicom.results import DicomSelection

_BEGINNING = datetime.min.replace(tzinfo=UTC)


def parse_time(value: object, parameter: str) -> datetime:
    """
    Read a time.

    :param value: an RFC 3339 string, or an aware ``datetime``.
    :param parameter: what it is the value of, for the sentence.
    :raises DicomExportInvalidRequestError: if it is neither.
    """
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise DicomExportInvalidRequestError(
            f"{parameter}={value!r} is not a time; accepted: such as '2026-03-29T02:00:00Z', with its offset."
        )
    return time.astimezone(UTC)


def read_mark(name: str) -> datetime | None:
    """
    Read a high-water mark; None if nothing was exported yet.

    :param name: the Airflow Variable.
    :raises DicomExportInvalidRequestError: if it holds no time.
    """
    value = read_variable(name)
    return None if value is None else parse_time(value, f"Variable {name}")


def advance_mark(name: str, selection: DicomSelection) -> datetime:
    """
    Move a high-water mark to the end of what was exported, never backwards, and return it.

    :param name: the Airflow Variable.
    :param selection: what was exported.
    :raises DicomExportInvalidRequestError: if the selection names no times.
    :raises DicomExportError: if the mark was moved back since: what is between would never be exported.
    """
    from airflow.providers.common.compat.sdk import Variable

    since = None if selection["since"] is None else parse_time(selection["since"], "since")
    until = parse_time(selection["until"], "until")
    mark = read_mark(name)
    if (mark or _BEGINNING) < (since or _BEGINNING):
        raise DicomExportError(
            f"The Variable {name} holds {mark}, and the export only covers what arrived after {since}. "
            "It was moved back meanwhile, so it stays there, and the next run exports from there on."
        )
    if mark is not None and mark >= until:
        return mark
    Variable.set(name, until.isoformat())
    return until
