"""The columns of BigQuery tables with DICOM metadata, and their order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pydicom._dicom_dict import RepeatersDictionary
from pydicom.datadict import tag_for_keyword


@dataclass
class Column:
    """A column, or a field of a record.

    :param type: BigQuery's name of the type, such as ``STRING``.
    :param mode: ``NULLABLE`` or ``REPEATED``.
    :param fields: the fields of a record by name; empty for other types.
    """

    type: str
    mode: Literal["NULLABLE", "REPEATED"] = "NULLABLE"
    fields: Columns = field(default_factory=dict)


Columns: TypeAlias = dict[str, Column]


def merge(into: Columns, other: Columns) -> None:
    """Add missing columns, including missing fields of records.

    :param into: is changed.
    :raises ValueError: a column exists with another type or mode.
    """
    for name, column in other.items():
        present = into.setdefault(name, Column(column.type, column.mode))
        if (present.type, present.mode) != (column.type, column.mode):
            raise ValueError(
                f"column {name} is {present.mode} {present.type}, not {column.mode} {column.type}"
            )
        merge(present.fields, column.fields)


def covers(columns: Columns, other: Columns) -> bool:
    """Tell whether a table with ``columns`` can hold rows with the columns ``other``."""
    return all(
        name in columns
        and (columns[name].type, columns[name].mode) == (column.type, column.mode)
        and covers(columns[name].fields, column.fields)
        for name, column in other.items()
    )


def ordered(columns: Columns) -> Columns:
    """Return the columns of metadata in the order of the tags; private ones follow."""
    return {
        name: Column(column.type, column.mode, ordered(column.fields))
        for name, column in sorted(columns.items(), key=lambda item: _place(item[0]))
    }


def _place(name: str) -> tuple[int, str]:
    if name == "OtherElements":
        return 2, name
    if name.startswith("Tag_"):
        return 1, name
    tag = tag_for_keyword(name)
    # The parts of a person name are no elements; they stay in their own order.
    return 0, _REPEATING.get(name, "") if tag is None else f"{tag:08X}"


#: The elements of repeating groups: keyword -> first tag, such as 60000010.
_REPEATING = {entry[4]: tag.replace("xx", "00") for tag, entry in RepeatersDictionary.items()}
