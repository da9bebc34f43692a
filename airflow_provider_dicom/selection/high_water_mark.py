"""High-water marks in Airflow Variables: the time up to which everything that arrived has been exported."""

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
    Parse a time.

    :param value: an RFC 3339 string, or an aware ``datetime``.
    :param parameter: the name of the parameter or Variable, for the error message.
    :raises DicomExportInvalidRequestError: if the value is neither.
    """
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise DicomExportInvalidRequestError(
            f"{parameter}={value!r} is not a time; accepted: a time with its offset, such as "
            "'2026-03-29T02:00:00Z'."
        )
    return time.astimezone(UTC)


def read_mark(name: str) -> datetime | None:
    """
    Read a high-water mark; None before the first export.

    :param name: the name of the Airflow Variable.
    :raises DicomExportInvalidRequestError: if the Variable does not hold a time.
    """
    value = read_variable(name)
    try:
        return None if value is None else parse_time(value, f"Variable {name}")
    except DicomExportInvalidRequestError:
        # The value is not quoted: the name may be that of another Variable, which holds a secret.
        raise DicomExportInvalidRequestError(
            f"The Variable {name} does not hold a time; accepted: a time with its offset, such as "
            "'2026-03-29T02:00:00Z'."
        ) from None


def advance_mark(name: str, selection: DicomSelection) -> datetime:
    """
    Move a high-water mark forward to the end of an exported selection, and return the mark.

    :param name: the name of the Airflow Variable.
    :param selection: the selection that was exported.
    :raises DicomExportInvalidRequestError: if the selection has no times.
    :raises DicomExportError: if the mark lies before the selection: the instances in between would never be
        exported.
    """
    from airflow.providers.common.compat.sdk import Variable

    since = None if selection["since"] is None else parse_time(selection["since"], "since")
    until = parse_time(selection["until"], "until")
    mark = read_mark(name)
    if (mark or _BEGINNING) < (since or _BEGINNING):
        raise DicomExportError(
            f"The Variable {name} holds {mark}, but the export only covers instances that arrived after "
            f"{since}. The Variable was moved back meanwhile; it is left unchanged, and the next run exports "
            "from its time on."
        )
    if mark is not None and mark >= until:
        return mark
    Variable.set(name, until.isoformat())
    return until
