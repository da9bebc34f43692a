"""Reads uploaded files: a few in threads of this process, many in processes of their own, on all cores.

pydicom is Python code, of which one process runs one thread at a time. The processes are started when the
first ``MANY`` files wait, because their start takes a second, and kept until the server ends.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from airflow_provider_dicom.emulator.models import dicom_files

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_dicom.emulator.models.dicom_files import DicomFile

#: Files that wait at the same time, from which on processes of their own read them.
MANY = 16
#: Each process takes some 60 MB of memory.
_MOST_PROCESSES = 8


class Reader:
    """Reads uploaded files; used on the server's event loop."""

    def __init__(self) -> None:
        self._waiting = 0
        self._pool: ProcessPoolExecutor | None = None

    async def read(self, path: Path) -> DicomFile:
        """Read an uploaded file.

        :raises NotDicomError: it is not a Part 10 file, or lacks a valid UID.
        """
        self._waiting += 1
        try:
            if self._pool is None and self._waiting >= MANY:
                self._pool = _pool()
            if self._pool is not None:
                try:
                    return await asyncio.get_running_loop().run_in_executor(
                        self._pool, dicom_files.read, path
                    )
                except BrokenProcessPool:
                    # A process was killed, by lack of memory for example.
                    self._pool = None
            return await asyncio.to_thread(dicom_files.read, path)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _pool() -> ProcessPoolExecutor:
    # Not forked: a fork of a process with threads may inherit locks that nobody releases.
    context = multiprocessing.get_context("spawn")
    processes = min(os.cpu_count() or 1, _MOST_PROCESSES)
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_begin)


def _begin() -> None:
    """Prepare a process of the pool: it ends with the server, which alone gets Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(0)
