"""What the command line puts into a server before it starts: DICOM stores, and a folder of DICOM files."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.models.archive import AlreadyStoredError
from airflow_provider_dicom.emulator.models.dicom_files import NotDicomError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from airflow_provider_dicom.emulator.server.state import ServerState

#: Files that are copied and read at a time; a bound on disk space and memory.
_BATCH = 200


class Skipped(NamedTuple):
    """A file that was not stored, and why."""

    path: Path
    reason: str


def create_stores(state: ServerState, names: Iterable[str]) -> None:
    """Create DICOM stores and their datasets, unless they exist.

    :param names: their full names.
    """
    for name in names:
        try:
            state.archive.create_store(name, {}, create_dataset=True)
        except ApiError as error:
            if error.status != "ALREADY_EXISTS":
                raise


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder, and of the folders in it, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def load(state: ServerState, store: str, paths: list[Path]) -> tuple[int, list[Skipped]]:
    """Store the DICOM files among some files; return their number, and the other files.

    :param store: the full name of the DICOM store.
    :param paths: the files.
    """
    skipped: list[Skipped] = []
    for start in range(0, len(paths), _BATCH):
        batch = paths[start : start + _BATCH]
        reasons = await asyncio.gather(*(_load_file(state, store, path) for path in batch))
        skipped += [Skipped(path, reason) for path, reason in zip(batch, reasons, strict=True) if reason]
    return len(paths) - len(skipped), skipped


async def _load_file(state: ServerState, store: str, path: Path) -> str | None:
    """Store a file, or return why it is not stored."""
    copy = state.archive.incoming / uuid.uuid4().hex
    try:
        await asyncio.to_thread(shutil.copyfile, path, copy)
        file = await state.reader.read(copy)
        await asyncio.to_thread(state.archive.add, store, copy, file)
    except NotDicomError as error:
        return str(error)
    except AlreadyStoredError:
        return "the DICOM store has another file with the same UIDs"
    finally:
        copy.unlink(missing_ok=True)
    return None
