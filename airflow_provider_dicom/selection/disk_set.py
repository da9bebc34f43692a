"""A set of strings that may be larger than memory."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Self


class DiskSet:
    """
    A set of strings in a temporary file, so that memory does not grow with its size; iteration is sorted.

    :param values: the first values.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        # With an empty name, SQLite creates a temporary file that is deleted with the connection.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE members (value TEXT PRIMARY KEY) WITHOUT ROWID")
        self.update(values)

    def update(self, values: Iterable[str]) -> None:
        """
        Add values.

        :param values: the values; duplicates are ignored.
        """
        # One transaction: otherwise SQLite would write each value to disk separately.
        self._database.execute("BEGIN")
        self._database.executemany("INSERT OR IGNORE INTO members VALUES (?)", ((value,) for value in values))
        self._database.execute("COMMIT")

    def __len__(self) -> int:
        ((count,),) = self._database.execute("SELECT count(*) FROM members")
        return int(count)

    def __iter__(self) -> Iterator[str]:
        with closing(self._database.execute("SELECT value FROM members ORDER BY value")) as rows:
            for (value,) in rows:
                yield value

    def __contains__(self, value: object) -> bool:
        found = self._database.execute("SELECT 1 FROM members WHERE value = ?", (value,))
        return found.fetchone() is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
