"""
Conditions of a query of a metadata table: columns, and the values that they must have.

The values become parameters of the query, never a part of its text. They may name a patient: no error quotes
one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, NamedTuple

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.validation import is_nothing, is_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: A value of a condition, as a parameter of a query.
Value = str | int | float | bool | date

_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")
_DATE = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})")
_ACCEPTED = "a text, a number, a date, True or False, or a list of these"
#: The only column of JSON tables that holds data elements, by their tags.
METADATA = "Metadata"
#: Tags of data elements by which archives are usually divided; in JSON tables, any tag can be a condition.
_TAGS = {
    "StudyDate": "00080020",
    "AccessionNumber": "00080050",
    "Modality": "00080060",
    "Manufacturer": "00080070",
    "InstitutionName": "00080080",
    "StudyDescription": "00081030",
    "SeriesDescription": "0008103E",
    "InstitutionalDepartmentName": "00081040",
    "ManufacturerModelName": "00081090",
    "SOPClassUID": "00080016",
    "PatientID": "00100020",
    "BodyPartExamined": "00180015",
    "ProtocolName": "00181030",
    "StudyID": "00200010",
    "NumberOfFrames": "00280008",
}
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_ANY_OF = "EXISTS (SELECT 1 FROM UNNEST({values}) AS element WHERE element IN UNNEST(@{parameter}))"


class Column(NamedTuple):
    """
    A column of a table.

    :param name: the name, as the table spells it.
    :param type: BigQuery's name of the type, such as ``STRING``.
    :param is_repeated: the column holds a list.
    """

    name: str
    type: str
    is_repeated: bool = False


#: The columns of a table, by their names in lowercase: BigQuery ignores the case.
Columns = Mapping[str, Column]


class Condition(NamedTuple):
    """
    A condition, as a query has it.

    :param sql: the expression, with a parameter.
    :param parameter: the parameter's name.
    :param type: the type of the parameter's values.
    :param values: the parameter's values.
    :param column: the name of the column that the expression needs.
    """

    sql: str
    parameter: str
    type: str
    values: list[Value]
    column: str


def condition_errors(conditions: object, *, is_rendered: bool) -> Iterator[str]:
    """
    Yield one sentence for each validation error of a query's conditions.

    :param conditions: the conditions; None if the query has none.
    :param is_rendered: the conditions hold no templates any more.
    """
    if conditions is None or (
        not is_rendered and not isinstance(conditions, Mapping) and is_template(conditions)
    ):
        return
    if not isinstance(conditions, Mapping):
        yield f"conditions is {type(conditions).__name__}; accepted: a dictionary of columns."
        return
    if not conditions:
        yield "conditions is an empty dictionary; accepted: at least one column. Left out, all is selected."
    for position, (name, value) in enumerate(conditions.items(), start=1):
        if not isinstance(name, str) or not (_COLUMN.fullmatch(name) or _TAG.fullmatch(name)):
            yield f"conditions: column {position} is not a name; accepted: the name of a column, or a tag."
        elif (is_rendered or not is_template(value)) and (problem := _problem(value)):
            yield f"conditions[{name!r}] {problem}; accepted: {_ACCEPTED}."


def _problem(value: object) -> str | None:
    if isinstance(value, str):
        if is_nothing(value, is_rendered=True):
            return "is empty, or the text 'None'"
        if is_template(value):
            return "still holds a template: values that come from other tasks are data and are never rendered"
        return "is '*', which is no value: leave the condition out" if value == "*" else None
    if isinstance(value, bool | int | float | date):
        return None
    if value is None:
        return "is None, or a template in it renders to nothing"
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        for position, one in enumerate(value, start=1):
            if isinstance(one, list | tuple) or (problem := _problem(one)):
                described = "is a list" if isinstance(one, list | tuple) else problem
                return f"holds at position {position} a value that {described}"
        return None
    return f"is {type(value).__name__}"


def read_conditions(
    conditions: Mapping[str, object] | None, columns: Columns, table: object
) -> list[Condition]:
    """
    Return the conditions for a table.

    :param conditions: the rendered conditions.
    :param columns: the table's columns.
    :param table: the table, for error messages.
    :raises DicomExportInvalidRequestError: if the table has no such column, or the column no such value.
    :raises AirflowSkipException: if a list of values is empty.
    """
    return [
        _condition(f"condition_{number}", name, value, columns, table)
        for number, (name, value) in enumerate((conditions or {}).items())
    ]


def _condition(parameter: str, name: str, value: object, columns: Columns, table: object) -> Condition:
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise AirflowSkipException(f"conditions[{name!r}] is an empty list: there is nothing to export.")
    column = columns.get(name.lower())
    if column is None:
        return _metadata_condition(parameter, name, values, columns, table)
    read = [_read(name, one, column.type) for one in values]
    sql = f"`{column.name}` IN UNNEST(@{parameter})"
    if column.is_repeated:
        sql = _ANY_OF.format(values=f"`{column.name}`", parameter=parameter)
    return Condition(sql, parameter, _parameter_type(name, column.type), read, column.name)


def _metadata_condition(
    parameter: str, name: str, values: list[object], columns: Columns, table: object
) -> Condition:
    metadata = columns.get(METADATA.lower())
    tag = name.upper() if _TAG.fullmatch(name) else _TAGS.get(name)
    if metadata is None or metadata.type != "JSON":
        raise DicomExportInvalidRequestError(
            f"conditions[{name!r}]: {table} has no column of this name; accepted: columns of the table. A "
            "flattened table has a column only for data elements that some instance has."
        )
    if tag is None:
        raise DicomExportInvalidRequestError(
            f"conditions[{name!r}]: {table} has no column of this name, and in its column {METADATA} data "
            f"elements have tags as names; accepted: the tag, eight hexadecimal digits, a column of the "
            f"table, or one of {', '.join(_TAGS)}."
        )
    # The tag consists of hexadecimal digits: nothing of the caller's text gets into the query.
    elements = f"JSON_VALUE_ARRAY(`{metadata.name}`, '$.\"{tag}\".Value')"
    sql = _ANY_OF.format(values=elements, parameter=parameter)
    read: list[Value] = [_dicom_text(one) for one in values]
    return Condition(sql, parameter, "STRING", read, metadata.name)


def _dicom_text(value: object) -> str:
    """Return a value as the DICOM JSON model has it."""
    return f"{value:%Y%m%d}" if isinstance(value, date) else str(value)


def _parameter_type(name: str, column_type: str) -> str:
    kind = _PARAMETER_TYPES.get(column_type)
    if kind is None:
        raise DicomExportInvalidRequestError(
            f"conditions[{name!r}]: the column is of the type {column_type}, which cannot be compared with a "
            f"value; accepted: columns of the types {', '.join(_PARAMETER_TYPES)}."
        )
    return kind


#: The types of columns that can be compared, with the types of the parameters.
_PARAMETER_TYPES = {
    "STRING": "STRING",
    "DATE": "DATE",
    "INTEGER": "INT64",
    "INT64": "INT64",
    "FLOAT": "FLOAT64",
    "FLOAT64": "FLOAT64",
    "NUMERIC": "NUMERIC",
    "BOOLEAN": "BOOL",
    "BOOL": "BOOL",
    "TIMESTAMP": "TIMESTAMP",
}


def _read(name: str, value: object, column_type: str) -> Value:
    """Return the value that a parameter for a column has."""
    kind = _parameter_type(name, column_type)
    try:
        return _READERS.get(kind, _text)(value)
    except (ValueError, TypeError, OverflowError):
        raise DicomExportInvalidRequestError(
            f"conditions[{name!r}] holds a value that is no {kind}; accepted: values that the column, of the "
            f"type {column_type}, can have."
        ) from None


def _text(value: object) -> str:
    if isinstance(value, date | bool):
        raise TypeError
    return str(value)


def _date(value: object) -> date:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    match = _DATE.fullmatch(str(value))
    if match is None:
        raise ValueError
    return date(*map(int, match.groups()))


def _time(value: object) -> datetime:
    time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    if time.tzinfo is None:
        raise ValueError
    return time.astimezone(UTC)


def _whole(value: object) -> int:
    if isinstance(value, bool | float | date):
        raise TypeError
    return int(str(value))


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _number(value: object) -> float:
    if isinstance(value, bool | date):
        raise TypeError
    return float(str(value))


_READERS: dict[str, Callable[[object], Value]] = {
    "STRING": _text,
    "DATE": _date,
    "TIMESTAMP": _time,
    "INT64": _whole,
    "FLOAT64": _number,
    "NUMERIC": _text,
    "BOOL": _truth,
}
