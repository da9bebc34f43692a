"""The attributes of studies, series and instances that a search looks at, in the order of their UIDs.

The index says which studies may match; their rows are read in batches, only as far as the caller iterates.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, NamedTuple

from airflow_provider_dicom.emulator.models import search_index
from airflow_provider_dicom.emulator.models.database import condition_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_dicom.emulator.models.database import Database
    from airflow_provider_dicom.emulator.models.dicom_files import Attributes
    from airflow_provider_dicom.emulator.models.search_index import Condition
    from airflow_provider_dicom.emulator.names import ResourcePath

Level = Literal["studies", "series", "instances"]

#: Studies, or instances, whose attributes a search reads into memory at a time.
_BATCH = 500


#: UIDs that select rows at each level. A series is not searched by the UIDs of its instances, for example,
#: because it would lose the other instances in its counts.
_COLUMNS: dict[Level, tuple[str, ...]] = {
    "studies": ("study",),
    "series": ("study", "series"),
    "instances": ("study", "series", "instance"),
}


class _Where(NamedTuple):
    """The rows of a batch: a condition in SQL, and its parameters."""

    sql: str
    parameters: tuple[str, ...]


def candidates(
    database: Database, level: Level, store: str, below: ResourcePath, conditions: list[Condition]
) -> Iterator[Attributes]:
    """Yield the attributes of what may match, including those that the server computes (PS3.18, 10.6.3).

    :param level: what is searched for.
    :param below: the study or series that is searched, or the whole store.
    :param conditions: what does not meet them may be left out.
    """
    read = {"studies": _studies, "series": _series, "instances": _instances}[level]
    columns = [condition for condition in conditions if condition.column in _COLUMNS[level]]
    inside, uids = condition_below(below)
    for column in columns:
        inside += f" AND {column.column} IN ({_marks(column.exact)})"
        uids += column.exact or ()
    studies = [below.study] if below.study else search_index.studies(database, store, conditions)
    for start in range(0, len(studies), _BATCH):
        batch = studies[start : start + _BATCH]
        where = _Where(f"store = ? AND study IN ({_marks(batch)}){inside}", (store, *batch, *uids))
        yield from read(database, where)


def _marks(values: Iterable[str] | None) -> str:
    return ", ".join("?" for _ in values or ())


def _studies(database: Database, where: _Where) -> Iterator[Attributes]:
    counts: dict[str, tuple[int, int]] = {
        study: (int(series), int(instances))
        for study, series, instances in database.rows(
            "SELECT study, count(DISTINCT series), count(*) FROM instances"  # noqa: S608
            f" WHERE {where.sql} GROUP BY study",
            where.parameters,
        )
    }
    modalities = _values_of_study(database, "modality", "series", where)
    sop_classes = _values_of_study(database, "sop_class", "instances", where)
    for study, attributes in database.rows(
        f"SELECT study, attributes FROM studies WHERE {where.sql} ORDER BY study",  # noqa: S608
        where.parameters,
    ):
        series, instances = counts.get(study, (0, 0))
        yield {
            **json.loads(attributes),
            "00080061": _element("CS", modalities.get(study, [])),
            "00080062": _element("UI", sop_classes.get(study, [])),
            "00201206": _element("IS", [series]),
            "00201208": _element("IS", [instances]),
        }


def _values_of_study(database: Database, column: str, table: str, where: _Where) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for study, value in database.rows(
        f"SELECT DISTINCT study, {column} FROM {table}"  # noqa: S608
        f" WHERE {where.sql} AND {column} IS NOT NULL ORDER BY study, {column}",
        where.parameters,
    ):
        values.setdefault(study, []).append(value)
    return values


def _series(database: Database, where: _Where) -> Iterator[Attributes]:
    counts = {
        (study, series): int(instances)
        for study, series, instances in database.rows(
            f"SELECT study, series, count(*) FROM instances WHERE {where.sql} GROUP BY study, series",  # noqa: S608
            where.parameters,
        )
    }
    for study, series, attributes in database.rows(
        f"SELECT study, series, attributes FROM series WHERE {where.sql} ORDER BY study, series",  # noqa: S608
        where.parameters,
    ):
        yield {**json.loads(attributes), "00201209": _element("IS", [counts.get((study, series), 0)])}


def _instances(database: Database, where: _Where) -> Iterator[Attributes]:
    last = ("", "", "")
    while True:
        rows = database.rows(
            "SELECT study, series, instance, attributes FROM instances"  # noqa: S608
            f" WHERE {where.sql} AND (study, series, instance) > (?, ?, ?)"
            " ORDER BY study, series, instance LIMIT ?",
            (*where.parameters, *last, _BATCH),
        )
        for *_, attributes in rows:
            yield json.loads(attributes)
        if len(rows) < _BATCH:
            return
        last = rows[-1][0], rows[-1][1], rows[-1][2]


def _element(vr: str, values: Iterable[str | int]) -> dict[str, object]:
    values = list(values)
    return {"vr": vr, "Value": values} if values else {"vr": vr}
