"""A set of strings, and a mapping of strings to numbers, that may be larger than memory."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from airflow_provider_dicom.selection.sorted_lines import sorted_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Self


class DiskMap:
    """
    A mapping of strings to numbers in a temporary file, so that memory does not grow with its size.

    :param items: the strings, without tabs and line feeds, and their numbers; of a string that comes twice
        the largest number counts.
    """

    def __init__(self, items: Iterable[tuple[str, int]] = ()) -> None:
        # With an empty name, SQLite creates a temporary file that is deleted with the connection.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE members (value TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID"
        )
        try:
            self._add(items)
        except BaseException:
            self._database.close()
            raise

    def _add(self, items: Iterable[tuple[str, int]]) -> None:
        # Values that come in their order are appended to the table; others would be written to any place of
        # it, and with more values than fit into memory each insertion would read and write a page.
        with sorted_lines(f"{value}\t{number}\n".encode() for value, number in items) as lines:
            rows = (line.decode().rstrip("\n").split("\t") for line in lines)
            # One transaction: otherwise SQLite would write each value to disk separately.
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT INTO members VALUES (?, CAST(? AS INTEGER)) "
                "ON CONFLICT DO UPDATE SET number = max(number, excluded.number)",
                rows,
            )
            self._database.execute("COMMIT")

    def items(self) -> Iterator[tuple[str, int]]:
        """Yield the strings and their numbers, sorted by the strings."""
        with closing(self._database.execute("SELECT value, number FROM members ORDER BY value")) as rows:
            yield from rows

    def __len__(self) -> int:
        ((count,),) = self._database.execute("SELECT count(*) FROM members")
        return int(count)

    def __contains__(self, value: object) -> bool:
        found = self._database.execute("SELECT 1 FROM members WHERE value = ?", (value,))
        return found.fetchone() is not None

    def has_prefix(self, prefix: str) -> bool:
        """
        Tell whether a string begins with a prefix.

        :param prefix: the prefix.
        """
        first = self._database.execute(
            "SELECT value FROM members WHERE value >= ? ORDER BY value LIMIT 1", (prefix,)
        ).fetchone()
        return first is not None and first[0].startswith(prefix)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()


class DiskSet(DiskMap):
    """
    A set of strings in a temporary file, so that memory does not grow with its size; iteration is sorted.

    :param values: the values; duplicates are ignored.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        super().__init__((value, 0) for value in values)

    def __iter__(self) -> Iterator[str]:
        yield from (value for value, _ in self.items())
