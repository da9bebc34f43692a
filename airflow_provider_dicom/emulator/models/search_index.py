"""The index of searches: the values that attributes of patients, studies and series have in each study.

Invariant: a study with an instance whose attribute has a value is found under that value. The reverse may be
untrue, because the values of deleted instances stay until their study is gone: what is found is a superset of
what matches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_dicom.emulator.models import dicom_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from sqlite3 import Connection

    from airflow_provider_dicom.emulator.models.database import Database
    from airflow_provider_dicom.emulator.models.dicom_files import Attributes

#: What is stored as PRAGMA user_version once all instances are in the index.
_COMPLETE = 1
_MODALITY, _MODALITIES_IN_STUDY = "00080060", "00080061"
#: UIDs need no index: they are columns of the instances.
_UID_COLUMNS = {"0020000D": "study", "0020000E": "series", "00080018": "instance"}
_TAGS = (dicom_files.STUDY_TAGS | dicom_files.SERIES_TAGS) - _UID_COLUMNS.keys()


@dataclass(frozen=True)
class Condition:
    """A condition of a search.

    :param tag: the attribute.
    :param matches: tells whether values of the attribute match.
    :param exact: the values that match, if they can be listed.
    """

    tag: str
    matches: Callable[[list[object]], bool]
    exact: tuple[str, ...] | None = None

    @property
    def column(self) -> str | None:
        """The column of the instances that holds the attribute, if its values can be listed."""
        return _UID_COLUMNS.get(self.tag) if self.exact else None


def texts(value: object) -> Iterator[str]:
    """Yield the texts that a search compares with: of a person name, one for each of its representations."""
    if isinstance(value, dict):
        for name in value.values():
            yield str(name).rstrip("^")
    else:
        yield str(value).strip()


def add(connection: Connection, series: tuple[str, str, str], attributes: Attributes) -> None:
    """Add the values of an instance.

    :param series: the store, the study and the series.
    :param attributes: those of the study and the series.
    """
    store, study, _ = series
    connection.executemany(
        "INSERT OR IGNORE INTO search_index VALUES (?, ?, ?, ?)",
        [
            (store, tag, text, study)
            for tag in attributes.keys() & _TAGS
            for value in attributes[tag].get("Value", [])
            for text in texts(value)
        ],
    )


def clean(connection: Connection, store: str) -> None:
    """Remove the values of studies that are gone."""
    connection.execute(
        "DELETE FROM search_index WHERE store = ? AND study IN (SELECT DISTINCT study FROM search_index"
        " WHERE store = ? EXCEPT SELECT study FROM studies WHERE store = ?)",
        (store, store, store),
    )


def complete(database: Database) -> None:
    """Add the instances that an earlier version stored without an index."""
    if int(database.rows("PRAGMA user_version")[0][0]) >= _COMPLETE:
        return
    with database.transaction() as connection:
        for store, study, series, attributes in connection.execute(
            "SELECT store, study, series, attributes FROM instances"
        ):
            add(connection, (store, study, series), json.loads(attributes))
        connection.execute(f"PRAGMA user_version = {_COMPLETE}")


def studies(database: Database, store: str, conditions: list[Condition]) -> list[str]:
    """Return the studies of a store that may match, in the order of their UIDs.

    :param conditions: those that the index does not know are ignored.
    """
    found: set[str] | None = None
    for condition in conditions:
        # Conditions that an absent attribute meets are met by studies that the index does not list.
        if condition.matches([]):
            continue
        matching = _matching(database, store, condition)
        if matching is not None:
            found = matching if found is None else found & matching
    if found is None:
        rows = database.rows("SELECT study FROM studies WHERE store = ? ORDER BY study", (store,))
        return [study for (study,) in rows]
    return sorted(found)


def _matching(database: Database, store: str, condition: Condition) -> set[str] | None:
    exact = condition.exact or ()
    marks = ", ".join("?" * len(exact))
    if condition.column is not None:
        rows = database.rows(
            f"SELECT DISTINCT study FROM instances WHERE store = ? AND {condition.column} IN ({marks})",  # noqa: S608
            (store, *exact),
        )
        return {study for (study,) in rows}
    tag = _MODALITY if condition.tag == _MODALITIES_IN_STUDY else condition.tag
    if tag not in _TAGS:
        return None
    if exact:
        rows = database.rows(
            f"SELECT study FROM search_index WHERE store = ? AND tag = ? AND value IN ({marks})",  # noqa: S608
            (store, tag, *exact),
        )
        return {study for (study,) in rows}
    rows = database.rows("SELECT value, study FROM search_index WHERE store = ? AND tag = ?", (store, tag))
    return {study for value, study in rows if condition.matches([value])}
