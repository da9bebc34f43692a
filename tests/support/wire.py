"""One request through either transport, the worker's or the triggerer's."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

from google.auth.credentials import AnonymousCredentials

from airflow_provider_dicom.api import methods
from airflow_provider_dicom.api.endpoint import Endpoint
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName, OperationName
from airflow_provider_dicom.api.transport import Access
from airflow_provider_dicom.api.transport_async import AsyncTransport, CredentialErrorCache
from airflow_provider_dicom.api.transport_sync import SyncTransport

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

    from airflow_provider_dicom.api.methods import ApiRequest

DATASET = DatasetName("p", "l", "d")
STORE = DicomStoreName(DATASET, "s")
POLL = methods.get_operation(OperationName(DATASET, "77"))
LIST = methods.list_operations(DATASET, filter_=None, page_size=None)
SEARCH = methods.search(
    STORE, "studies", study_uid=None, series_uid=None, filters={}, include_fields=(), limit=1, offset=0
)
KINDS = ["sync", "async"]


def send(kind: str, request: ApiRequest, url: str, credentials: Credentials | None = None) -> object:
    """
    Send one request, and return the response.

    :param kind: the transport.
    :param request: the request.
    :param url: the server.
    :param credentials: the credentials; anonymous if not given.
    """
    access = Access.in_environment(Endpoint(url), credentials or AnonymousCredentials(), None)
    if kind == "sync":
        with closing(SyncTransport(access)) as transport:
            return transport.send(request, 0)

    async def send_once() -> object:
        transport = AsyncTransport(2, CredentialErrorCache())
        try:
            return await transport.send_once(access, request)
        finally:
            await transport.close()

    return asyncio.run(send_once())
