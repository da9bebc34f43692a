"""High-water marks in Airflow Variables: the time up to which everything that arrived has been exported."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_dicom.compat import read_variable
from airflow_provider_dicom.exceptions import DicomExportError, DicomExportInvalidRequestError
from airflow_provider_dicom.validation import parse_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.results import DicomSelection

#: The longest name of a Variable that every database of Airflow takes, in characters.
MAX_NAME_LENGTH = 250
_ACCEPTED = "a time with its offset, such as '2026-03-29T02:00:00Z'"
_BEGINNING = datetime.min.replace(tzinfo=UTC)


def parse_time(value: object, parameter: str) -> datetime:
    """
    Parse a time.

    :param value: an RFC 3339 string, an aware ``datetime``, or the result of an export, which stands for the
        time up to which everything stored is in its output.
    :param parameter: the name of the parameter or Variable, for the error message.
    :raises DicomExportInvalidRequestError: if the value is neither.
    """
    if isinstance(value, Mapping) and "create_time" in value:
        # Results of the first version have no snapshot time.
        value = value.get("snapshot_time") or value["create_time"]
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise DicomExportInvalidRequestError(f"{parameter}={value!r} is not a time; accepted: {_ACCEPTED}.")
    return time.astimezone(UTC)


def read_mark(name: str) -> datetime | None:
    """
    Read a high-water mark; None before the first export.

    :param name: the name of the Airflow Variable.
    :raises DicomExportInvalidRequestError: if the Variable does not hold a time.
    """
    value = read_variable(name)
    if value is None:
        return None
    try:
        return parse_time(value, name)
    except DicomExportInvalidRequestError:
        # The value is not quoted: the Variable of another purpose may hold a secret.
        raise DicomExportInvalidRequestError(
            f"The value of the Variable {name} is not a time; accepted: {_ACCEPTED}."
        ) from None


def mark_name_error(name: object) -> str | None:
    """
    Return the validation error of a high-water mark's name, or None.

    :param name: the name.
    """
    accepted = f"the name of an Airflow Variable, of at most {MAX_NAME_LENGTH} characters"
    if not name:
        return f"high_water_mark is empty; accepted: {accepted}."
    if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH:
        return f"high_water_mark={name!r} is not accepted; accepted: {accepted}."
    return None


def selection_errors(selection: object) -> Iterator[str]:
    """
    Yield the validation errors of a selection that is to move a high-water mark.

    :param selection: what should be a selection.
    """
    accepted = "accepted: the output of a DicomMetadataQueryOperator"
    if not isinstance(selection, Mapping):
        yield f"selection is {type(selection).__name__}; {accepted}."
        return
    if missing := {"since", "until"} - selection.keys():
        yield f"selection has no {' and no '.join(sorted(missing))}; {accepted}."
        return
    if selection["until"] is None:
        yield f"selection knows no time of arrival, as the output of a search; {accepted}."
        return
    yield from parse_errors(parse_time, selection["until"], "until")
    if selection["since"] is not None:
        yield from parse_errors(parse_time, selection["since"], "since")


def advance_mark(name: str, selection: DicomSelection) -> datetime:
    """
    Move a high-water mark forward to the end of an exported selection, and return the mark.

    :param name: the name of the Airflow Variable.
    :param selection: the selection that was exported.
    :raises DicomExportInvalidRequestError: if the selection has no times.
    :raises DicomExportError: if the mark lies before the selection: the instances in between would never be
        exported; or if the mark cannot be moved, because Airflow reads the Variable from elsewhere.
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
    # Airflow writes to its database, but reads from secrets backends and the environment first.
    mark = read_mark(name)
    if mark is None or mark < until:
        raise DicomExportError(
            f"The Variable {name} was set to {until}, but Airflow still reads {mark}: a secrets backend, or "
            f"the environment variable AIRFLOW_VAR_{name.upper()}, defines the Variable, too, and is read "
            "before Airflow's database. Remove the definition there; while it exists, every run selects the "
            "same instances again."
        )
    return mark
