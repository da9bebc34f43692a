"""WADO-RS: retrieval of instances and of metadata (PS3.18, 10.4), and their deletion."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from python_multipart.multipart import parse_options_header
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import Response, StreamingResponse

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers.operations import operation_response
from airflow_provider_dicom.emulator.messages import json_response
from airflow_provider_dicom.emulator.models import dicom_files
from airflow_provider_dicom.emulator.names import ResourcePath

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.emulator.handlers.call import Call
    from airflow_provider_dicom.emulator.models.instances import StoredInstance

_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


async def retrieve(call: Call) -> Response:
    """Return instances, as they were stored or transcoded."""
    multipart, syntax = _accepted(call.request.headers.get("accept", "*/*"))
    instances = await _instances(call)
    mime_type = f"application/dicom; transfer-syntax={syntax}"
    if not multipart:
        if len(instances) != 1:
            raise ApiError.of_http_status(406, "only one instance can be retrieved as application/dicom")
        return Response(await run_in_threadpool(_content, instances[0], mime_type), media_type=mime_type)
    # The first instance is converted before the response begins: if that fails, the response is an error
    # instead of half a body.
    first = await run_in_threadpool(_content, instances[0], mime_type)
    boundary = uuid.uuid4().hex

    def parts() -> Iterator[bytes]:
        for number, instance in enumerate(instances):
            content = first if number == 0 else _content(instance, mime_type)
            yield f"\r\n--{boundary}\r\nContent-Type: {mime_type}\r\n\r\n".encode() + content
        yield f"\r\n--{boundary}--\r\n".encode()

    return StreamingResponse(
        iterate_in_threadpool(parts()),
        media_type=f'multipart/related; type="application/dicom"; boundary={boundary}',
    )


def _content(instance: StoredInstance, mime_type: str) -> bytes:
    from airflow_provider_dicom.emulator.imaging.transcode import CannotTranscode, render

    try:
        return b"".join(rendition.content for rendition in render(instance.path, mime_type))
    except CannotTranscode as error:
        raise ApiError.of_http_status(406, f"{instance.instance_uid}: {error}") from error


def _accepted(header: str) -> tuple[bool, str]:
    """Return whether ``Accept`` allows a multipart body, and the transfer syntax."""
    for choice in header.split(","):
        kind, options = parse_options_header(choice.strip())
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
