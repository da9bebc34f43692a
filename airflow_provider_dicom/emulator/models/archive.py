"""Datasets, DICOM stores and the instances in them: metadata in SQLite, files in a directory.

A file is renamed from ``incoming/`` to ``files/`` inside the transaction that inserts its row: a row never
lacks its file because of a crash. A crash may leave a file without a row, which nothing refers to.
"""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.models import dicom_files, search_index
from airflow_provider_dicom.emulator.models.database import Database, condition_below, lock_file
from airflow_provider_dicom.emulator.models.instances import Metrics, StoredInstance
from airflow_provider_dicom.emulator.names import WHOLE_STORE, ResourcePath, dataset_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_provider_dicom.emulator.messages import JsonObject
    from airflow_provider_dicom.emulator.models.dicom_files import DicomFile


#: The actions of notifications.
STORE_INSTANCES = "StoreInstances"
IMPORT_DICOM_DATA = "ImportDicomData"
DELETE_INSTANCES = "DeleteInstances"


class AlreadyStoredError(Exception):
    """The store contains a different file with the same UIDs."""


@dataclass(frozen=True)
class Archive:
    """The content of a data directory.

    :param directory: the data directory.
    :param database: its SQLite file.
    :param lock: a file lock, held until :meth:`close`, that keeps other processes out of the directory.
    :param listeners: are told of every change, with its action and the instances; their files exist then.
    """

    directory: Path
    database: Database
    lock: TextIO
    listeners: list[Callable[[str, list[StoredInstance]], None]] = field(default_factory=list)

    @classmethod
    def open(cls, directory: Path) -> Archive:
        """Open a data directory, and create it if it is missing.

        :raises RuntimeError: another process uses the directory.
        """
        directory.mkdir(parents=True, exist_ok=True)
        lock = lock_file(directory / "lock")
        archive = cls(directory, Database(directory / "state.sqlite3"), lock)
        shutil.rmtree(archive.incoming, ignore_errors=True)
        archive.incoming.mkdir()
        archive.files.mkdir(exist_ok=True)
        search_index.complete(archive.database)
        # An earlier version may have made them readable for everybody.
        archive.files.chmod(0o700)
        for file in directory.glob("state.sqlite3*"):
            file.chmod(0o600)
        return archive

    @property
    def incoming(self) -> Path:
        """The directory of files that are being uploaded."""
        return self.directory / "incoming"

    @property
    def files(self) -> Path:
        """The directory of stored files."""
        return self.directory / "files"

    def close(self) -> None:
        """Close the database, and release the directory for another process."""
        self.database.close()
        self.lock.close()

    # -- datasets

    def create_dataset(self, name: str, body: JsonObject) -> None:
        """Create a dataset.

        :raises ApiError: the dataset exists already.
        """
        with self.database.transaction() as connection:
            made = connection.execute(
                "INSERT OR IGNORE INTO datasets VALUES (?, ?)", (name, json.dumps(body))
            ).rowcount
        if not made:
            raise ApiError.already_exists(f"dataset {name} already exists")

    def dataset(self, name: str) -> JsonObject:
        """Return a dataset.

        :raises ApiError: the dataset does not exist.
        """
        rows = self.database.rows("SELECT body FROM datasets WHERE name = ?", (name,))
        if not rows:
            raise _no_dataset(name)
        return _resource(name, rows[0][0])

    def has_dataset(self, name: str) -> bool:
        """Tell whether a dataset exists."""
        return bool(self.database.rows("SELECT 1 FROM datasets WHERE name = ?", (name,)))

    def datasets(self, parent: str, after: str, limit: int) -> list[JsonObject]:
        """Return the datasets of a location in the order of their names.

        :param parent: ``projects/P/locations/L``.
        :param after: the name that the result starts after; empty for the first page.
        :param limit: the maximum number of datasets.
        """
        prefix = f"{parent}/datasets/"
        rows = self.database.rows(
            "SELECT name, body FROM datasets WHERE substr(name, 1, ?) = ? AND name > ? ORDER BY name LIMIT ?",
            (len(prefix), prefix, after, limit),
        )
        return [_resource(name, body) for name, body in rows]

    def delete_dataset(self, name: str) -> None:
        """Delete a dataset with all stores in it.

        :raises ApiError: the dataset does not exist.
        """
        self.dataset(name)
        for (store,) in self.database.rows("SELECT name FROM stores WHERE dataset = ?", (name,)):
            self.delete_store(store)
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM datasets WHERE name = ?", (name,))
            connection.execute("DELETE FROM policies WHERE resource = ?", (name,))

    def update(self, name: str, update: Callable[[JsonObject], JsonObject]) -> JsonObject:
        """Replace a dataset or a store, and return it.

        :param update: returns the new resource for the present one.
        :raises ApiError: the resource does not exist.
        """
        table, get = ("stores", self.store) if "/dicomStores/" in name else ("datasets", self.dataset)
        with self.database.transaction() as connection:
            changed = update(get(name))
            body = json.dumps({field: value for field, value in changed.items() if field != "name"})
            connection.execute(f"UPDATE {table} SET body = ? WHERE name = ?", (body, name))  # noqa: S608
        return changed

    # -- DICOM stores

    def create_store(self, name: str, body: JsonObject, *, create_dataset: bool = False) -> JsonObject:
        """Create a store.

        :param create_dataset: create its dataset, too, if that is missing.
        :raises ApiError: the dataset does not exist, or the store exists already.
        """
        dataset = dataset_of(name)
        with self.database.transaction() as connection:
            if create_dataset:
                connection.execute("INSERT OR IGNORE INTO datasets VALUES (?, '{}')", (dataset,))
            elif not connection.execute("SELECT 1 FROM datasets WHERE name = ?", (dataset,)).fetchone():
                raise _no_dataset(dataset)
            made = connection.execute(
                "INSERT OR IGNORE INTO stores VALUES (?, ?, ?)", (name, dataset, json.dumps(body))
            ).rowcount
        if not made:
            raise ApiError.already_exists(f"DICOM store {name} already exists")
        return self.store(name)

    def store(self, name: str) -> JsonObject:
        """Return a store.

        :raises ApiError: the store does not exist.
        """
        rows = self.database.rows("SELECT body FROM stores WHERE name = ?", (name,))
        if not rows:
            raise _no_store(name)
        return _resource(name, rows[0][0])

    def stores(self, dataset: str, after: str = "") -> Iterator[JsonObject]:
        """Return the stores of a dataset in the order of their names.

        :param after: the name that the result starts after; empty for all stores.
        :raises ApiError: the dataset does not exist.
        """
        self.dataset(dataset)
        rows = self.database.rows(
            "SELECT name, body FROM stores WHERE dataset = ? AND name > ? ORDER BY name", (dataset, after)
        )
        return (_resource(name, body) for name, body in rows)

    def delete_store(self, name: str) -> None:
        """Delete a store with all its instances.

        :raises ApiError: the store does not exist.
        """
        self.store(name)
        self.delete_instances(name, WHOLE_STORE)
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM stores WHERE name = ?", (name,))
            connection.execute("DELETE FROM policies WHERE resource = ?", (name,))

    # -- instances

    def add(self, store: str, upload: Path, file: DicomFile, action: str = STORE_INSTANCES) -> None:
        """Move an uploaded file into a store.

        A file that the store already contains changes nothing, as in the real API.

        :param upload: the file in :attr:`incoming`.
        :param file: what was read from it.
        :param action: the action that listeners are told.
        :raises ApiError: the store does not exist.
        :raises AlreadyStoredError: the store contains a different file with the same UIDs.
        """
        kept = self.files / uuid.uuid4().hex
        key = (store, file.study_uid, file.series_uid, file.instance_uid)
        attributes = file.attributes
        now = datetime.now(UTC)
        with self.database.transaction() as connection:
            if not connection.execute("SELECT 1 FROM stores WHERE name = ?", (store,)).fetchone():
                raise _no_store(store)
            stored = connection.execute(
                "SELECT sha256 FROM instances WHERE store = ? AND study = ? AND series = ? AND instance = ?",
                key,
            ).fetchone()
            if stored is not None:
                if stored[0] != file.sha256:
                    raise AlreadyStoredError
                return
            upload.rename(kept)
            connection.execute(
                "INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *key,
                    file.sop_class_uid,
                    kept.name,
                    file.sha256,
                    file.size,
                    now.isoformat(),
                    json.dumps(attributes),
                ),
            )
            of_study = dicom_files.select(attributes, dicom_files.STUDY_TAGS)
            of_series = dicom_files.select(attributes, dicom_files.STUDY_TAGS | dicom_files.SERIES_TAGS)
            search_index.add(connection, key[:3], of_series)
            modality = next(iter(attributes.get("00080060", {}).get("Value", [])), None)
            connection.execute(
                "INSERT OR IGNORE INTO studies VALUES (?, ?, ?)", (*key[:2], json.dumps(of_study))
            )
            connection.execute(
                "INSERT OR IGNORE INTO series VALUES (?, ?, ?, ?, ?)",
                (*key[:3], modality, json.dumps(of_series)),
            )
        self._tell(action, [StoredInstance(*key[1:], kept, store, now)])

    def _tell(self, action: str, instances: list[StoredInstance]) -> None:
        for listener in self.listeners:
            listener(action, instances)

    def instances(self, store: str, below: ResourcePath = WHOLE_STORE) -> list[StoredInstance]:
        """Return the instances of a store, or of a study or series in it, in the order of their UIDs."""
        condition, parameters = condition_below(below)
        rows = self.database.rows(
            "SELECT study, series, instance, file, last_updated FROM instances"  # noqa: S608
            f" WHERE store = ?{condition} ORDER BY study, series, instance",
            (store, *parameters),
        )
        return [
            StoredInstance(study, series, instance, self.files / file, store, datetime.fromisoformat(updated))
            for study, series, instance, file, updated in rows
        ]

    def delete_instances(self, store: str, below: ResourcePath) -> int:
        """Delete all instances at and below a resource path, and return their number."""
        doomed = self.instances(store, below)
        condition, parameters = condition_below(below)
        with self.database.transaction() as connection:
            connection.execute(
                f"DELETE FROM instances WHERE store = ?{condition}",  # noqa: S608
                (store, *parameters),
            )
            connection.execute(
                "DELETE FROM series WHERE store = ? AND NOT EXISTS (SELECT 1 FROM instances i WHERE"
                " i.store = series.store AND i.study = series.study AND i.series = series.series)",
                (store,),
            )
            connection.execute(
                "DELETE FROM studies WHERE store = ? AND NOT EXISTS (SELECT 1 FROM instances i WHERE"
                " i.store = studies.store AND i.study = studies.study)",
                (store,),
            )
            search_index.clean(connection, store)
        self._tell(DELETE_INSTANCES, doomed)
        for instance in doomed:
            instance.path.unlink(missing_ok=True)
        return len(doomed)

    def metrics(self, store: str, below: ResourcePath = WHOLE_STORE) -> Metrics:
        """Return the counts and sizes of a store, or of a study or series in it."""
        condition, parameters = condition_below(below)
        ((studies, series, instances, blob, structured),) = self.database.rows(
            "SELECT count(DISTINCT study), count(DISTINCT study || '/' || series), count(*),"  # noqa: S608
            " coalesce(sum(size), 0), coalesce(sum(length(attributes)), 0)"
            f" FROM instances WHERE store = ?{condition}",
            (store, *parameters),
        )
        return {
            "studies": int(studies),
            "series": int(series),
            "instances": int(instances),
            "blob_bytes": int(blob),
            "structured_bytes": int(structured),
        }


def _no_dataset(name: str) -> ApiError:
    return ApiError.not_found(f"dataset {name} does not exist")


def _no_store(name: str) -> ApiError:
    return ApiError.not_found(f"DICOM store {name} does not exist")


def _resource(name: str, body: str) -> JsonObject:
    # An earlier version stored fields that were unset as null.
    return {"name": name, **{field: value for field, value in json.loads(body).items() if value is not None}}
