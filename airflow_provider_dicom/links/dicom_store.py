"""Extra links of the export operator, available as soon as the export is submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_provider_dicom import console
from airflow_provider_dicom.api.destinations import GcsUri, parse_destination
from airflow_provider_dicom.api.resource_names import DicomStoreName, OperationName
from airflow_provider_dicom.compat import BUILDS_LINKS_ON_WORKER
from airflow_provider_dicom.exceptions import DicomExportError
from airflow_provider_dicom.results import OPERATION_NAME_KEY

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey

    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.compat import TaskInstance


class _Export(Protocol):
    """The parameters of an export operator that links need."""

    dicom_store_id: str
    destination: str


@runtime_checkable
class SubmitsExports(Protocol):
    """An operator that knows its Operation."""

    @property
    def submitted_operation(self) -> Operation | None:
        """The Operation as far as it is known; None before the submission."""

    def store_of(self, operation: Operation) -> DicomStoreName:
        """Return the DICOM store that the Operation exports."""


class _ExportLink(BaseOperatorLink):
    """A link of one submitted export."""

    @property
    def xcom_key(self) -> str:
        """The key of the XCom with the address: Airflow 3's own key, which Airflow 2 lacks."""
        return f"_link_{type(self).__name__}"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Build the link's address; empty before the submission.

        :param operator: the operator.
        :param ti_key: the task instance.
        """
        if not BUILDS_LINKS_ON_WORKER:
            return XCom.get_value(key=self.xcom_key, ti_key=ti_key) or ""
        if isinstance(operator, SubmitsExports):
            # The process that ran the task. Airflow logs an error for an XCom that is not there (yet).
            return self.address(operator, operator.submitted_operation)
        name = XCom.get_value(key=OPERATION_NAME_KEY, ti_key=ti_key)
        return self.address(operator, {"name": name} if name else None)

    def address(self, operator: BaseOperator, operation: Operation | None) -> str:
        """
        Build the link's address for an Operation; empty without an Operation.

        :param operator: the operator.
        :param operation: the Operation as far as it is known.
        """
        if operation is None:
            return ""
        try:
            return self._address(cast("_Export", operator), operation)
        except (DicomExportError, AttributeError):
            # A link that cannot be built must not fail a task.
            return ""

    def _address(self, operator: _Export, operation: Operation) -> str:
        raise NotImplementedError


def _store(operator: _Export, operation: Operation) -> DicomStoreName:
    if isinstance(operator, SubmitsExports):
        return operator.store_of(operation)
    # The name validates the id: on Airflow 2 it may be a template that is not rendered.
    return DicomStoreName(OperationName.parse(operation["name"]).dataset, operator.dicom_store_id)


class DicomStoreLink(_ExportLink):
    """Links to the DICOM store in the Google Cloud console."""

    name = "DICOM store"

    def _address(self, operator: _Export, operation: Operation) -> str:
        store = _store(operator, operation)
        dataset = store.dataset
        return console.dicom_store_url(
            dataset.project_id, dataset.location, dataset.dataset_id, store.dicom_store_id
        )


class DicomExportLogsLink(_ExportLink):
    """Links to the Operation's logs in Cloud Logging."""

    name = "Export logs"

    def _address(self, operator: _Export, operation: Operation) -> str:
        return console.logs_query_url(operation, str(_store(operator, operation)))


class DicomExportDestinationLink(_ExportLink):
    """Links to the bucket's folder or the table that the export writes to."""

    name = "Export destination"

    def _address(self, operator: _Export, operation: Operation) -> str:
        OperationName.parse(operation["name"])
        destination = parse_destination(operator.destination)
        if isinstance(destination, GcsUri):
            return console.storage_url(destination.bucket, destination.path)
        return console.table_url(destination.project_id, destination.dataset_id, destination.table_id)


#: The extra links of the export operator.
EXPORT_LINKS = (DicomStoreLink(), DicomExportLogsLink(), DicomExportDestinationLink())


def store_links(operator: BaseOperator, task_instance: TaskInstance, operation: Operation) -> None:
    """
    Store a task's links before Airflow 3 does so itself, which is when the task leaves its worker.

    :param operator: the operator.
    :param task_instance: the task instance.
    :param operation: the Operation as far as it is known.
    """
    for link in operator.operator_extra_links:
        if isinstance(link, _ExportLink):
            task_instance.xcom_push(key=link.xcom_key, value=link.address(operator, operation))
