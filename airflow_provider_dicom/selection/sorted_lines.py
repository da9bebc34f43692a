"""
Sorting of lines that may be larger than memory.

Runs of lines are sorted in memory and written to temporary files without names, which are then merged: disk
access is sequential, so that the time grows hardly faster than the number of lines.
"""

from __future__ import annotations

import heapq
import tempfile
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO

#: Characters of the lines in memory at a time; a line takes some 40 bytes more.
RUN_BYTES = 8 * 1024 * 1024
#: The number of runs that are merged at a time, each an open file.
MAX_RUNS = 200
#: Bytes of the buffer of each file.
BUFFER_BYTES = 32 * 1024


@contextmanager
def sorted_lines(lines: Iterable[bytes]) -> Iterator[Iterator[bytes]]:
    """
    Sort lines by their bytes; duplicates are kept.

    :param lines: the lines, each with its line feed.
    """
    with ExitStack() as files:
        runs: list[IO[bytes]] = []

        def write_run(sorted_run: Iterable[bytes]) -> IO[bytes]:
            file = files.enter_context(tempfile.TemporaryFile(buffering=BUFFER_BYTES))
            file.writelines(sorted_run)
            file.seek(0)
            return file

        run: list[bytes] = []
        size = 0
        for line in lines:
            run.append(line)
            size += len(line)
            if size < RUN_BYTES:
                continue
            run.sort()
            runs.append(write_run(run))
            run, size = [], 0
            if len(runs) == MAX_RUNS:
                merged = write_run(heapq.merge(*runs))
                for file in runs:
                    file.close()
                runs = [merged]
        run.sort()
        yield heapq.merge(*runs, run) if runs else iter(run)
