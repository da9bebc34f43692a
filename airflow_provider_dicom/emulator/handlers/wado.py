"""WADO-RS: retrieval of instances and of metadata (PS3.18, 10.4), and their deletion."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import Response, StreamingResponse

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers.multipart import parse_media_type
from airflow_provider_dicom.emulator.handlers.operations import operation_response
from airflow_provider_dicom.emulator.messages import json_response
from airflow_provider_dicom.emulator.models import dicom_files
from airflow_provider_dicom.emulator.names import ResourcePath

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_dicom.emulator.handlers.call import Call
    from airflow_provider_dicom.emulator.models.instances import StoredInstance

_CHUNK_BYTES = 1024 * 1024
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


async def retrieve(call: Call) -> Response:
    """Return instances, as they were stored or transcoded."""
    multipart, syntax = _accepted(call.request.headers.get("accept", "*/*"))
    instances = await _instances(call)
    if not multipart and len(instances) != 1:
        raise ApiError.of_http_status(406, "only one instance can be retrieved as application/dicom")
    # The first instance is converted before the response begins: if that fails, the response is an error
    # instead of half a body.
    first = await run_in_threadpool(_representation, instances[0], syntax)
    if not multipart:
        return StreamingResponse(
            iterate_in_threadpool(first.content),
            media_type=first.mime_type,
            headers={"content-length": str(first.size)},
        )
    boundary = uuid.uuid4().hex

    def parts() -> Iterator[bytes]:
        # The body starts with the boundary: some clients read no preamble.
        delimiter = f"--{boundary}"
        for number, instance in enumerate(instances):
            part = first if number == 0 else _representation(instance, syntax)
            yield f"{delimiter}\r\nContent-Type: {part.mime_type}\r\n\r\n".encode()
            yield from part.content
            delimiter = f"\r\n--{boundary}"
        yield f"\r\n--{boundary}--\r\n".encode()

    return StreamingResponse(
        iterate_in_threadpool(parts()),
        media_type=f'multipart/related; type="application/dicom"; boundary={boundary}',
    )


class _Representation(NamedTuple):
    """An instance in a transfer syntax.

    :param mime_type: its MIME type, with the transfer syntax.
    :param size: the number of its bytes.
    :param content: its bytes, in chunks.
    """

    mime_type: str
    size: int
    content: Iterable[bytes]


def _representation(instance: StoredInstance, syntax: str) -> _Representation:
    from airflow_provider_dicom.emulator.imaging import transcode

    path = instance.path
    wanted = _mime_type(syntax)
    try:
        if transcode.is_as_stored(path, wanted):
            mime_type = _mime_type(transcode.transfer_syntax(path))
            return _Representation(mime_type, path.stat().st_size, _chunks(path.open("rb")))
        (rendition,) = transcode.render(path, wanted)
    except transcode.CannotTranscode as error:
        raise ApiError.of_http_status(406, f"{instance.instance_uid}: {error}") from error
    return _Representation(_mime_type(rendition.transfer_syntax), len(rendition.content), [rendition.content])


def _mime_type(syntax: str) -> str:
    return f"application/dicom; transfer-syntax={syntax}"


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _accepted(header: str) -> tuple[bool, str]:
    """Return whether ``Accept`` allows a multipart body, and the transfer syntax."""
    for choice in header.split(","):
        kind, options = parse_media_type(choice.strip())
        syntax = options.get(b"transfer-syntax", _EXPLICIT_LITTLE_ENDIAN.encode()).decode("latin-1")
        inner = options.get(b"type", b"application/dicom").lower()
        if kind == b"application/dicom":
            return False, syntax
        if kind in (b"multipart/related", b"multipart/*", b"*/*") and inner == b"application/dicom":
            return True, syntax
    raise ApiError.of_http_status(406, f"Accept {header!r} is not supported; application/dicom is")


async def metadata(call: Call) -> Response:
    """Return the attributes of instances, without bulk data."""
    instances = await _instances(call)

    def read() -> list[dicom_files.Attributes]:
        return [dicom_files.read(instance.path).attributes for instance in instances]

    return json_response(await run_in_threadpool(read), media_type="application/dicom+json")


async def _instances(call: Call) -> list[StoredInstance]:
    store, path = call.names["parent"], call.names["dicomWebPath"]
    await run_in_threadpool(call.archive.store, store)
    found = await run_in_threadpool(call.archive.instances, store, ResourcePath.parse(path))
    if not found:
        raise ApiError.not_found(f"{store}/dicomWeb/{path} does not exist")
    return found


async def delete(call: Call) -> Response:
    """Delete an instance, or a study or series; the latter return an operation that is done."""
    store, path = call.names["parent"], ResourcePath.parse(call.names["dicomWebPath"])
    await _instances(call)
    deleted = await run_in_threadpool(call.archive.delete_instances, store, path)
    if path.instance is not None:
        return json_response({})
    kind = "Study" if path.series is None else "Series"
    operations = call.operations
    operation = operations.create(
        f"google.cloud.healthcare.v1.dicomweb.DicomWebService.Delete{kind}", store, {"path": str(path)}
    )
    operation.success = deleted
    await operations.finish(operation, response={"@type": "type.googleapis.com/google.protobuf.Empty"})
    return operation_response(operation)
