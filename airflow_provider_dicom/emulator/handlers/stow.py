"""STOW-RS: uploads (PS3.18, 10.5)."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from starlette.concurrency import run_in_threadpool

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers.multipart import (
    MultipartError,
    MultipartSplitter,
    parse_media_type,
)
from airflow_provider_dicom.emulator.messages import body_chunks, dicomweb_url, json_response
from airflow_provider_dicom.emulator.models.archive import AlreadyStoredError
from airflow_provider_dicom.emulator.models.dicom_files import NotDicomError
from airflow_provider_dicom.emulator.names import ResourcePath

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.responses import Response

    from airflow_provider_dicom.emulator.handlers.call import Call
    from airflow_provider_dicom.emulator.models.archive import Archive
    from airflow_provider_dicom.emulator.models.dicom_files import Attributes, DicomFile

#: "Processing failure", the only FailureReason of the real API; the details are in a private attribute.
PROCESSING_FAILURE = 272
_CHUNK_BYTES = 1024 * 1024


@dataclass
class _Part:
    """One part of an upload, which is written to a file of its own."""

    path: Path
    file: BinaryIO
    content_type: str = ""


@dataclass
class _Upload:
    """Writes the parts of an upload to files while it is received; used by one thread at a time.

    :param directory: the directory of the parts' files.
    """

    directory: Path
    parts: list[_Part] = field(default_factory=list)

    def begin_part(self, content_type: str = "") -> None:
        path = self.directory / uuid.uuid4().hex
        self.parts.append(_Part(path, path.open("wb"), content_type))

    def write(self, data: bytes) -> None:
        self.parts[-1].file.write(data)

    def end_part(self) -> None:
        self.parts[-1].file.close()

    def discard(self) -> None:
        """Delete the files that were not moved into a store."""
        for part in self.parts:
            part.file.close()
            part.path.unlink(missing_ok=True)


async def store_instances(call: Call) -> Response:
    """Store the files of an upload; one that fails does not affect the others."""
    store = call.names["parent"]
    archive = call.archive
    await run_in_threadpool(archive.store, store)
    study = ResourcePath.parse(call.names["dicomWebPath"]).study
    upload = _Upload(archive.incoming)
    try:
        await _receive(call, upload)
        files = await asyncio.gather(*(_read(call, part) for part in upload.parts))
        outcomes = [
            await run_in_threadpool(_store_part, archive, store, study, part, file)
            for part, file in zip(upload.parts, files, strict=True)
        ]
    finally:
        await run_in_threadpool(upload.discard)
    return _response(call, study, outcomes)


async def _receive(call: Call, upload: _Upload) -> None:
    kind, options = parse_media_type(call.request.headers.get("content-type"))
    if kind == b"multipart/related":
        if options.get(b"type", b"application/dicom").lower() != b"application/dicom":
            raise ApiError.of_http_status(
                415, 'only multipart/related; type="application/dicom" can be stored'
            )
        if not options.get(b"boundary"):
            raise ApiError.invalid_argument("the Content-Type has no boundary")
        splitter = MultipartSplitter(options[b"boundary"], upload.begin_part, upload.write, upload.end_part)
        try:
            async for chunk in _large_chunks(call):
                await run_in_threadpool(splitter.write, chunk)
        except MultipartError as error:
            raise ApiError.invalid_argument(f"malformed multipart body: {error}") from error
        if not splitter.ended:
            raise ApiError.invalid_argument("malformed multipart body: it ends before its last boundary")
        if not upload.parts:
            raise ApiError.invalid_argument("the multipart body has no parts")
    elif kind == b"application/dicom":
        upload.begin_part()
        async for chunk in _large_chunks(call):
            await run_in_threadpool(upload.write, chunk)
        upload.end_part()
    else:
        raise ApiError.of_http_status(
            415, 'the Content-Type must be multipart/related; type="application/dicom" or application/dicom'
        )


async def _large_chunks(call: Call) -> AsyncIterator[bytes]:
    """Yield the body in chunks that are large enough to justify a switch of threads."""
    buffer = bytearray()
    async for chunk in body_chunks(call.request, call.max_upload_bytes):
        buffer += chunk
        if len(buffer) >= _CHUNK_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


@dataclass(frozen=True)
class _Outcome:
    """The outcome of one part.

    :param file: what was read from the part; None if that failed.
    :param failure: why the part was not stored; None if it was stored.
    """

    file: DicomFile | None
    failure: str | None


async def _read(call: Call, part: _Part) -> DicomFile | NotDicomError:
    kind, _ = parse_media_type(part.content_type)
    if kind not in (b"", b"application/dicom"):
        return NotDicomError(f"a part of type {part.content_type!r} is not application/dicom")
    try:
        return await call.reader.read(part.path)
    except NotDicomError as error:
        return error


def _store_part(
    archive: Archive, store: str, study: str | None, part: _Part, file: DicomFile | NotDicomError
) -> _Outcome:
    if isinstance(file, NotDicomError):
        return _Outcome(None, str(file))
    if study not in (None, file.study_uid):
        return _Outcome(file, "its StudyInstanceUID is not the one of the URL")
    try:
        archive.add(store, part.path, file)
    except AlreadyStoredError:
        return _Outcome(
            file,
            "An instance already exists in this DICOM Store with the same Study/Series/SOPInstance UID, "
            "but the DICOM files differ (checksum mismatch).",
        )
    return _Outcome(file, None)


def _response(call: Call, study: str | None, outcomes: list[_Outcome]) -> Response:
    base = dicomweb_url(call.request, call.names["parent"])
    stored = [_reference(outcome, base) for outcome in outcomes if outcome.failure is None]
    failed = [_reference(outcome, None) for outcome in outcomes if outcome.failure is not None]
    answer: Attributes = {}
    studies = {outcome.file.study_uid for outcome in outcomes if outcome.file and not outcome.failure}
    if study is not None or len(studies) == 1:
        answer["00081190"] = {"vr": "UR", "Value": [f"{base}/studies/{study or studies.pop()}"]}
    if failed:
        answer["00081198"] = {"vr": "SQ", "Value": failed}
    if stored:
        answer["00081199"] = {"vr": "SQ", "Value": stored}
    status = 200 if not failed else 202 if stored else 409
    return json_response(answer, status, "application/dicom+json")


def _reference(outcome: _Outcome, base: str | None) -> Attributes:
    reference: Attributes = {}
    file = outcome.file
    if file is not None:
        reference["00081150"] = {"vr": "UI", "Value": [file.sop_class_uid]}
        reference["00081155"] = {"vr": "UI", "Value": [file.instance_uid]}
        if base is not None:
            url = f"{base}{ResourcePath(file.study_uid, file.series_uid, file.instance_uid)}"
            reference["00081190"] = {"vr": "UR", "Value": [url]}
    if outcome.failure is not None:
        reference["00081197"] = {"vr": "US", "Value": [PROCESSING_FAILURE]}
        reference["00090010"] = {"vr": "LO", "Value": ["GOOGLE"]}
        reference["00091097"] = {"vr": "LT", "Value": [outcome.failure]}
    return reference
