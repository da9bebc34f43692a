"""The state of a running server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_dicom.emulator.exports.changes import Changes
from airflow_provider_dicom.emulator.exports.runner import Runner
from airflow_provider_dicom.emulator.models.archive import Archive
from airflow_provider_dicom.emulator.models.operations import Operations
from airflow_provider_dicom.emulator.models.reading import Reader
from airflow_provider_dicom.emulator.server.faults import Faults
from airflow_provider_dicom.emulator.server.requests_log import RequestsLog
from airflow_provider_dicom.emulator.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """The maximum sizes of request bodies, in bytes.

    :param json: of JSON bodies; the limit of the Healthcare API.
    :param upload: of uploads (STOW-RS).
    """

    json: int = 10 * MIB
    upload: int = 1024 * MIB


@dataclass
class ServerState:
    """The state of a running server: what it stores, what it does, and what tests have set.

    :param tokens: the access tokens that are accepted; None: requests need no token.
    """

    archive: Archive
    operations: Operations
    runner: Runner
    settings: Settings
    limits: Limits
    changes: Changes
    reader: Reader = field(default_factory=Reader)
    faults: Faults = field(default_factory=Faults)
    requests: RequestsLog = field(default_factory=RequestsLog)
    tokens: frozenset[str] | None = None

    @classmethod
    def open(cls, directory: Path, limits: Limits) -> ServerState:
        """Open a data directory.

        :raises RuntimeError: another process uses the directory.
        """
        archive = Archive.open(directory)
        changes = Changes(archive)
        archive.listeners.append(changes)
        operations = Operations(archive.database)
        settings = Settings()
        return cls(archive, operations, Runner(archive, operations, settings), settings, limits, changes)

    async def close(self) -> None:
        """Stop all exports, and close the files."""
        await self.runner.close()
        self.reader.close()
        await asyncio.to_thread(self.changes.close)
        self.operations.close()
        self.archive.close()
