"""The SQLite file that keeps datasets, stores, metadata and operations across restarts."""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from airflow_provider_dicom.emulator.names import ResourcePath

_SCHEMA = """
CREATE TABLE IF NOT EXISTS datasets (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS stores (name TEXT PRIMARY KEY, dataset TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS stores_of_dataset ON stores (dataset, name);
CREATE TABLE IF NOT EXISTS studies (
    store TEXT NOT NULL, study TEXT NOT NULL, attributes TEXT NOT NULL, PRIMARY KEY (store, study)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS series (
    store TEXT NOT NULL, study TEXT NOT NULL, series TEXT NOT NULL, modality TEXT, attributes TEXT NOT NULL,
    PRIMARY KEY (store, study, series)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS instances (
    store TEXT NOT NULL, study TEXT NOT NULL, series TEXT NOT NULL, instance TEXT NOT NULL,
    sop_class TEXT, file TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    last_updated TEXT NOT NULL, attributes TEXT NOT NULL,
    PRIMARY KEY (store, study, series, instance)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS instances_by_uid ON instances (store, instance);
CREATE INDEX IF NOT EXISTS instances_by_series ON instances (store, series);
CREATE TABLE IF NOT EXISTS search_index (
    store TEXT NOT NULL, tag TEXT NOT NULL, value TEXT NOT NULL, study TEXT NOT NULL,
    PRIMARY KEY (store, tag, value, study)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS search_index_of_study ON search_index (store, study);
CREATE TABLE IF NOT EXISTS policies (resource TEXT PRIMARY KEY, policy TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS operations (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL, record TEXT NOT NULL
);
"""


class Database:
    """A SQLite file that any thread may use; a lock serialises the calls, all of which are short.

    :param path: the file, which is created if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Reserve the connection for this thread; commit at the end, or roll back on an exception."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def rows(self, sql: str, parameters: Sequence[str | int | None] = ()) -> list[tuple[str, ...]]:
        """Return the rows of a query."""
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def condition_below(path: ResourcePath) -> tuple[str, list[str]]:
    """Return the SQL condition, with its parameters, that selects the rows at and below a resource path.

    The condition starts with ``AND``; for the path of the whole store it is empty.
    """
    uids = {"study": path.study, "series": path.series, "instance": path.instance}
    given = {column: uid for column, uid in uids.items() if uid is not None}
    return "".join(f" AND {column} = ?" for column in given), list(given.values())


def lock_file(path: Path) -> TextIO:
    """Return an open file that no other process can lock.

    :raises RuntimeError: another process has locked it.
    """
    held = path.open("w")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RuntimeError(f"{path.parent} is in use by another process") from error
    return held
