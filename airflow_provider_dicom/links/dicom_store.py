"""Extra links of the export operator; they are there as soon as the export is submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_provider_dicom import console
from airflow_provider_dicom.api.destinations import parse_destination
from airflow_provider_dicom.api.resource_names import DicomStoreName, OperationName
from airflow_provider_dicom.compat import BUILDS_LINKS_ON_WORKER
from airflow_provider_dicom.exceptions import DicomExportError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey

    from airflow_provider_dicom.longrunning.progress import TaskInstance
    from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

#: The XCom that holds the Operation's name; what was submitted under it is found again by it.
OPERATION_NAME_KEY = "operation_name"


class _ExportLink(BaseOperatorLink):
    """A link to what one submitted export is about."""

    @property
    def xcom_key(self) -> str:
        """The key of the XCom that holds the address: Airflow 3's own, which Airflow 2 lacks."""
        return f"_link_{type(self).__name__}"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Build the link's address; empty if there is nothing to link to yet.

        :param operator: the operator.
        :param ti_key: the task instance.
        """
        if not BUILDS_LINKS_ON_WORKER:
            return XCom.get_value(key=self.xcom_key, ti_key=ti_key) or ""
        return self.address(operator, XCom.get_value(key=OPERATION_NAME_KEY, ti_key=ti_key))

    def address(self, operator: BaseOperator, operation_name: str | None) -> str:
        """
        Build the link's address for an Operation; empty if there is none.

        :param operator: the operator.
        :param operation_name: the full name of the Operation.
        """
        if not operation_name:
            return ""
        try:
            return self._address(
                cast("DicomStoreExportOperator", operator), OperationName.parse(operation_name)
            )
        except (DicomExportError, AttributeError):
            # A link that cannot be built must not fail a task.
            return ""

    def _address(self, operator: DicomStoreExportOperator, operation: OperationName) -> str:
        raise NotImplementedError


class DicomStoreLink(_ExportLink):
    """Links to the DICOM store in the Google Cloud console."""

    name = "DICOM store"

    def _address(self, operator: DicomStoreExportOperator, operation: OperationName) -> str:
        return console.dicom_store_url(DicomStoreName(operation.dataset, operator.dicom_store_id))


class DicomExportLogsLink(_ExportLink):
    """Links to the Operation's logs in Cloud Logging."""

    name = "Export logs"

    def _address(self, operator: DicomStoreExportOperator, operation: OperationName) -> str:
        return console.operation_logs_url(str(operation))


class DicomExportDestinationLink(_ExportLink):
    """Links to the bucket's folder or the table that the export writes to."""

    name = "Export destination"

    def _address(self, operator: DicomStoreExportOperator, operation: OperationName) -> str:
        return console.destination_url(parse_destination(operator.destination))


#: What the export operator has.
EXPORT_LINKS = (DicomStoreLink(), DicomExportLogsLink(), DicomExportDestinationLink())


def store_links(operator: BaseOperator, task_instance: TaskInstance, operation_name: str) -> None:
    """
    Store a task's links; Airflow 3 itself does so when the task leaves its worker.

    :param operator: the operator.
    :param task_instance: the task instance.
    :param operation_name: the full name of the Operation.
    """
    for link in EXPORT_LINKS:
        task_instance.xcom_push(key=link.xcom_key, value=link.address(operator, operation_name))
