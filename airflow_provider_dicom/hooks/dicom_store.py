"""Hooks for DICOM stores of the Cloud Healthcare API."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_dicom import connection_type
from airflow_provider_dicom.api import methods
from airflow_provider_dicom.api.dicomweb import MAX_SEARCH_LIMIT, search_pages
from airflow_provider_dicom.api.paging import Pages
from airflow_provider_dicom.api.resource_names import OperationName
from airflow_provider_dicom.exceptions import (
    DicomExportError,
    DicomExportSubmissionUnknownError,
    DicomExportTransientError,
)
from airflow_provider_dicom.hooks._base import DicomStoreBaseAsyncHook
from airflow_provider_dicom.hooks._failures import FailuresHook
from airflow_provider_dicom.lineage.datasets import report_export
from airflow_provider_dicom.longrunning.polling import CONFIRMATION_PAUSES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from airflow_provider_dicom.api.dicomweb import SearchFilters, SearchLevel
    from airflow_provider_dicom.api.export_request import ExportRequest
    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName
    from airflow_provider_dicom.api_types import (
        DicomJson,
        DicomStore,
        DicomStoreMetrics,
        Operation,
        OperationPage,
    )
    from airflow_provider_dicom.longrunning.polling import OperationWatch


class DicomStoreHook(FailuresHook):
    """
    Calls the Cloud Healthcare API for DICOM stores, their exports and their Operations.

    https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores

    :param gcp_conn_id: the Airflow connection, of the type of this provider or of Google's.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param api_endpoint: another endpoint than Google's, such as a regional one or a local Healthcare API.
    """

    # Airflow 2 looks for the next two methods in the class itself, not in its bases.

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """
        Return the form's fields, for Airflow versions that do not read them from the provider's metadata.
        """
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
        """
        Return the look of the form's fields, for Airflow versions that do not read it from the metadata.
        """
        return {
            "hidden_fields": list(connection_type.HIDDEN_FIELDS),
            "relabeling": {},
            "placeholders": dict(connection_type.PLACEHOLDERS),
        }

    def export(self, store: DicomStoreName, request: ExportRequest) -> Operation:
        """
        Submit an export; the submission is sent again only if the API certainly did not process it.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores/export

        :param store: the DICOM store.
        :param request: the options of the export.
        :raises DicomExportSubmissionUnknownError: if the export may or may not have been accepted.
        :raises DicomExportError: if the export was not accepted.
        """
        operation = self._submit(methods.export(store, request))
        try:
            report_export(self, store, request)
        except Exception as error:  # a lineage backend may raise anything, and the export is accepted
            self.log.warning("The lineage of the export was not reported: %s", error)
        return operation

    def _submit(self, request: ApiRequest) -> Operation:
        """Submit a long-running operation of any kind, with the same guarantee."""
        try:
            return cast("Operation", self._send(request))
        except DicomExportTransientError as error:
            if error.safe_to_resend:
                raise
            raise DicomExportSubmissionUnknownError(
                "The reply to the submission was lost, so the API may or may not have accepted the request "
                f"to {request.action}: {error}. The dataset's operations show which: "
                f"{request.dataset.list_operations_command}",
                retry_after=error.retry_after,
            ) from error

    def get_operation(self, operation_name: str, *, num_retries: int | None = None) -> Operation:
        """
        Get the latest state of an Operation.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/get

        :param operation_name: the full name of the Operation.
        :param num_retries: the number of repetitions after a transient error; the connection's if not given.
        :raises DicomExportError: if the API refuses.
        """
        return cast(
            "Operation", self._send(methods.get_operation(OperationName.parse(operation_name)), num_retries)
        )

    def wait_for_operation(
        self, watch: OperationWatch, *, sleep: Callable[[float], object] = time.sleep
    ) -> Operation:
        """
        Poll an Operation until it is done, and return it.

        :param watch: the state of polling, which decides the pauses and when to give up.
        :param sleep: waits for a number of seconds between two polls; it may raise an error to end the wait.
        :raises DicomExportError: if the watch gives up.
        """
        while True:
            sleep(watch.next_pause())
            try:
                operation = self.get_operation(watch.operation_name, num_retries=0)
                if watch.record_response(operation):
                    return operation
            except DicomExportError as error:
                watch.record_error(error)

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
        Request the cancellation of an Operation; the API cancels on a best-effort basis.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/cancel

        :param operation_name: the full name of the Operation.
        :raises DicomExportError: if the API refuses.
        """
        self._send(methods.cancel_operation(OperationName.parse(operation_name)))

    def cancel_and_confirm(self, operation_name: str) -> Operation:
        """
        Cancel an Operation, and return it when it is done, or after a few seconds in its state at that time.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/cancel

        :param operation_name: the full name of the Operation.
        :raises DicomExportError: if the API refuses.
        """
        try:
            self.cancel_operation(operation_name)
        except DicomExportError:
            # The API may refuse to cancel an Operation that has ended meanwhile.
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
        Get the size of a DICOM store; the API updates these numbers with a delay.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores/getDICOMStoreMetrics

        :param store: the DICOM store.
        :raises DicomExportError: if the API refuses.
        """
        return cast("DicomStoreMetrics", self._send(methods.get_dicom_store_metrics(store)))

    def test_iam_permissions(
        self, resource: DicomStoreName | DatasetName, permissions: Iterable[str]
    ) -> list[str]:
        """
        Return those of the given IAM permissions that the caller has.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores/testIamPermissions

        :param resource: the DICOM store or the dataset.
        :param permissions: the IAM permissions to test.
        :raises DicomExportError: if the API refuses.
        """
        response = cast(
            "dict[str, list[str]]", self._send(methods.test_iam_permissions(resource, permissions))
        )
        return response.get("permissions", [])

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

        No match is lost if others are deleted or added meanwhile, but some can then come twice.

        https://cloud.google.com/healthcare-api/docs/dicom#search_transaction

        :param store: the DICOM store.
        :param level: the level of the matches: studies, series or instances.
        :param study_uid: search within this study only.
        :param series_uid: search within this series of the study only.
        :param filters: attributes and the values that they must have.
        :param include_fields: attributes to return in addition to the default ones.
        :param page_size: matches on a page, 2 at least; the API's maximum if not given.
        :raises DicomExportError: if the API refuses, has more matches than it returns, or keeps moving them.
        """
        # Pages overlap by one match.
        limit = max(page_size or MAX_SEARCH_LIMIT.get(level, 1), 2)
        fields = tuple(include_fields)
        pairs = tuple(filters.items() if hasattr(filters, "items") else filters)

        def page(offset: int) -> list[DicomJson]:
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
            return cast("list[DicomJson]", self._send(request))

        return search_pages(page)


class DicomStoreAsyncHook(DicomStoreBaseAsyncHook[DicomStoreHook]):
    """
    Polls and cancels Operations from an event loop without blocking it.

    Use it as ``async with DicomStoreAsyncHook(...) as hook``: one HTTP session and one token, refreshed off
    the loop before it expires, serve all calls.

    https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations

    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param api_endpoint: another endpoint than Google's, such as a regional one or a local Healthcare API.
    :param max_connections: the number of connections that may be open at a time.
    """

    sync_hook_class = DicomStoreHook

    async def get_operation(self, operation_name: str, *, num_retries: int | None = None) -> Operation:
        """
        Get the latest state of an Operation.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/get

        :param operation_name: the full name of the Operation.
        :param num_retries: the number of repetitions after a transient error; the connection's if not given.
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
        pages = Pages(request)
        while pages.request is not None:
            page = cast("OperationPage", await self._send(pages.request))
            for operation in page.get("operations", []):
                yield operation
            pages.advance(page)

    async def cancel_operation(self, operation_name: str) -> None:
        """
        Request the cancellation of an Operation; the API cancels on a best-effort basis.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/cancel

        :param operation_name: the full name of the Operation.
        :raises DicomExportError: if the API refuses.
        """
        await self._send(methods.cancel_operation(OperationName.parse(operation_name)))

    async def cancel_and_confirm(self, operation_name: str) -> Operation:
        """
        Cancel an Operation, and return it when it is done, or after a few seconds in its state at that time.

        https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/cancel

        :param operation_name: the full name of the Operation.
        :raises DicomExportError: if the API refuses.
        """
        try:
            await self.cancel_operation(operation_name)
        except DicomExportError:
            # The API may refuse to cancel an Operation that has ended meanwhile.
            if not (operation := await self.get_operation(operation_name)).get("done"):
                raise
            return operation
        for pause in CONFIRMATION_PAUSES:
            if (operation := await self.get_operation(operation_name)).get("done"):
                return operation
            await asyncio.sleep(pause)
        return await self.get_operation(operation_name)
