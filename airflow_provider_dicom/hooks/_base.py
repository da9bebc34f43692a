"""What the hooks share: the connection with its form and its Test, the credentials, and the endpoint."""

from __future__ import annotations

import asyncio
import os
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import tenacity
from airflow.providers.common.compat.sdk import AirflowException
from airflow.providers.google.common.hooks.base_google import (
    PROVIDE_PROJECT_ID,
    GoogleBaseAsyncHook,
    GoogleBaseHook,
)
from asgiref.sync import sync_to_async
from google.auth.credentials import AnonymousCredentials

from airflow_provider_dicom import connection_type
from airflow_provider_dicom.api.endpoint import Endpoint, configured_endpoint, universe_endpoint
from airflow_provider_dicom.api.foreign_text import without_userinfo
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName
from airflow_provider_dicom.api.retry import retry_options
from airflow_provider_dicom.api.transport import Access
from airflow_provider_dicom.api.transport_sync import SyncTransport
from airflow_provider_dicom.exceptions import (
    DicomExportAuthenticationError,
    DicomExportError,
    DicomExportInvalidRequestError,
)
from airflow_provider_dicom.hooks._roles import check_roles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from google.auth.credentials import Credentials

    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.api.transport_async import AsyncTransport, CredentialErrorCache


#: Fields of a connection that say where its credentials come from.
_CREDENTIAL_FIELDS = (
    "is_anonymous",
    "key_path",
    "keyfile_dict",
    "key_secret_name",
    "credential_config_file",
    "idp_issuer_url",
    "idp_extra_params",
    "impersonation_chain",
    "quota_project_id",
)
_DEFAULT_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
_SyncHook = TypeVar("_SyncHook", bound="DicomStoreBaseHook")


class DicomStoreBaseHook(GoogleBaseHook):
    """
    Sends requests with the credentials and to the endpoint of an Airflow connection.

    :param gcp_conn_id: the Airflow connection, of the type of this provider or of Google's.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param api_endpoint: another endpoint than Google's, such as a regional one or a local Healthcare API.
    """

    conn_type = connection_type.CONN_TYPE
    hook_name = connection_type.HOOK_NAME

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
        :raises DicomExportInvalidRequestError: if an id is invalid, or neither given nor in the connection.
        """
        location, dataset_id = self._or_default(location=location, dataset_id=dataset_id)
        if project_id is None:
            project_id = self.default_project_id()
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

    def default_project_id(self) -> str | None:
        """Return the project of the connection, or of its credentials; None if neither names one."""
        if self.endpoint.anonymous:
            # A local Healthcare API needs no credentials, so there may be none that know a project.
            return cast("str | None", self._get_field("project"))
        project_id = self.project_id
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
        :raises DicomExportInvalidRequestError: if an id is invalid, or neither given nor in the connection.
        """
        location, dataset_id, dicom_store_id = self._or_default(
            location=location, dataset_id=dataset_id, dicom_store_id=dicom_store_id
        )
        return DicomStoreName(self.dataset_name(location, dataset_id, project_id), dicom_store_id)

    def test_connection(self) -> tuple[bool, str]:
        """Read the connection's DICOM store, and name the permissions that its account lacks, if any."""
        try:
            with self:
                return check_roles(self, self.dicom_store_name())
        except AirflowException as error:
            return False, str(error)

    def close(self) -> None:
        """Close the HTTP session, if one was opened."""
        if "_transport" in self.__dict__:
            self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def refuse_unlisted_endpoint(self) -> None:
        """
        Refuse an ``api_endpoint`` that a DAG's user may have chosen, unless the connection lists it.

        Loopback endpoints, and credentials that are anonymous, are not refused.

        :raises DicomExportInvalidRequestError: if the connection's token must not be sent to the endpoint.
        """
        if self._get_field("is_anonymous"):
            return
        endpoint = configured_endpoint(self.api_endpoint)
        listed = self._get_field(connection_type.ALLOWED_ENDPOINTS) or ""
        listed = listed.split(",") if isinstance(listed, str) else listed
        allowed = [*listed, self._get_field("api_endpoint")]
        if endpoint is None or endpoint.anonymous or endpoint.is_loopback:
            return
        if endpoint not in [configured_endpoint(str(one).strip()) for one in allowed if one]:
            raise DicomExportInvalidRequestError(
                f"api_endpoint={endpoint.url!r} comes from a template, and the connection "
                f"{self.gcp_conn_id!r} does not list it: whoever fills the template would choose where the "
                "access token goes; accepted: an endpoint as literal text in the DAG, or one that the "
                "connection names as its api_endpoint or among its "
                f"{connection_type.ALLOWED_ENDPOINTS}."
            )

    @cached_property
    def endpoint(self) -> Endpoint:
        """
        The server that gets the requests.

        :raises DicomExportInvalidRequestError: if a token would be sent unencrypted.
        """
        for api_endpoint in (self.api_endpoint, self._get_field("api_endpoint")):
            if (configured := configured_endpoint(api_endpoint)) is not None:
                return configured
        return universe_endpoint(self.universe_domain)

    @property
    def universe_domain(self) -> str | None:
        """The domain of the Google Cloud universe; None for Google's own."""
        # Older Google providers have no method that tells it.
        universe = os.environ.get("GOOGLE_CLOUD_UNIVERSE_DOMAIN")
        return universe or getattr(self.get_credentials(), "universe_domain", None)

    def get_credentials_and_project_id(self) -> tuple[Credentials, str | None]:
        """
        Load the credentials of the connection, and the project that they belong to.

        :raises DicomExportAuthenticationError: if the connection yields none; it quotes no setting.
        """
        try:
            return super().get_credentials_and_project_id()
        except Exception as error:  # a credential source may raise anything
            raise DicomExportAuthenticationError(self._credentials_advice(error)) from None

    @property
    def credential_settings(self) -> list[str]:
        """The names of the connection's settings that say where its credentials come from."""
        return [name for name in _CREDENTIAL_FIELDS if self._get_field(name)]

    def _credentials_advice(self, error: Exception) -> str:
        found = self.credential_settings
        where = f"the connection's {' and '.join(found)}"
        if not found and not os.environ.get(_DEFAULT_CREDENTIALS):
            return (
                f"The connection {self.gcp_conn_id!r} names no credentials, and this machine has no default "
                f"ones ({type(error).__name__}). Give the connection a key, or set up Application Default "
                "Credentials on workers and triggerers: "
                "https://cloud.google.com/docs/authentication/provide-credentials-adc"
            )
        if not found:
            where = f"the environment's {_DEFAULT_CREDENTIALS}"
        # Only the Google provider's own sentences are quoted: other exceptions may quote a key.
        cause = f": {without_userinfo(str(error))}" if type(error) is AirflowException else ""
        return (
            f"The connection {self.gcp_conn_id!r} yields no credentials ({type(error).__name__}{cause}). "
            f"Check {where}."
        )

    @cached_property
    def credentials(self) -> Credentials:
        """The credentials that sign requests."""
        return AnonymousCredentials() if self.endpoint.anonymous else self.get_credentials()

    @property
    def caller(self) -> str | None:
        """The e-mail address of the account that signs requests, if it is known."""
        return getattr(self.credentials, "service_account_email", None)

    @property
    def num_retries(self) -> int:
        """The number of repetitions after a transient error."""
        # Google providers before 22 take 0 for "not given".
        return 0 if self.extras.get("num_retries") in (0, "0") else super().num_retries

    @cached_property
    def access(self) -> Access:
        """The endpoint and the credentials, as a transport needs them."""
        return Access.in_environment(self.endpoint, self.credentials, self.caller)

    @cached_property
    def _transport(self) -> SyncTransport:
        return SyncTransport(self.access)

    def _send(self, request: ApiRequest, num_retries: int | None = None) -> object:
        return self._transport.send(request, self.num_retries if num_retries is None else num_retries)

    def _pages(self, request: ApiRequest, items: str) -> Iterator[object]:
        return self._transport.pages(request, items, self.num_retries)


class DicomStoreBaseAsyncHook(GoogleBaseAsyncHook, Generic[_SyncHook]):
    """
    Sends requests from an event loop, with one HTTP session and one token for all calls.

    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param api_endpoint: another endpoint than Google's, such as a regional one or a local Healthcare API.
    :param max_connections: the number of connections that may be open at a time.
    """

    sync_hook_class: type[_SyncHook]

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
        self._setup_lock = asyncio.Lock()
        self._loaded_hook: _SyncHook | None = None

    @cached_property
    def _credential_errors(self) -> CredentialErrorCache:
        # Imported where it is used: a worker imports this module, too, and must not load aiohttp.
        from airflow_provider_dicom.api.transport_async import CredentialErrorCache

        return CredentialErrorCache()

    @cached_property
    def _transport(self) -> AsyncTransport:
        from airflow_provider_dicom.api.transport_async import AsyncTransport

        return AsyncTransport(self._max_connections, self._credential_errors)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the HTTP session, if one was opened."""
        if "_transport" in self.__dict__:
            await self._transport.close()

    async def get_sync_hook(self) -> _SyncHook:
        """
        Build the sync hook, with its connection and its credentials loaded, off the event loop.

        :raises DicomExportAuthenticationError: if the connection or its credentials cannot be loaded.
        """
        if self._loaded_hook is not None:
            return self._loaded_hook
        async with self._setup_lock:
            if self._loaded_hook is None:
                self._credential_errors.raise_cached()
                with self._credential_errors.caching():
                    # Not thread-sensitive: that would queue all triggers of a triggerer on one thread.
                    self._loaded_hook = await sync_to_async(self._load_sync_hook, thread_sensitive=False)()
        return self._loaded_hook

    def _load_sync_hook(self) -> _SyncHook:
        try:
            hook = self.sync_hook_class(**self._hook_kwargs)
            _ = hook.access
        except DicomExportError:
            raise
        except Exception as error:  # a secrets backend or a credential source may raise anything
            # Only Airflow's own sentences are quoted: others may quote what they could not read.
            cause = f": {without_userinfo(str(error))}" if isinstance(error, AirflowException) else ""
            raise DicomExportAuthenticationError(
                f"The connection {self._hook_kwargs['gcp_conn_id']!r} could not be loaded "
                f"({type(error).__name__}{cause}). Check it, and the account that it names."
            ) from None
        return hook

    async def send_once(self, request: ApiRequest) -> object:
        """
        Send a request without retries, and return the JSON of the response.

        :param request: the request.
        :raises DicomExportError: if there is no valid response.
        """
        return await self._send_once(await self.get_sync_hook(), request)

    async def _send(self, request: ApiRequest, num_retries: int | None = None) -> object:
        hook = await self.get_sync_hook()
        retries = hook.num_retries if num_retries is None else num_retries
        return await tenacity.AsyncRetrying(**retry_options(request, retries))(self._send_once, hook, request)

    async def _send_once(self, hook: _SyncHook, request: ApiRequest) -> object:
        try:
            return await self._transport.send_once(hook.access, request)
        except DicomExportAuthenticationError:
            # The connection may have got a new key since it was loaded.
            self._loaded_hook = None
            raise
