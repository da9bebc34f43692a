"""
The text of queries of a metadata table, by the columns that the table has.

Tables differ. Those of exports and streams have the columns ``LastUpdated`` and ``Type``; with change data
capture, ``Type`` is missing, and deletions remove rows; tables from before September 2022 have neither.
``LastUpdated`` is the time of the last change of an instance, of which its arrival is only the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_dicom.api.dicomweb import SearchLevel
    from airflow_provider_dicom.selection.conditions import Columns, Condition

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_DEPTH: dict[SearchLevel, int] = {"studies": 1, "series": 2, "instances": 3}
_TIME, _TYPE, _SIZE, _CLASS, _FRAMES = (
    "LastUpdated",
    "Type",
    "BlobStorageSize",
    "StorageClass",
    "NumberOfFrames",
)
#: The storage classes whose data costs money to read.
PRICED_CLASSES = ("COLDLINE", "ARCHIVE")
_OLD_TABLE = (
    "Tables that the API wrote before September 2022 lack it. Export the DICOM store to a new table, or with "
    "write_disposition='WRITE_TRUNCATE' to this one"
)

# The latest row of an instance decides: a deleted instance cannot be exported, and an instance that was
# stored again after @until belongs to the next window. Equal times are normal: a deletion may have the time
# of the row that it deletes.
_LATEST = """
  SELECT {columns},
    ROW_NUMBER() OVER (PARTITION BY {uids} ORDER BY {order}) AS age{deleted}
  FROM `{table}`
"""
_DELETED = """,
    MAX(IF({type} = 'DELETE', {time}, NULL)) OVER (PARTITION BY {uids}) AS deleted"""
# An instance arrives with its first row, or with the first one after a deletion.
_WITH_ARRIVAL = """
  SELECT *,
    MIN(IF(deleted IS NULL OR {time} > deleted, {time}, NULL)) OVER (PARTITION BY {uids}) AS arrival
  FROM ({rows})
"""
# The sizes are those of the whole studies or series, which are exported as they are.
_ARRIVALS = """
SELECT {uids}, COUNT(*) AS instances, {size} AS size, {priced} AS priced
FROM (SELECT *, {conditions} AS is_selected FROM ({rows}) WHERE {is_latest})
GROUP BY {uids}
HAVING LOGICAL_OR(is_selected)
"""
_INSTANCES = """
SELECT {uids}, MAX({frames}) AS frames
FROM ({rows})
WHERE {conditions}
GROUP BY {uids}
"""


class TableColumns(NamedTuple):
    """
    A table and its columns.

    :param table: the table, for error messages.
    :param quoted: the table's name in queries.
    :param columns: the columns.
    """

    table: str
    quoted: str
    columns: Columns

    def has(self, name: str) -> bool:
        """
        Tell whether the table has a column.

        :param name: the column's name.
        """
        return name.lower() in self.columns

    def require(self, name: str, kind: str, why: str) -> None:
        """
        Refuse a table without a column.

        :param name: the column's name.
        :param kind: the column's type.
        :param why: what the query needs the column for, and what to do, as sentences without a full stop.
        :raises DicomExportInvalidRequestError: if the table has no such column.
        """
        column = self.columns.get(name.lower())
        if column is None or column.type != kind:
            found = "no column" if column is None else f"another type ({column.type}) of the column"
            raise DicomExportInvalidRequestError(
                f"{self.table} has {found} {name} of the type {kind}: {why}."
            )

    def latest_rows(self, columns: Sequence[str] = (), *, with_arrival: bool = False) -> str:
        """
        Return the query of all rows with their ``age``, from 1 for the latest row of an instance.

        :param columns: further columns.
        :param with_arrival: add the time at which an instance arrived.
        """
        uids = ", ".join(UIDS)
        has_type = self.has(_TYPE)
        names = [*UIDS, _TIME, *([_TYPE] if has_type else []), *columns]
        selected = {name.lower(): name for name in names}.values()
        rows = _LATEST.format(
            columns=", ".join(f"`{name}`" for name in selected),
            uids=uids,
            order=f"{_TIME} DESC" + (f", IF({_TYPE} = 'DELETE', 0, 1)" if has_type else ""),
            table=self.quoted,
            deleted=_DELETED.format(type=_TYPE, time=_TIME, uids=uids) if with_arrival else "",
        )
        return _WITH_ARRIVAL.format(time=_TIME, uids=uids, rows=rows) if with_arrival else rows

    def is_latest(self) -> str:
        """Return the condition of rows that describe an instance as it is now."""
        return "age = 1" + (f" AND COALESCE({_TYPE}, '') <> 'DELETE'" if self.has(_TYPE) else "")


def refuse_other_tables(source: TableColumns) -> None:
    """
    Refuse a table that does not hold the metadata of instances.

    :param source: the table.
    :raises DicomExportInvalidRequestError: if the table lacks UIDs.
    """
    for name in UIDS:
        source.require(name, "STRING", "it is not a table of an export or a stream of a DICOM store")


def arrivals_query(
    source: TableColumns, level: SearchLevel, conditions: Sequence[Condition], *, only_arrivals: bool
) -> str:
    """
    Return the query of what was stored or changed after ``@since`` and not after ``@until``.

    Its columns are the UIDs; the number of instances of the study or series, or 1; their size in bytes; and
    the part of the size whose reading is priced. Sizes are NULL where the table has none.

    :param source: the table.
    :param level: studies, series or instances.
    :param conditions: the conditions of the latest row of an instance.
    :param only_arrivals: leave out instances that had arrived before ``@since``.
    :raises DicomExportInvalidRequestError: if the table lacks a column that the query needs.
    """
    source.require(_TIME, "TIMESTAMP", f"nothing tells when an instance was stored. {_OLD_TABLE}")
    if only_arrivals:
        source.require(
            _TYPE,
            "STRING",
            "the table keeps no earlier rows of an instance (change data capture), so that an arrival cannot "
            "be told from a change. Leave only_arrivals out",
        )
    uids = ", ".join(UIDS[: _DEPTH[level]])
    sized = [name for name in (_SIZE, _CLASS) if source.has(name)]
    size = f"SUM({_SIZE})" if _SIZE in sized else "CAST(NULL AS INT64)"
    priced = "CAST(NULL AS INT64)"
    if len(sized) == 2:
        classes = ", ".join(f"'{name}'" for name in PRICED_CLASSES)
        priced = f"SUM(IF({_CLASS} IN ({classes}), {_SIZE}, 0))"
    rows = source.latest_rows(
        [*sized, *(condition.column for condition in conditions)], with_arrival=only_arrivals
    )
    selected = [
        f"{_TIME} > @since",
        f"{_TIME} <= @until",
        *(["arrival > @since"] if only_arrivals else []),
        *(condition.sql for condition in conditions),
    ]
    return _ARRIVALS.format(
        uids=uids,
        size=size,
        priced=priced,
        rows=rows,
        is_latest=source.is_latest(),
        conditions=" AND ".join(selected),
    )


def instances_query(source: TableColumns) -> str:
    """
    Return the query of all instances that are not deleted: their UIDs, and their numbers of frames.

    The number of frames is 0 where it is not known.

    :param source: the table.
    :raises DicomExportInvalidRequestError: if nothing tells whether an instance was deleted later.
    """
    frames = source.columns.get(_FRAMES.lower())
    is_known = frames is not None and not frames.is_repeated and frames.type in ("STRING", "INTEGER", "INT64")
    # An instance without the attribute has one frame, but a table has a column only if some instance has it.
    number = "0"
    if is_known:
        number = f"IF({_FRAMES} IS NULL, 1, COALESCE(SAFE_CAST({_FRAMES} AS INT64), 0))"
    uids = ", ".join(UIDS)
    columns = [_FRAMES] if is_known else []
    if source.has(_TYPE):
        source.require(_TIME, "TIMESTAMP", "nothing tells whether an instance was deleted or stored last")
        rows, conditions = source.latest_rows(columns), source.is_latest()
    else:
        # Without the column, no row says that an instance was deleted.
        names = ", ".join([*UIDS, *columns])
        rows, conditions = f"SELECT {names} FROM `{source.quoted}`", "TRUE"  # noqa: S608 - validated names
    return _INSTANCES.format(uids=uids, frames=number, rows=rows, conditions=conditions)
