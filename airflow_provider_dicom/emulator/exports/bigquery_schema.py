"""DICOM metadata as BigQuery rows, in the schemas of the API's exports.

The flattened schema follows Google's page "Understanding the BigQuery DICOM schema" and the schema of a
public table that the API exported (``dicom_all`` of the Imaging Data Commons): a column per data element,
named by its keyword; decimal and integer strings stay strings; a data element with a value multiplicity above
one is repeated; sequences are repeated records; a person name is a record of records; private elements are in
``OtherElements``, private sequences in columns ``Tag_GGGGEEEE``; binary values are left out. The JSON schema
follows the description of ``SchemaJSON`` in the discovery document.

Assumptions that were not verified against an export of the real API: a request without a schema gets the
flattened one; the flattened schema has the storage columns that are documented for the JSON schema; the
``Id`` of elements of repeating groups; the value of ``Type``; the keys of ``Metadata`` are tags, as in the
DICOM JSON model.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, DT, TM, PersonName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag

    from airflow_provider_dicom.emulator.messages import Json, JsonObject
    from airflow_provider_dicom.emulator.models.instances import StoredInstance

SchemaKind: TypeAlias = Literal["default", "flattened", "json"]
#: The values of a row by column.
Row: TypeAlias = "JsonObject"

BULK_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_STRING_VRS = ("AE", "AS", "CS", "DS", "IS", "LO", "LT", "SH", "ST", "UC", "UI", "UR", "UT")
_INTEGER_VRS = ("AT", "SL", "SS", "SV", "UL", "US", "UV")
# BigQuery's limit for nested records; each level of sequences is one.
MAX_DEPTH = 15
_NAME_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


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


def storage_columns(*, include_source_store: bool) -> Columns:
    """Return the columns about storage, which every table has."""
    columns = {
        "StructuredStorageSize": Column("INTEGER"),
        "DroppedTags": Column("STRING", "REPEATED"),
        "StorageClass": Column("STRING"),
        "LastUpdated": Column("TIMESTAMP"),
        "BlobStorageSize": Column("INTEGER"),
        "Type": Column("STRING"),
    }
    return columns | ({"SourceDicomStore": Column("STRING")} if include_source_store else {})


class RowMaker:
    """Converts instances to rows, and collects the columns that the rows need, in :attr:`columns`.

    :param schema: the schema of the API that rows follow.
    :param include_source_store: whether rows have a column with the name of the DICOM store.
    """

    def __init__(self, schema: SchemaKind, *, include_source_store: bool) -> None:
        self.columns: Columns = {name: Column("STRING") for name in _UIDS}
        self._json = schema == "json"
        self._include_source_store = include_source_store
        if self._json:
            self.columns["Metadata"] = Column("JSON")
        self._storage_columns = storage_columns(include_source_store=include_source_store)
        self.columns |= self._storage_columns

    def row(self, instance: StoredInstance) -> Row:
        """Return the row of an instance."""
        ds = dcmread(instance.path, stop_before_pixels=True)
        row: Row = {}
        if self._json:
            metadata, dropped = _json_model(ds)
            row["Metadata"] = metadata
        else:
            conversion = _Conversion(_offset(ds))
            row |= conversion.record(ds.file_meta, self.columns)
            row |= conversion.record(ds, self.columns)
            dropped = conversion.dropped
        structured_size = len(json.dumps(row))
        row |= {
            "StudyInstanceUID": instance.study_uid,
            "SeriesInstanceUID": instance.series_uid,
            "SOPInstanceUID": instance.instance_uid,
            "StructuredStorageSize": structured_size,
            "DroppedTags": [*dropped],
            "StorageClass": "STANDARD",
            "LastUpdated": instance.last_updated.astimezone(UTC).isoformat(),
            "BlobStorageSize": instance.path.stat().st_size,
            "Type": "INSERT",
        }
        if self._include_source_store:
            row["SourceDicomStore"] = instance.dicom_store
        return row

    def deletion(self, instance: StoredInstance) -> Row:
        """Return the row of a deletion: UIDs, time and type."""
        row: Row = {
            "StudyInstanceUID": instance.study_uid,
            "SeriesInstanceUID": instance.series_uid,
            "SOPInstanceUID": instance.instance_uid,
            "LastUpdated": datetime.now(UTC).isoformat(),
            "Type": "DELETE",
        }
        if self._include_source_store:
            row["SourceDicomStore"] = instance.dicom_store
        return row


_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


class _Conversion:
    """The conversion of one instance; ``dropped`` names the elements that no column can hold."""

    def __init__(self, offset: timezone) -> None:
        self.dropped: list[str] = []
        self._converters = _CONVERTERS | {"DT": ("TIMESTAMP", lambda value: _timestamp(value, offset))}

    def record(self, ds: Dataset, columns: Columns, depth: int = 1) -> Row:
        row: Row = {}
        for tag in sorted(ds.keys()):
            try:
                self._add(ds[tag], row, columns, depth)
            except (ValueError, TypeError, OverflowError, AttributeError, NotImplementedError):
                # The value is invalid for its VR, or the column has another type already.
                self.dropped.append(keyword_for_tag(tag) or _tag_name(tag))
        return row

    def _add(self, element: DataElement, row: Row, columns: Columns, depth: int) -> None:
        if element.VR in BULK_VRS or element.tag.element == 0:
            return
        keyword = "" if element.tag.is_private else keyword_for_tag(element.tag)
        if element.VR == "SQ":
            if depth > MAX_DEPTH:
                raise ValueError("nested too deeply")
            name = keyword or _tag_name(element.tag)
            row[name] = self._items(element, _column(columns, name, Column("RECORD", "REPEATED")), depth)
        elif not keyword:
            other = Column(
                "RECORD", "REPEATED", {"Tag": Column("STRING"), "Data": Column("STRING", "REPEATED")}
            )
            _column(columns, "OtherElements", other)
            data = [str(value) for value in _values(element)]
            _list(row, "OtherElements").append({"Tag": _tag_name(element.tag), "Data": [*data]})
        elif not dictionary_has_tag(element.tag):
            # An element of a repeating group, such as an overlay.
            column, value = self._value(element)
            group = Column("RECORD", "REPEATED", {"Id": Column("STRING"), "Value": column})
            _column(columns, keyword, group)
            _list(row, keyword).append({"Id": f"{element.tag.group:04X}", "Value": value})
        else:
            column, value = self._value(element)
            _column(columns, keyword, column)
            if value is not None:
                row[keyword] = value

    def _items(self, element: DataElement, column: Column, depth: int) -> Json:
        return [self.record(item, column.fields, depth + 1) for item in element.value]

    def _value(self, element: DataElement) -> tuple[Column, Json]:
        kind, convert = self._converters[element.VR]
        # The type of a column comes from the dictionary, not from the first instance, whose VR may be wrong.
        known = [vr for vr in dictionary_VR(element.tag).split(" or ") if vr in self._converters]
        if known and kind not in {self._converters[vr][0] for vr in known}:
            raise ValueError("the VR is not the one of the dictionary")
        repeated = dictionary_VM(element.tag) != "1"
        fields = _PERSON_NAME if element.VR == "PN" else {}
        column = Column(kind, "REPEATED" if repeated else "NULLABLE", fields)
        values: list[Json] = [convert(value) for value in _values(element)]
        if repeated:
            return column, values
        if len(values) > 1:
            raise ValueError("several values where one is allowed")
        return column, values[0] if values else None


def _column(columns: Columns, name: str, column: Column) -> Column:
    merge(columns, {name: column})
    return columns[name]


def _list(row: Row, name: str) -> list[Json]:
    value = row.setdefault(name, [])
    if not isinstance(value, list):
        raise TypeError(name)
    return value


def _tag_name(tag: BaseTag) -> str:
    return f"Tag_{tag:08X}"


def _values(element: DataElement) -> Iterator[Any]:
    value = element.value
    for one in value if isinstance(value, MultiValue | list) else [value]:
        if one is not None and one != "":
            yield one


def _number(value: float) -> Json:
    # JSON has no infinities and NaN; BigQuery accepts their names.
    return value if math.isfinite(value) else str(value)


def _integer(value: int) -> Json:
    if not -(2**63) <= value < 2**63:
        raise OverflowError(value)
    return int(value)


def _date(value: str) -> Json:
    parsed = DA(value)
    return None if parsed is None else parsed.isoformat()


def _time(value: str) -> Json:
    parsed = TM(value)
    return None if parsed is None else parsed.isoformat()


def _timestamp(value: str, offset: timezone) -> Json:
    parsed = DT(value)
    if parsed is None:
        return None
    moment = datetime.fromisoformat(parsed.isoformat())
    return (moment if moment.tzinfo else moment.replace(tzinfo=offset)).astimezone(UTC).isoformat()


def _offset(ds: Dataset) -> timezone:
    """Return the time zone of date-times without an offset of their own."""
    value = str(ds.get("TimezoneOffsetFromUTC") or "+0000").strip()
    try:
        offset = timedelta(hours=int(value[1:3]), minutes=int(value[3:5]))
        return timezone(-offset if value[0] == "-" else offset)
    except ValueError:
        return UTC


def _person_name(value: PersonName) -> Json:
    groups = (value.alphabetic, value.ideographic, value.phonetic)
    return {
        name: {
            component: part
            for component, part in zip(_NAME_COMPONENTS, group.split("^"), strict=False)
            if part
        }
        for name, group in zip(_NAME_GROUPS, groups, strict=True)
        if group
    }


def _json_model(ds: Dataset) -> tuple[Row, list[str]]:
    """Return the metadata in the DICOM JSON model, and the names of the elements that it cannot hold."""
    model: Row = {}
    dropped = []
    _strip_bulk(ds)
    for tag in sorted(ds.keys()):
        try:
            element = ds[tag].to_json_dict(None, 0)
            json.dumps(element, allow_nan=False)
        except (ValueError, TypeError, OverflowError, AttributeError, NotImplementedError):
            dropped.append(keyword_for_tag(tag) or _tag_name(tag))
        else:
            model[f"{tag:08X}"] = element
    return model, dropped


def _strip_bulk(ds: Dataset) -> None:
    for tag in list(ds.keys()):
        # ds[tag] parses the value, which may fail; the VR of most elements is known without that.
        item = ds.get_item(tag)
        try:
            element = ds[tag] if item.VR in (None, "SQ") else item
        except (ValueError, TypeError, NotImplementedError):
            continue
        if element.VR in BULK_VRS:
            del ds[tag]
        elif element.VR == "SQ":
            for part in ds[tag].value:
                _strip_bulk(part)


_PERSON_NAME: Columns = {
    group: Column("RECORD", fields={name: Column("STRING") for name in _NAME_COMPONENTS})
    for group in _NAME_GROUPS
}
_CONVERTERS: dict[str, tuple[str, Callable[[Any], Json]]] = {
    **dict.fromkeys(_STRING_VRS, ("STRING", str)),
    **dict.fromkeys(_INTEGER_VRS, ("INTEGER", _integer)),
    **dict.fromkeys(("FD", "FL"), ("FLOAT", _number)),
    "DA": ("DATE", _date),
    "TM": ("TIME", _time),
    "PN": ("RECORD", _person_name),
}
