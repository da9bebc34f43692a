"""DICOM files to export: files that pydicom ships, uploaded through ``dicomweb-client``."""

from __future__ import annotations

import copy
import functools
import io
import re
import warnings
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pydicom
import pydicom.data
from dicomweb_client import DICOMwebClient
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from rig.servers import loopback_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_COPIES_AT_A_TIME = 200
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
_STORE = re.compile(
    r"(?P<dataset>projects/[^/]+/locations/[^/]+/datasets/[^/]+)/dicomStores/(?P<store>[^/]+)"
)


class Uids(NamedTuple):
    """The three UIDs of an instance."""

    study: str
    series: str
    instance: str

    @property
    def path(self) -> str:
        """The instance's resource path, as in filter files."""
        return f"/studies/{self.study}/series/{self.series}/instances/{self.instance}"


class UploadFailed(Exception):  # noqa: N818 - reads as what happened
    """The server did not store all instances."""


@functools.cache
def sample_files() -> list[Path]:
    """Return pydicom's own files that a DICOM store accepts, one per SOP Instance UID.

    A DICOM store accepts Part 10 files with a transfer syntax, a SOP class and well-formed study, series and
    instance UIDs, and ``dicomweb-client`` sends files that pydicom can encode again. Media directories
    (DICOMDIR) and pydicom's deliberately broken files are therefore left out. Of several files with one SOP
    Instance UID (the same picture in other encodings), the first by name is in the list. The files are part
    of pydicom; none is downloaded.
    """
    folder = Path(pydicom.data.__file__).parent / "test_files"
    by_instance: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (uids := _storable(path)):
            by_instance.setdefault(uids.instance, path)
    return sorted(by_instance.values())


@functools.cache
def uids_of(path: Path) -> Uids:
    """Return the UIDs of a DICOM file."""
    dataset = _read(path, stop_before_pixels=True)
    return Uids(str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID))


def as_uploaded(path: Path) -> bytes:
    """Return a file as the server receives it: ``dicomweb-client`` encodes it again with pydicom."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(buffer, _read(path))
    return buffer.getvalue()


def create_store(url: str, store_name: str) -> None:
    """Create a DICOM store, and its dataset if that is missing.

    :param url: address of the Healthcare API.
    :param store_name: ``projects/P/locations/L/datasets/D/dicomStores/S``.
    """
    parts = _STORE.fullmatch(store_name)
    if parts is None:
        raise ValueError(f"Not the name of a DICOM store: {store_name!r}")
    dataset, store = parts["dataset"], parts["store"]
    parent, _, dataset_id = dataset.rpartition("/datasets/")
    calls = (
        (f"{parent}/datasets", {"datasetId": dataset_id}),
        (f"{dataset}/dicomStores", {"dicomStoreId": store}),
    )
    with loopback_session() as session:
        for collection, query in calls:
            response = session.post(f"{url}/v1/{collection}", params=query, json={}, timeout=30)
            exists_already = response.status_code == 409 and "datasetId" in query
            if not response.ok and not exists_already:
                raise UploadFailed(f"Creating {store_name} answered {response.status_code}: {response.text}")


def upload(url: str, store_name: str, paths: Iterable[Path]) -> list[Uids]:
    """Store files through STOW-RS, study by study, and return their UIDs.

    :param url: address of the Healthcare API.
    :param store_name: ``projects/P/locations/L/datasets/D/dicomStores/S``.
    :raises UploadFailed: the server did not store all files.
    """
    uploaded: list[Uids] = []
    with loopback_session() as session, warnings.catch_warnings():
        # pydicom's files exercise a parser: it warns of many of their values.
        warnings.simplefilter("ignore")
        client = DICOMwebClient(f"{url}/v1/{store_name}/dicomWeb", session=session)
        for study, group in groupby(sorted(paths, key=uids_of), key=lambda path: uids_of(path).study):
            files = list(group)
            answer = client.store_instances([_read(path) for path in files], study_instance_uid=study)
            stored = len(answer.get("ReferencedSOPSequence") or [])
            if stored != len(files):
                raise UploadFailed(
                    f"Study {study}: {stored} of {len(files)} instances stored; {answer.to_json()}"
                )
            uploaded += [uids_of(path) for path in files]
    return uploaded


def upload_copies(url: str, store_name: str, uids: Iterable[Uids], *, study_date: str = "") -> None:
    """Store copies of a small real file under other UIDs, through STOW-RS.

    :param url: address of the Healthcare API.
    :param store_name: ``projects/P/locations/L/datasets/D/dicomStores/S``.
    :param uids: the UIDs of the copies.
    :param study_date: the StudyDate of all copies, such as ``20260329``.
    :raises UploadFailed: the server did not store all files.
    """
    dataset = _read(min(sample_files(), key=lambda path: (path.stat().st_size, path.name)))
    dataset.StudyDate = study_date
    with loopback_session() as session:
        client = DICOMwebClient(f"{url}/v1/{store_name}/dicomWeb", session=session)
        for batch in _batched(uids, _COPIES_AT_A_TIME):
            answer = client.store_instances([_copied(dataset, names) for names in batch])
            if len(answer.get("ReferencedSOPSequence") or []) != len(batch):
                raise UploadFailed(f"Not all copies were stored: {answer.to_json()}")


def _copied(dataset: pydicom.FileDataset, uids: Uids) -> pydicom.FileDataset:
    copied = copy.deepcopy(dataset)
    copied.StudyInstanceUID, copied.SeriesInstanceUID, copied.SOPInstanceUID = map(UID, uids)
    copied.file_meta.MediaStorageSOPInstanceUID = copied.SOPInstanceUID
    return copied


def _batched(items: Iterable[Uids], size: int) -> Iterator[list[Uids]]:
    """Return the items in lists of the given size; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _storable(path: Path) -> Uids | None:
    try:
        dataset = _read(path, stop_before_pixels=True)
        meta = dataset.file_meta
        complete = meta.get("TransferSyntaxUID") and dataset.get("SOPClassUID")
        uids = uids_of(path)
        as_uploaded(path)
    except (InvalidDicomError, AttributeError, TypeError):
        return None
    return uids if complete and all(_UID.fullmatch(uid) and len(uid) <= 64 for uid in uids) else None


def _read(path: Path, *, stop_before_pixels: bool = False) -> pydicom.FileDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)
