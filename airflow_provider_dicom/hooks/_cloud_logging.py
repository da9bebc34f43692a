"""Reads the entries of an Operation from Cloud Logging, with Google's client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from google.cloud.logging_v2 import Client, Resource

from airflow_provider_dicom import console
from airflow_provider_dicom.api.endpoint import logging_endpoint
from airflow_provider_dicom.api.log_entries import failed_instance
from airflow_provider_dicom.api.resource_names import OperationName
from airflow_provider_dicom.api.sync_session import BoundedSession, Exchange
from airflow_provider_dicom.api.transport import needs_refresh, signature
from airflow_provider_dicom.api.transport_sync import refresh
from airflow_provider_dicom.exceptions import DicomExportUnavailableError
from airflow_provider_dicom.longrunning.failures import MAX_INSTANCES
from airflow_provider_dicom.selection.google_errors import map_logging_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import requests
    from google.auth.credentials import Credentials

    from airflow_provider_dicom.api.log_entries import FailedInstance
    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.hooks._base import DicomStoreBaseHook

#: Entries on a page; the API's maximum.
_PAGE_SIZE = 1000
#: The bounds of all pages of a read, in seconds, and of one page, in bytes.
_READ_SECONDS = 20.0
_PAGE_BYTES = 32 * 1024 * 1024
#: The longest wait for a connection, in seconds.
_CONNECT_SECONDS = 10.0


class _Session(BoundedSession):
    """A session for one read, which signs requests; it has the proxies and the CAs of all other requests."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials
        self._end = time.monotonic() + _READ_SECONDS

    def request(self, method: Any, url: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send a request; a redirect could carry the token to another server."""
        if needs_refresh(self._credentials):
            refresh(self._credentials)
        headers = {**(options.pop("headers", None) or {}), **signature(self._credentials)}
        left = max(1.0, self._end - time.monotonic())
        options |= {"timeout": (_CONNECT_SECONDS, left), "allow_redirects": False}
        with Exchange(left, _PAGE_BYTES):
            return super().request(method, url, headers=headers, **options)


class _Client(Client):
    """Google's client, which would look the resource of each entry's logger up at the metadata server."""

    def logger(self, name: str, *, labels: Any = None, resource: Any = None) -> Any:
        """Return a logger, to which nothing is ever written."""
        resource = resource or Resource("global", {})
        return super().logger(name, labels=labels, resource=resource)  # type: ignore[no-untyped-call]


def failed_instances(
    hook: DicomStoreBaseHook, operation: Operation, dicom_store: str | None
) -> Iterator[FailedInstance]:
    """
    Yield the failed instances that Cloud Logging lists for an Operation, the oldest first.

    :param hook: the hook with the connection.
    :param operation: the Operation as the API returned it.
    :param dicom_store: the full name of the DICOM store, if it is known.
    :raises DicomExportPermissionError: if the connection's account lacks ``logging.logEntries.list``.
    :raises DicomExportError: if Cloud Logging refuses for another reason, or does not answer.
    """
    project_id = OperationName.parse(operation["name"]).dataset.project_id
    universe = None if hook.endpoint.anonymous else hook.universe_domain
    with (
        map_logging_errors(project_id, hook.gcp_conn_id, hook.caller),
        _Session(hook.credentials) as session,
    ):
        client: Client = _Client(  # type: ignore[no-untyped-call]
            project=project_id,
            credentials=hook.credentials,
            _http=session,
            # A worker forks, and gRPC does not survive that.
            _use_grpc=False,
            client_options={"api_endpoint": logging_endpoint(hook.endpoint, universe).url},
        )
        try:
            for entry in client.list_entries(
                resource_names=[f"projects/{project_id}"],
                filter_=console.logs_query(operation, dicom_store),
                order_by="timestamp asc",
                page_size=min(_PAGE_SIZE, MAX_INSTANCES),
            ):
                if (instance := failed_instance(entry.payload)) is not None:
                    yield instance
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DicomExportUnavailableError(
                f"Cloud Logging's answer about {operation['name']} is not readable ({type(error).__name__})"
            ) from None
