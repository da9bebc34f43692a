"""The lines of a filter file and of its parts: resource paths in order, each once, with their volumes."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_dicom.selection.volume import Volume

if TYPE_CHECKING:
    from typing import IO

_LINES_AT_A_TIME = 4_096


class SelectedPath(NamedTuple):
    """
    A resource path, and how much data it stands for.

    :param path: the resource path.
    :param volume: the data, as far as it is known.
    """

    path: str
    volume: Volume


class Part(NamedTuple):
    """
    A part of a filter file.

    :param start: the first byte of the part.
    :param end: the byte after the part.
    :param volume: the data of the part.
    """

    start: int
    end: int
    volume: Volume


class FilterWriter:
    """
    Writes sorted lines to a filter file, each path once, and notes where its parts begin.

    :param file: the file.
    :param max_paths_per_part: the largest number of paths in a part; not split if not given.
    """

    def __init__(self, file: IO[bytes], max_paths_per_part: int | None) -> None:
        self._file = file
        self._max_paths = max_paths_per_part
        self._digest, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._lines: list[bytes] = []
        self._last = b""
        self._total, self._part = _Sum(), _Sum()
        self._start = 0
        self._parts: list[Part] = []

    def write(self, line: bytes) -> None:
        """
        Write the path of a line, unless the line before has the same.

        :param line: the line of a :class:`SelectedPath`.
        """
        path, _, numbers = line.rstrip(b"\n").partition(b"\t")
        if path == self._last:
            return
        if self._part.paths == self._max_paths:
            self._end_part()
        self._last = path
        self._lines.append(path)
        if len(self._lines) >= _LINES_AT_A_TIME:
            self._flush()
        self._part.add(numbers)

    def _flush(self) -> None:
        if self._lines:
            text = b"\n".join([*self._lines, b""])
            self._lines.clear()
            self._file.write(text)
            self._digest.update(text)
            self._md5.update(text)

    def _end_part(self) -> None:
        self._flush()
        end = self._file.tell()
        if self._part.paths:
            self._parts.append(Part(self._start, end, self._part.volume()))
        self._total.add_sum(self._part)
        self._part, self._start = _Sum(), end

    def end(self) -> tuple[str, str, Volume, list[Part]]:
        """Return digest, MD5, volume and parts of the file."""
        self._end_part()
        self._file.flush()
        parts = [] if self._max_paths is None else self._parts
        return self._digest.hexdigest(), md5_notation(self._md5), self._total.volume(), parts


class _Sum:
    """Adds up the volumes of paths; of what is not known of each path, no sum is known."""

    def __init__(self) -> None:
        self.paths = 0
        self._known = [0, 0, 0]
        self._sums = [0, 0, 0]

    def add(self, numbers: bytes) -> None:
        self.paths += 1
        if numbers:
            for index, number in enumerate(numbers.split(b"\t")):
                if number:
                    self._known[index] += 1
                    self._sums[index] += int(number)

    def add_sum(self, other: _Sum) -> None:
        self.paths += other.paths
        for index in range(3):
            self._known[index] += other._known[index]
            self._sums[index] += other._sums[index]

    def volume(self) -> Volume:
        known = [
            total if known == self.paths else None
            for known, total in zip(self._known, self._sums, strict=True)
        ]
        return Volume(self.paths, *known)


def encoded(selected: str | SelectedPath) -> bytes:
    """
    Return the line that is sorted: a path, and what is known of its volume.

    :param selected: the path.
    """
    if isinstance(selected, str):
        return f"{selected}\n".encode("ascii")
    path, volume = selected
    numbers = ("" if value is None else value for value in (volume.instances, volume.size, volume.priced))
    return "{}\t{}\t{}\t{}\n".format(path, *numbers).encode("ascii")


def md5_notation(md5: hashlib._Hash) -> str:
    """
    Return an MD5 in Cloud Storage's notation.

    :param md5: the MD5.
    """
    return base64.b64encode(md5.digest()).decode()
