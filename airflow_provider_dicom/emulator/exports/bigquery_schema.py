"""DICOM metadata as BigQuery rows, in the schemas of the API's exports.

The flattened schema follows Google's page "Understanding the BigQuery DICOM schema" and the schema of public
tables that the API exported (``dicom_metadata`` of the Imaging Data Commons):

- There is a column for each data element, named by its keyword, in the order of the tags.
- Decimal and integer strings stay strings.
- A data element with a value multiplicity above one is repeated, a sequence is a repeated record, a person
  name is a record of records, an element of repeating groups is a record of ``Id`` and ``Value``.
- Private elements, and values that do not fit their column, are in ``OtherElements``; private sequences are
  in columns ``Tag_GGGGEEEE``.
- Binary values are left out, and named in ``DroppedTags``.

The JSON schema follows ``SchemaJSON`` in the discovery document.

Assumptions that were not verified against an export of the real API: the ``Id`` of elements of repeating
groups; ``TagReference``; the place of ``SourceDicomStore``; the keys of ``Metadata`` are tags, as in the
DICOM JSON model; the JSON schema's ``DroppedTags`` leave out binary values.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydicom.datadict import (
    dictionary_has_tag,
    dictionary_VM,
    dictionary_VR,
    keyword_for_tag,
)
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, DT, TM, PersonName

from airflow_provider_dicom.emulator.exports.bigquery_columns import Column, Columns, merge, ordered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pydicom.dataelem import DataElement, RawDataElement
    from pydicom.dataset import Dataset, FileDataset
    from pydicom.tag import BaseTag

    from airflow_provider_dicom.emulator.messages import Json, JsonObject
    from airflow_provider_dicom.emulator.models.instances import StoredInstance

SchemaKind: TypeAlias = Literal["default", "flattened", "json"]
#: The values of a row by column.
Row: TypeAlias = "JsonObject"

BULK_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
#: FloatPixelData, DoubleFloatPixelData, PixelData.
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_STRING_VRS = ("AE", "AS", "CS", "DS", "IS", "LO", "LT", "SH", "ST", "UC", "UI", "UR", "UT")
_INTEGER_VRS = ("AT", "SL", "SS", "SV", "UL", "US", "UV")
# BigQuery's limit for nested records; each level of sequences is one.
MAX_DEPTH = 15
_NAME_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def storage_columns(*, is_json: bool, include_source_store: bool) -> Columns:
    """Return the columns about storage, which follow those of the metadata."""
    columns = (
        {
            "StructuredStorageSize": Column("INTEGER"),
            "DroppedTags": Column("STRING", "REPEATED"),
            "StorageClass": Column("STRING"),
            "LastUpdated": Column("TIMESTAMP"),
            "BlobStorageSize": Column("INTEGER"),
            "Type": Column("STRING"),
        }
        if is_json
        else {
            "DroppedTags": Column(
                "RECORD", "REPEATED", {"TagName": Column("STRING"), "TagReference": Column("STRING")}
            ),
            "Type": Column("STRING"),
            "LastUpdated": Column("TIMESTAMP"),
            "StorageClass": Column("STRING"),
            "BlobStorageSize": Column("INTEGER"),
        }
    )
    return columns | ({"SourceDicomStore": Column("STRING")} if include_source_store else {})


class RowMaker:
    """Converts instances to rows, and collects the columns that the rows need.

    :param schema: the schema of the API that rows follow.
    :param include_source_store: whether rows have a column with the name of the DICOM store.
    """

    def __init__(self, schema: SchemaKind, *, include_source_store: bool) -> None:
        self._metadata: Columns = {name: Column("STRING") for name in _UIDS}
        self._is_json = schema == "json"
        self._include_source_store = include_source_store
        if self._is_json:
            self._metadata["Metadata"] = Column("JSON")

    @property
    def columns(self) -> Columns:
        """The columns of all rows so far, in the order of the API's tables."""
        return (self._metadata if self._is_json else ordered(self._metadata)) | self._storage

    @property
    def _storage(self) -> Columns:
        return storage_columns(is_json=self._is_json, include_source_store=self._include_source_store)

    def add_columns(self, columns: Columns) -> None:
        """Add the columns that another RowMaker of the same schema has collected.

        :raises ValueError: a column exists with another type or mode.
        """
        storage = self._storage
        merge(self._metadata, {name: column for name, column in columns.items() if name not in storage})

    def row(self, instance: StoredInstance) -> Row:
        """Return the row of an instance."""
        ds, pixels = _read(instance.path)
        row: Row = {}
        if self._is_json:
            row["Metadata"], dropped = _json_model(ds)
            row["StructuredStorageSize"] = len(json.dumps(row))
        else:
            conversion = _Conversion(_offset(ds))
            row |= conversion.record(ds.file_meta, self._metadata)
            conversion.dropped.clear()
            row |= conversion.record(ds, self._metadata)
            for tag in pixels:
                conversion.drop(tag)
            dropped = conversion.dropped
        row |= {
            "StudyInstanceUID": instance.study_uid,
            "SeriesInstanceUID": instance.series_uid,
            "SOPInstanceUID": instance.instance_uid,
            "DroppedTags": dropped,
            "Type": "INSERT" if self._is_json else "CREATE",
            "LastUpdated": instance.last_updated.astimezone(UTC).isoformat(),
            "StorageClass": "STANDARD",
            "BlobStorageSize": instance.path.stat().st_size,
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


def _read(path: Path) -> tuple[FileDataset, list[BaseTag]]:
    """Return an instance up to its pixel data, and the tag of its pixel data, if it has any."""
    pixels: list[BaseTag] = []

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in _PIXEL_TAGS:
            pixels.append(tag)
        return bool(pixels)

    with path.open("rb") as file:
        return read_partial(file, stop), pixels


class _Conversion:
    """The conversion of one instance; ``dropped`` names the elements that no column can hold."""

    def __init__(self, offset: timezone) -> None:
        self.dropped: list[Json] = []
        self._converters = _CONVERTERS | {"DT": ("TIMESTAMP", lambda value: _timestamp(value, offset))}

    def record(self, ds: Dataset, columns: Columns, depth: int = 1) -> Row:
        row: Row = {}
        for tag in sorted(ds.keys()):
            if tag.element == 0:
                continue
            if _is_bulk(ds, tag):
                self.drop(tag)
                continue
            try:
                self._add(ds[tag], row, columns, depth)
            except (ValueError, TypeError, OverflowError, AttributeError, NotImplementedError):
                # The value is invalid for its VR, or the column has another type already.
                self._add_other(ds.get_item(tag), row, columns)
        return row

    def drop(self, tag: BaseTag) -> None:
        """Name an element that the row lacks."""
        self.dropped.append(
            {"TagName": keyword_for_tag(tag) or _tag_name(tag), "TagReference": _tag_name(tag)}
        )

    def _add(self, element: DataElement, row: Row, columns: Columns, depth: int) -> None:
        keyword = "" if element.tag.is_private else keyword_for_tag(element.tag)
        if element.VR == "SQ":
            if depth > MAX_DEPTH:
                raise ValueError("nested too deeply")
            name = keyword or _tag_name(element.tag)
            row[name] = self._items(element, _column(columns, name, Column("RECORD", "REPEATED")), depth)
        elif not keyword:
            self._add_other(element, row, columns)
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

    def _add_other(self, element: DataElement | RawDataElement, row: Row, columns: Columns) -> None:
        """Add an element that has no column of its own as texts."""
        if element.VR == "SQ":
            self.drop(element.tag)
            return
        data: list[Json] = [*_texts(element)]
        other = {"Tag": Column("STRING"), "Data": Column("STRING", "REPEATED")}
        _column(columns, "OtherElements", Column("RECORD", "REPEATED", other))
        _list(row, "OtherElements").append({"Tag": _tag_name(element.tag), "Data": data})

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


def _is_bulk(ds: Dataset, tag: BaseTag) -> bool:
    """Tell whether an element is binary; its value is not parsed if its VR is known without that."""
    item = ds.get_item(tag)
    if item.VR is not None:
        return item.VR in BULK_VRS
    try:
        return ds[tag].VR in BULK_VRS
    except (ValueError, TypeError, NotImplementedError):
        return False


def _texts(element: DataElement | RawDataElement) -> Iterator[str]:
    if isinstance(element.value, bytes):
        # The value was not parsed, or cannot be.
        yield from (text.strip() for text in element.value.decode("latin-1").strip("\0").split("\\"))
    else:
        yield from map(str, _values(element))


def _values(element: DataElement | RawDataElement) -> Iterator[Any]:
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
    if not any(group.strip("^ ") for group in groups):
        raise ValueError("a name without a component")
    return {
        name: {
            component: part
            for component, part in zip(_NAME_COMPONENTS, group.split("^"), strict=False)
            if part
        }
        for name, group in zip(_NAME_GROUPS, groups, strict=True)
        if group
    }


def _json_model(ds: Dataset) -> tuple[Row, list[Json]]:
    """Return the metadata in the DICOM JSON model, and the names of the elements that it cannot hold."""
    model: Row = {}
    dropped: list[Json] = []
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
        if _is_bulk(ds, tag):
            del ds[tag]
        elif ds.get_item(tag).VR in (None, "SQ"):
            with suppress(ValueError, TypeError, NotImplementedError):
                if ds[tag].VR == "SQ":
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
