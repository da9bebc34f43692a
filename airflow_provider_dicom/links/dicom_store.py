"""Extra links of the export operator; they are there as soon as the export is submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_provider_dicom import console
from airflow_provider_dicom.destinations import parse_destination
from airflow_provider_dicom.exceptions import DicomExportError
from airflow_provider_dicom.resources import DicomStoreName, OperationName

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey

    from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator

#: The XCom that holds the Operation's name; what was submitted under it is found again by it.
OPERATION_NAME_KEY = "operation_name"


class _ExportLink(BaseOperatorLink):
    """A link to what one submitted export is about."""

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Build the link's address; empty if there is nothing to link to yet.

        :param operator: the operator.
        :param ti_key: the task instance.
        """
        operation_name = XCom.get_value(key=OPERATION_NAME_KEY, ti_key=ti_key)
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
