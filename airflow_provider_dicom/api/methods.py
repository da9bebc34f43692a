"""The API methods that this provider calls, each as a function that builds the request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode

from airflow_provider_dicom.api import permissions
from airflow_provider_dicom.api.dicomweb import MAX_SEARCH_LIMIT
from airflow_provider_dicom.api.resource_names import DicomStoreName, uid_error
from airflow_provider_dicom.api_types import (
    DicomStore,
    DicomStoreMetrics,
    DicomStorePage,
    GrantedPermissions,
    Operation,
    OperationPage,
)
from airflow_provider_dicom.validation import raise_if_invalid

if TYPE_CHECKING:
    from airflow_provider_dicom.api.dicomweb import SearchFilters, SearchLevel
    from airflow_provider_dicom.api.export_request import ExportRequest
    from airflow_provider_dicom.api.permissions import CallerPermission
    from airflow_provider_dicom.api.resource_names import DatasetName, OperationName

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class ApiRequest:
    """
    One request to the API, with the facts that retries and error messages need.

    :param action: the verb phrase that follows "Could not" in error messages.
    :param http_method: the HTTP method.
    :param path: the quoted path, from ``/v1/`` on.
    :param query: the query parameters.
    :param body: the JSON body.
    :param permission: the IAM permission that the caller needs.
    :param dataset: the dataset of the request.
    :param store: the DICOM store of the request, if it has one.
    :param operation_name: the full name of the Operation that the request is about, if it is about one.
    :param idempotent: sending the request twice has the same effect as sending it once. The submission of a
        long-running operation is not idempotent: the API knows no request id, and would start a second
        Operation.
    :param destination: the URI that the Healthcare Service Agent writes to, if there is one.
    :param source: the URI that the Healthcare Service Agent reads, such as the filter file, if there is one.
    :param response: the shape of a good response, as ``shapes.checked`` takes it.
    :param max_seconds: the time from the request to the end of the response, in seconds.
    :param max_bytes: the size of the response's body, decoded, in bytes.
    """

    action: str
    http_method: Literal["GET", "POST"] = "GET"
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, object] | None = None
    permission: CallerPermission
    dataset: DatasetName
    store: DicomStoreName | None = None
    operation_name: str | None = None
    idempotent: bool = True
    destination: str | None = None
    source: str | None = None
    response: object = dict[str, object]
    max_seconds: float = 60.0
    max_bytes: int = 32 * MIB

    @property
    def target(self) -> str:
        """The quoted path with its query."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path

    @property
    def is_private(self) -> bool:
        """Whether URL and answer may name a patient, so that nothing may quote them."""
        return "/dicomWeb/" in self.path

    def page(self, token: str) -> ApiRequest:
        """
        Build the request for another page of the same list.

        :param token: ``nextPageToken`` of the previous page.
        """
        return replace(
            self, query=(*(pair for pair in self.query if pair[0] != "pageToken"), ("pageToken", token))
        )


def _path(name: object, suffix: str = "") -> str:
    kind, project_id, *rest = str(name).split("/")
    # Domain-scoped project ids contain ":"; in any other part a ":" would begin a custom method.
    quoted = (kind, quote(project_id, safe=":"), *(quote(part, safe="") for part in rest))
    return f"/v1/{'/'.join(quoted)}{suffix}"


def _paging(filter_: str | None, page_size: int | None) -> tuple[tuple[str, str], ...]:
    pairs = (("filter", filter_), ("pageSize", page_size))
    return tuple((name, str(value)) for name, value in pairs if value is not None)


def export(store: DicomStoreName, request: ExportRequest) -> ApiRequest:
    """Build ``dicomStores.export``."""
    return ApiRequest(
        action=f"export {store} to {request.destination}",
        http_method="POST",
        path=_path(store, ":export"),
        body=dict(request.body()),
        response=Operation,
        max_seconds=120.0,
        permission=permissions.EXPORT,
        dataset=store.dataset,
        store=store,
        idempotent=False,
        destination=request.destination,
        source=request.filter_uri,
    )


def get_dicom_store(store: DicomStoreName) -> ApiRequest:
    """Build ``dicomStores.get``."""
    return ApiRequest(
        action=f"get {store}",
        path=_path(store),
        response=DicomStore,
        permission=permissions.GET_STORE,
        dataset=store.dataset,
        store=store,
    )


def list_dicom_stores(dataset: DatasetName, *, filter_: str | None, page_size: int | None) -> ApiRequest:
    """Build ``dicomStores.list``."""
    return ApiRequest(
        action=f"list the DICOM stores of {dataset}",
        path=_path(dataset, "/dicomStores"),
        query=_paging(filter_, page_size),
        response=DicomStorePage,
        permission=permissions.LIST_STORES,
        dataset=dataset,
    )


def get_dicom_store_metrics(store: DicomStoreName) -> ApiRequest:
    """Build ``dicomStores.getDICOMStoreMetrics``."""
    return ApiRequest(
        action=f"get the metrics of {store}",
        path=_path(store, ":getDICOMStoreMetrics"),
        response=DicomStoreMetrics,
        permission=permissions.GET_STORE,
        dataset=store.dataset,
        store=store,
    )


def test_iam_permissions(resource: DicomStoreName | DatasetName, wanted: Iterable[str]) -> ApiRequest:
    """Build ``testIamPermissions`` of a DICOM store or a dataset."""
    store = resource if isinstance(resource, DicomStoreName) else None
    return ApiRequest(
        action=f"test the permissions on {resource}",
        http_method="POST",
        path=_path(resource, ":testIamPermissions"),
        body={"permissions": list(wanted)},
        response=GrantedPermissions,
        permission=permissions.GET_STORE,
        dataset=resource.dataset if isinstance(resource, DicomStoreName) else resource,
        store=store,
    )


def get_operation(name: OperationName) -> ApiRequest:
    """Build ``operations.get``."""
    return ApiRequest(
        action=f"get the state of {name}",
        path=_path(name),
        response=Operation,
        permission=permissions.GET_OPERATION,
        dataset=name.dataset,
        operation_name=str(name),
    )


def list_operations(dataset: DatasetName, *, filter_: str | None, page_size: int | None) -> ApiRequest:
    """Build ``operations.list``."""
    return ApiRequest(
        action=f"list the operations of {dataset}",
        path=_path(dataset, "/operations"),
        query=_paging(filter_, page_size),
        response=OperationPage,
        permission=permissions.LIST_OPERATIONS,
        dataset=dataset,
    )


def cancel_operation(name: OperationName) -> ApiRequest:
    """Build ``operations.cancel``."""
    return ApiRequest(
        action=f"cancel {name}",
        http_method="POST",
        path=_path(name, ":cancel"),
        body={},
        permission=permissions.CANCEL_OPERATION,
        dataset=name.dataset,
        operation_name=str(name),
    )


def search(
    store: DicomStoreName,
    level: SearchLevel,
    *,
    study_uid: str | None,
    series_uid: str | None,
    filters: SearchFilters,
    include_fields: Iterable[str],
    limit: int,
    offset: int,
) -> ApiRequest:
    """Build one page of a QIDO-RS search; the discovery document has no query parameters for it."""
    uids = {"study_uid": study_uid, "series_uid": series_uid}
    errors = [error for name, uid in uids.items() if uid is not None and (error := uid_error(name, uid))]
    if series_uid is not None and study_uid is None:
        errors.append(f"series_uid={series_uid!r} without study_uid; accepted: both.")
    if level not in MAX_SEARCH_LIMIT:
        errors.append(f"level={level!r} is not accepted; accepted: {', '.join(MAX_SEARCH_LIMIT)}.")
    raise_if_invalid(errors)
    scope = f"studies/{study_uid}/" if study_uid else ""
    scope += f"series/{series_uid}/" if series_uid else ""
    pairs = filters.items() if isinstance(filters, Mapping) else filters
    return ApiRequest(
        action=f"search {level} in {store}",
        path=_path(store, f"/dicomWeb/{scope}{level}"),
        query=(
            *((name, str(value)) for name, value in pairs),
            *(("includefield", name) for name in include_fields),
            ("limit", str(limit)),
            ("offset", str(offset)),
        ),
        # A page can hold 50,000 matches, of which little is read: their values are not looked at.
        response=list[dict[str, dict[str, Any]]],
        max_seconds=600.0,
        max_bytes=512 * MIB,
        permission=permissions.SEARCH,
        dataset=store.dataset,
        store=store,
    )
