"""What a handler is called with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from airflow_provider_dicom.emulator.exports.runner import Runner
    from airflow_provider_dicom.emulator.messages import JsonObject
    from airflow_provider_dicom.emulator.models.archive import Archive
    from airflow_provider_dicom.emulator.models.operations import Operations
    from airflow_provider_dicom.emulator.models.reading import Reader
    from airflow_provider_dicom.emulator.settings import Settings


@dataclass(frozen=True)
class Call:
    """A call of one method of the API.

    :param max_upload_bytes: the largest body of an upload, in bytes.
    :param request: the HTTP request; handlers of DICOMweb read its headers and body themselves.
    :param names: the variables of the URL's path, such as ``name`` or ``parent``.
    :param query: the method's own query parameters, validated; empty for DICOMweb.
    :param search: the query parameters of DICOMweb; empty for other methods.
    :param body: the JSON body, validated; empty for DICOMweb.
    """

    archive: Archive
    operations: Operations
    runner: Runner
    settings: Settings
    reader: Reader
    max_upload_bytes: int
    request: Request
    names: Mapping[str, str]
    query: JsonObject = field(default_factory=dict)
    search: list[tuple[str, str]] = field(default_factory=list)
    body: JsonObject = field(default_factory=dict)


Handler: TypeAlias = "Callable[[Call], Awaitable[Response]]"
