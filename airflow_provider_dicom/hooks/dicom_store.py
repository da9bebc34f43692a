"""Hooks for DICOM stores of the Cloud Healthcare API."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import google.auth.transport.requests
import requests
import tenacity
import urllib3.exceptions
from airflow.providers.common.compat.sdk import AirflowException
from airflow.providers.google.common.hooks.base_google import (
    PROVIDE_PROJECT_ID,
    GoogleBaseAsyncHook,
    GoogleBaseHook,
)
from asgiref.sync import sync_to_async
from google.auth.credentials import AnonymousCredentials, TokenState
from google.auth.exceptions import GoogleAuthError
from yarl import URL

from airflow_provider_dicom import connection_type
from airflow_provider_dicom.api import methods, permissions, responses
from airflow_provider_dicom.api.endpoint import Endpoint, configured_endpoint, universe_endpoint
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName, OperationName
from airflow_provider_dicom.api.retry import retry_options
from airflow_provider_dicom.api.transport import (
    CONNECT_TIMEOUT,
    READ_TIMEOUT,
    USER_AGENT,
    connection_error,
    credentials_error,
)
from airflow_provider_dicom.exceptions import (
    DicomExportAuthenticationError,
    DicomExportError,
    DicomExportInvalidRequestError,
    DicomExportPermissionError,
    DicomExportSubmissionUnknownError,
    DicomExportTransientError,
    DicomExportUnavailableError,
)
from airflow_provider_dicom.lineage.datasets import report_export
from airflow_provider_dicom.longrunning.polling import CONFIRMATION_PAUSES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from google.auth.credentials import Credentials

    from airflow_provider_dicom.api.export_request import ExportRequest
    from airflow_provider_dicom.api.methods import ApiRequest, SearchFilters, SearchLevel
    from airflow_provider_dicom.api.permissions import CallerPermission
    from airflow_provider_dicom.api_types import DicomJson, DicomStore, DicomStoreMetrics
    from airflow_provider_dicom.longrunning.outcome import Operation, OperationPage
    from airflow_provider_dicom.longrunning.polling import OperationWatch

_CONNECTING_FAILED = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
)


#: For how long one failure to get credentials stands for all calls, in seconds.
TROUBLE_REMEMBERED = 5.0


class DicomStoreHook(GoogleBaseHook):
    """
    Calls the Cloud Healthcare API for DICOM stores, their exports and their Operations.

    https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores

    :param gcp_conn_id: the Airflow connection, of the type of this provider or of Google's.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param api_endpoint: another endpoint than Google's, such as a regional one or a local Healthcare API.
    """

    conn_type = connection_type.CONN_TYPE
    hook_name = connection_type.HOOK_NAME

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's fields, for Airflow versions that do not take them from the metadata."""
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget  # type: ignore[import-not-found]
        from wtforms import StringField  # type: ignore[import-untyped]

        google_fields = super().get_connection_form_widgets()
        own_fields = {
            name: StringField(field.label, description=field.description, widget=BS3TextFieldWidget())
            for name, field in connection_type.FIELDS.items()
        }
        return {"project": google_fields["project"], **own_fields, **google_fields}

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return how the form's fields look, for Airflow versions that do not take it from the metadata."""
        return {
            "hidden_fields": list(connection_type.HIDDEN_FIELDS),
            "relabeling": {},
            "placeholders": dict(connection_type.PLACEHOLDERS),
        }

    def __init__(
        self,
        gcp_conn_id: str = "google_cloud_default",
        impersonation_chain: str | Sequence[str] | None = None,
        api_endpoint: str | None = None,
    ) -> None:
        super().__init__(gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain)
        self.api_endpoint = api_endpoint

    def dataset_name(
        self, location: str | None = None, dataset_id: str | None = None, project_id: str | None = None
    ) -> DatasetName:
        """
        Build the full name of a dataset.

        :param location: the location; the connection's if not given.
        :param dataset_id: the dataset's id; the connection's if not given.
        :param project_id: the project's id; the connection's if not given.
        :raises DicomExportInvalidRequestError: if an id is not acceptable, or is nowhere to be found.
        """
        location, dataset_id = self._or_default(location=location, dataset_id=dataset_id)
        if project_id is None:
            project_id = self._default_project_id()
            if not project_id:
                raise DicomExportInvalidRequestError(
                    f"project_id=None: the connection {self.gcp_conn_id!r} names no project either; "
                    "accepted: a project id as the parameter, or in the connection."
                )
        return DatasetName(project_id, location, dataset_id)

    def _or_default(self, **ids: str | None) -> list[str]:
        found = {name: self._get_field(name) if value is None else value for name, value in ids.items()}
        if missing := [f"{name}=None" for name, value in found.items() if value is None]:
            raise DicomExportInvalidRequestError(
                f"{', '.join(missing)}: the connection {self.gcp_conn_id!r} names none either; "
                "accepted: an id as the parameter, or in the connection."
            )
        return list(found.values())

    def _default_project_id(self) -> str | None:
        if self.endpoint.anonymous:
            # No credentials are needed, so there may be none to ask for the project.
            return cast("str | None", self._get_field("project"))
        try:
            project_id = self.project_id
        except GoogleAuthError as error:
            raise DicomExportAuthenticationError(
                f"The connection {self.gcp_conn_id!r} gives no credentials, so no default project: {error}"
            ) from error
        return None if project_id is PROVIDE_PROJECT_ID else project_id

    def dicom_store_name(
        self,
        location: str | None = None,
        dataset_id: str | None = None,
        dicom_store_id: str | None = None,
        project_id: str | None = None,
    ) -> DicomStoreName:
        """
        Build the full name of a DICOM store.

        :param location: the location; the connection's if not given.
        :param dataset_id: the dataset's id; the connection's if not given.
        :param dicom_store_id: the DICOM store's id; the connection's if not given.
        :param project_id: the project's id; the connection's if not given.
        :raises DicomExportInvalidRequestError: if an id is not acceptable, or is nowhere to be found.
        """
        location, dataset_id, dicom_store_id = self._or_default(
            location=location, dataset_id=dataset_id, dicom_store_id=dicom_store_id
        )
        return DicomStoreName(self.dataset_name(location, dataset_id, project_id), dicom_store_id)

    def export(self, store: DicomStoreName, request: ExportRequest) -> Operation:
        """
        Submit an export; it is sent again only when the server certainly did not accept it.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores/export

        :param store: the DICOM store.
        :param request: what to export to where.
        :raises DicomExportSubmissionUnknownError: if the export may or may not have been accepted.
        :raises DicomExportError: if it was not accepted.
        """
        submission = methods.export(store, request)
        try:
            operation = cast("Operation", self._send(submission))
            if not isinstance(operation, dict) or not operation.get("name"):
                raise DicomExportUnavailableError("the reply holds no operation's name")
        except DicomExportTransientError as error:
            if error.not_accepted:
                raise
            dataset = store.dataset
            raise DicomExportSubmissionUnknownError(
                f"The reply to the submission was lost, so the export of {store} to {request.destination} "
                f"may or may not run: {error}. The dataset's operations tell: gcloud healthcare operations "
                f"list --dataset={dataset.dataset_id} --location={dataset.location} "
                f"--project={dataset.project_id}",
                retry_after=error.retry_after,
            ) from error
        try:
            report_export(self, store, request)
        except Exception as error:  # whatever a lineage backend raises: the export is accepted
            self.log.warning("The lineage of the export was not reported: %s", error)
        return operation

    def get_operation(self, operation_name: str, *, num_retries: int | None = None) -> Operation:
        """
        Get the latest state of an Operation.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/get

        :param operation_name: the full name of the Operation.
        :param num_retries: how often to try again; as the connection has it if not given.
        :raises DicomExportError: if the API refuses.
        """
        return cast(
            "Operation", self._send(methods.get_operation(OperationName.parse(operation_name)), num_retries)
        )

    def wait_for_operation(self, watch: OperationWatch) -> Operation:
        """
        Poll an Operation until it has ended, and return it.

        :param watch: decides when to poll and what each answer means.
        :raises DicomExportError: if the watch gives up.
        """
        while True:
            time.sleep(watch.pause())
            try:
                operation = self.get_operation(watch.operation_name, num_retries=0)
                if watch.answered(operation):
                    return operation
            except DicomExportError as error:
                watch.failed(error)

    def list_operations(
        self, dataset: DatasetName, *, filter_: str | None = None, page_size: int | None = None
    ) -> Iterator[Operation]:
        """
        List the Operations of a dataset, page by page.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/list

        :param dataset: the dataset.
        :param filter_: the API's filter.
        :param page_size: Operations on a page.
        :raises DicomExportError: if the API refuses.
        """
        request = methods.list_operations(dataset, filter_=filter_, page_size=page_size)
        return cast("Iterator[Operation]", self._pages(request, "operations"))

    def cancel_operation(self, operation_name: str) -> None:
        """
        Ask for an Operation to be cancelled, which the API does as best it can.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/cancel

        :param operation_name: the full name of the Operation.
        :raises DicomExportError: if the API refuses.
        """
        self._send(methods.cancel_operation(OperationName.parse(operation_name)))

    def cancel_and_confirm(self, operation_name: str) -> Operation:
        """
        Cancel an Operation, and return it once it has ended, or after a few seconds as it is then.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/cancel

        :param operation_name: the full name of the Operation.
        :raises DicomExportError: if the API refuses.
        """
        try:
            self.cancel_operation(operation_name)
        except DicomExportError:
            # The API may refuse to cancel what has ended meanwhile.
            if not (operation := self.get_operation(operation_name)).get("done"):
                raise
            return operation
        for pause in CONFIRMATION_PAUSES:
            if (operation := self.get_operation(operation_name)).get("done"):
                return operation
            time.sleep(pause)
        return self.get_operation(operation_name)

    def get_dicom_store(self, store: DicomStoreName) -> DicomStore:
        """
        Get a DICOM store.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores/get

        :param store: the DICOM store.
        :raises DicomExportError: if the API refuses.
        """
        return cast("DicomStore", self._send(methods.get_dicom_store(store)))

    def list_dicom_stores(
        self, dataset: DatasetName, *, filter_: str | None = None, page_size: int | None = None
    ) -> Iterator[DicomStore]:
        """
        List the DICOM stores of a dataset, page by page.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores/list

        :param dataset: the dataset.
        :param filter_: the API's filter.
        :param page_size: DICOM stores on a page.
        :raises DicomExportError: if the API refuses.
        """
        request = methods.list_dicom_stores(dataset, filter_=filter_, page_size=page_size)
        return cast("Iterator[DicomStore]", self._pages(request, "dicomStores"))

    def get_dicom_store_metrics(self, store: DicomStoreName) -> DicomStoreMetrics:
        """
        Get the size of a DICOM store; the numbers lag behind writes.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores/getDICOMStoreMetrics

        :param store: the DICOM store.
        :raises DicomExportError: if the API refuses.
        """
        return cast("DicomStoreMetrics", self._send(methods.get_dicom_store_metrics(store)))

    def test_iam_permissions(
        self, resource: DicomStoreName | DatasetName, permissions: Iterable[str]
    ) -> list[str]:
        """
        Tell which of some IAM permissions the caller has.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores/testIamPermissions

        :param resource: the DICOM store or the dataset.
        :param permissions: the IAM permissions to ask about.
        :raises DicomExportError: if the API refuses.
        """
        answer = cast("dict[str, list[str]]", self._send(methods.test_iam_permissions(resource, permissions)))
        return answer.get("permissions", [])

    def test_connection(self) -> tuple[bool, str]:
        """Read the connection's DICOM store, and say which permissions its account lacks, if any."""
        try:
            with self:
                return self._test_store(self.dicom_store_name())
        except (AirflowException, GoogleAuthError) as error:
            return False, str(error)

    def _test_store(self, store: DicomStoreName) -> tuple[bool, str]:
        # Somebody waits for the answer, so nothing is tried again. Reading comes first: of what does not
        # exist, testIamPermissions only says that the caller has no permission.
        refusal = None
        try:
            self._send(methods.get_dicom_store(store), 0)
        except DicomExportPermissionError as error:
            refusal = error
        missing = self._missing(store, (permissions.GET_STORE, permissions.EXPORT))
        missing += self._missing(store.dataset, (permissions.GET_OPERATION, permissions.CANCEL_OPERATION))
        explained = {
            needed: f"Missing: {needed.permission}. "
            + permissions.explain_caller(needed, store.dataset, store, self.caller)
            for needed in missing
        }
        only_to_cancel = explained.pop(permissions.CANCEL_OPERATION, None)
        if explained:
            return False, " ".join(explained.values())
        if refusal is not None:
            return False, str(refusal)
        message = f"Read {store}. Its account may start exports and follow them"
        if only_to_cancel is None:
            return True, f"{message}, and cancel them."
        return True, f"{message}, but not cancel them when a task is killed. {only_to_cancel}"

    def _missing(
        self, resource: DicomStoreName | DatasetName, needed: tuple[CallerPermission, ...]
    ) -> list[CallerPermission]:
        request = methods.test_iam_permissions(resource, [one.permission for one in needed])
        answer = cast("dict[str, list[str]]", self._send(request, 0))
        return [one for one in needed if one.permission not in answer.get("permissions", [])]

    def search(
        self,
        store: DicomStoreName,
        level: SearchLevel,
        *,
        study_uid: str | None = None,
        series_uid: str | None = None,
        filters: SearchFilters = (),
        include_fields: Iterable[str] = (),
        page_size: int | None = None,
    ) -> Iterator[DicomJson]:
        """
        Search studies, series or instances with QIDO-RS, page by page.

        https://cloud.google.com/healthcare-api/docs/dicom#search_transaction

        :param store: the DICOM store.
        :param level: what to search for.
        :param study_uid: search within this study only.
        :param series_uid: search within this series of the study only.
        :param filters: attributes and the values they must have.
        :param include_fields: attributes to return besides the usual ones.
        :param page_size: matches on a page; as many as the API gives if not given.
        :raises DicomExportError: if the API refuses, or has more matches than it shows.
        """
        limit = page_size or methods.MAX_SEARCH_LIMIT[level]
        fields = tuple(include_fields)
        pairs = tuple(filters.items() if hasattr(filters, "items") else filters)
        offset = 0
        while True:
            request = methods.search(
                store,
                level,
                study_uid=study_uid,
                series_uid=series_uid,
                filters=pairs,
                include_fields=fields,
                limit=limit,
                offset=offset,
            )
            page = cast("list[DicomJson]", self._send(request))
            # The API may cap the limit: only an empty page is the end for certain.
            if not page:
                return
            offset += len(page)
            yield from page
            # Two pages at a time would take twice the memory.
            del page

    def close(self) -> None:
        """Close the HTTP session, if one was opened."""
        if "_session" in self.__dict__:
            self._session.close()
            del self.__dict__["_session"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def endpoint(self) -> Endpoint:
        """
        The server to talk to.

        :raises DicomExportInvalidRequestError: if a token would travel in the clear.
        """
        for api_endpoint in (self.api_endpoint, self._get_field("api_endpoint")):
            if (configured := configured_endpoint(api_endpoint)) is not None:
                return configured
        universe = self.get_client_options().universe_domain
        return universe_endpoint(universe or getattr(self.get_credentials(), "universe_domain", None))

    @cached_property
    def credentials(self) -> Credentials:
        """The credentials that requests are signed with."""
        return AnonymousCredentials() if self.endpoint.anonymous else self.get_credentials()

    @property
    def caller(self) -> str | None:
        """The e-mail address of the account that requests are signed with, where it is known."""
        return getattr(self.credentials, "service_account_email", None)

    @cached_property
    def proxy(self) -> str | None:
        """The proxy for the endpoint, found in the environment as the sync session finds it."""
        # aiohttp's own way, trust_env, looks it up in a thread for every request.
        url = self.endpoint.url
        return requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))

    @cached_property
    def _session(self) -> requests.Session:
        session: requests.Session = (
            requests.Session()
            if isinstance(self.credentials, AnonymousCredentials)
            else google.auth.transport.requests.AuthorizedSession(self.credentials, max_refresh_attempts=1)
        )
        session.headers["User-Agent"] = USER_AGENT
        return session

    def _pages(self, request: ApiRequest, items: str) -> Iterator[object]:
        while True:
            page = cast("dict[str, object]", self._send(request))
            yield from cast("list[object]", page.get(items, []))
            if not (token := page.get("nextPageToken")):
                return
            request = request.page(str(token))

    def _send(self, request: ApiRequest, num_retries: int | None = None) -> object:
        retries = self.num_retries if num_retries is None else num_retries
        return tenacity.Retrying(**retry_options(request, retries))(self._send_once, request)

    def _send_once(self, request: ApiRequest) -> object:
        try:
            response = self._session.request(
                request.http_method,
                self.endpoint.url + request.target,
                json=request.body,
                timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                # A redirect could carry the token elsewhere; the API sends none.
                allow_redirects=False,
            )
        except GoogleAuthError as error:
            raise credentials_error(request, error) from error
        except requests.RequestException as error:
            cause = getattr(error.args[0], "reason", None) if error.args else None
            not_accepted = isinstance(cause, _CONNECTING_FAILED)
            raise connection_error(request, cause or error, not_accepted=not_accepted) from _shown(
                request, error
            )
        return responses.decode(
            request, response.status_code, response.headers, response.content, self.caller
        )


class DicomStoreAsyncHook(GoogleBaseAsyncHook):
    """
    Follows and cancels Operations from an event loop, which it never blocks.

    Use it as ``async with DicomStoreAsyncHook(...) as hook``: one HTTP session and one token, refreshed off
    the loop before it expires, serve all calls.

    https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations

    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param api_endpoint: another endpoint than Google's, such as a regional one or a local Healthcare API.
    :param max_connections: connections open at a time.
    """

    sync_hook_class = DicomStoreHook

    def __init__(
        self,
        gcp_conn_id: str = "google_cloud_default",
        impersonation_chain: str | Sequence[str] | None = None,
        api_endpoint: str | None = None,
        *,
        max_connections: int = 10,
    ) -> None:
        super().__init__(
            gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain, api_endpoint=api_endpoint
        )
        self._max_connections = max_connections
        self._credentials_trouble = _RecentTrouble()
        self._setup_lock = asyncio.Lock()
        self._loaded_hook: DicomStoreHook | None = None
        self._refresh_lock = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the HTTP session, if one was opened."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def get_operation(self, operation_name: str, *, num_retries: int | None = None) -> Operation:
        """
        Get the latest state of an Operation.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/get

        :param operation_name: the full name of the Operation.
        :param num_retries: how often to try again; as the connection has it if not given.
        :raises DicomExportError: if the API refuses.
        """
        request = methods.get_operation(OperationName.parse(operation_name))
        return cast("Operation", await self._send(request, num_retries))

    async def list_operations(
        self, dataset: DatasetName, *, filter_: str | None = None, page_size: int | None = None
    ) -> AsyncIterator[Operation]:
        """
        List the Operations of a dataset, page by page.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/list

        :param dataset: the dataset.
        :param filter_: the API's filter.
        :param page_size: Operations on a page.
        :raises DicomExportError: if the API refuses.
        """
        request = methods.list_operations(dataset, filter_=filter_, page_size=page_size)
        while True:
            page = cast("OperationPage", await self._send(request))
            for operation in page.get("operations", []):
                yield operation
            if not (token := page.get("nextPageToken")):
                return
            request = request.page(token)

    async def cancel_operation(self, operation_name: str) -> None:
        """
        Ask for an Operation to be cancelled, which the API does as best it can.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/cancel

        :param operation_name: the full name of the Operation.
        :raises DicomExportError: if the API refuses.
        """
        await self._send(methods.cancel_operation(OperationName.parse(operation_name)))

    async def cancel_and_confirm(self, operation_name: str) -> Operation:
        """
        Cancel an Operation, and return it once it has ended, or after a few seconds as it is then.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/cancel

        :param operation_name: the full name of the Operation.
        :raises DicomExportError: if the API refuses.
        """
        try:
            await self.cancel_operation(operation_name)
        except DicomExportError:
            # As in the sync hook.
            if not (operation := await self.get_operation(operation_name)).get("done"):
                raise
            return operation
        for pause in CONFIRMATION_PAUSES:
            if (operation := await self.get_operation(operation_name)).get("done"):
                return operation
            await asyncio.sleep(pause)
        return await self.get_operation(operation_name)

    async def get_sync_hook(self) -> DicomStoreHook:
        """
        Build the sync hook, with its connection and its credentials loaded, off the event loop.

        :raises DicomExportAuthenticationError: if the connection or its credentials cannot be loaded.
        """
        if self._loaded_hook is not None:
            return self._loaded_hook
        async with self._setup_lock:
            if self._loaded_hook is None:
                self._credentials_trouble.raise_again()
                # Not thread-sensitive: that would line up all triggers of a triggerer behind one thread.
                with self._credentials_trouble.noted():
                    self._loaded_hook = await sync_to_async(self._load_sync_hook, thread_sensitive=False)()
        return self._loaded_hook

    def _load_sync_hook(self) -> DicomStoreHook:
        try:
            hook = DicomStoreHook(**self._hook_kwargs)
            _ = hook.credentials, hook.proxy
        except DicomExportError:
            raise
        except Exception as error:  # whatever a secrets backend or a credential source may raise
            raise DicomExportAuthenticationError(
                f"The connection {self._hook_kwargs['gcp_conn_id']!r} could not be loaded "
                f"({type(error).__name__}: {error}). Check it, and the account it names."
            ) from error
        return hook

    async def ask(self, request: ApiRequest) -> object:
        """
        Send a request once, without retries, and return its JSON.

        :param request: the request.
        :raises DicomExportError: if there is no good answer.
        """
        return await self._send_once(await self.get_sync_hook(), request)

    async def _send(self, request: ApiRequest, num_retries: int | None = None) -> object:
        hook = await self.get_sync_hook()
        retries = hook.num_retries if num_retries is None else num_retries
        retrying = tenacity.AsyncRetrying(**retry_options(request, retries))
        return await retrying(self._send_once, hook, request)

    async def _send_once(self, hook: DicomStoreHook, request: ApiRequest) -> object:
        try:
            return responses.decode(request, *await self._signed_exchange(hook, request), hook.caller)
        except DicomExportAuthenticationError:
            # The connection may have been given a new key since it was loaded.
            self._loaded_hook = None
            raise

    async def _signed_exchange(
        self, hook: DicomStoreHook, request: ApiRequest
    ) -> tuple[int, Mapping[str, str], bytes]:
        try:
            signature = await self._signature(hook)
            token = hook.credentials.token
            status, headers, body = await self._exchange(hook, request, signature)
            if status == HTTPStatus.UNAUTHORIZED and signature:
                await self._refresh(hook, stale_token=token)
                signature = await self._signature(hook)
                status, headers, body = await self._exchange(hook, request, signature)
        except GoogleAuthError as error:
            raise credentials_error(request, error) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            not_accepted = isinstance(error, aiohttp.ClientConnectorError)
            raise connection_error(request, error, not_accepted=not_accepted) from _shown(request, error)
        return status, headers, body

    async def _exchange(
        self, hook: DicomStoreHook, request: ApiRequest, signature: dict[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        async with self._open_session().request(
            request.http_method,
            # Quoted already, and yarl would quote it in its own way.
            URL(hook.endpoint.url + request.target, encoded=True),
            json=request.body,
            headers=signature,
            proxy=hook.proxy,
            # A redirect could carry the token elsewhere; the API sends none.
            allow_redirects=False,
        ) as response:
            return response.status, response.headers, await response.read()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"User-Agent": USER_AGENT},
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(limit=self._max_connections),
                timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT),
            )
        return self._session

    async def _signature(self, hook: DicomStoreHook) -> dict[str, str]:
        credentials = hook.credentials
        headers: dict[str, str] = {}
        if isinstance(credentials, AnonymousCredentials):
            return headers
        if credentials.token_state is not TokenState.FRESH:
            await self._refresh(hook, stale_token=credentials.token)
        credentials.apply(headers)
        return headers

    async def _refresh(self, hook: DicomStoreHook, *, stale_token: str | None) -> None:
        async with self._refresh_lock:
            # Somebody else may have done it while this call waited.
            if hook.credentials.token == stale_token:
                self._credentials_trouble.raise_again()
                with self._credentials_trouble.noted():
                    await sync_to_async(_refresh_credentials, thread_sensitive=False)(hook.credentials)


class _RecentTrouble:
    """Spares a thousand waiting calls from finding out one after the other that there are no credentials."""

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._since = 0.0

    def raise_again(self) -> None:
        if self._error is not None and time.monotonic() - self._since < TROUBLE_REMEMBERED:
            raise self._error.with_traceback(None)

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except (DicomExportError, GoogleAuthError) as error:
            self._error, self._since = error, time.monotonic()
            raise
        self._error = None


def _shown(request: ApiRequest, error: Exception) -> Exception | None:
    # The HTTP libraries' own errors quote the URL, and a query may hold patient attributes.
    return None if request.query else error


def _refresh_credentials(credentials: Credentials) -> None:
    with requests.Session() as session:
        credentials.refresh(google.auth.transport.requests.Request(session))
