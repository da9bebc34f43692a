"""The export operator's OpenLineage facets; imported only when the OpenLineage provider requests them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.openlineage.facet import (
    Dataset,
    InputDataset,
    OutputDataset,
    OutputStatisticsOutputDatasetFacet,
    RunFacet,
)
from airflow.providers.openlineage.extractors import OperatorLineage
from attr import define

from airflow_provider_dicom import __version__
from airflow_provider_dicom.api.destinations import GcsUri, parse_destination
from airflow_provider_dicom.api.export_request import is_one_file_per_instance
from airflow_provider_dicom.console import logs_url
from airflow_provider_dicom.lineage.datasets import dataset_of_destination, dataset_of_store
from airflow_provider_dicom.longrunning.outcome import counters

if TYPE_CHECKING:
    from airflow_provider_dicom.api.export_request import ExportRequest
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.api_types import Operation

FACET_NAME = "dicom_export"
_SCHEMA = (
    f"https://pypi.org/project/airflow-provider-dicom/{__version__}/"
    "#/airflow_provider_dicom/openlineage/DicomExportRunFacet"
)


@define
class DicomExportRunFacet(RunFacet):
    """
    The Operation that exports a DICOM store.

    :param operationName: the full name of the Operation.
    :param done: whether the Operation has ended.
    :param logsUrl: the address of its logs.
    :param success: instances exported; None, like the other counts, if only the name is known.
    :param failure: instances that could not be exported.
    :param pending: instances still to export.
    :param createTime: when it was submitted, as an RFC 3339 time.
    :param endTime: when it ended, as an RFC 3339 time.
    :param errorCode: the ``google.rpc.Code`` that it ended with, if it failed.
    """

    # OpenLineage's fields are written in camel case.
    operationName: str  # noqa: N815
    done: bool
    logsUrl: str  # noqa: N815
    success: int | None = None
    failure: int | None = None
    pending: int | None = None
    createTime: str | None = None  # noqa: N815
    endTime: str | None = None  # noqa: N815
    errorCode: int | None = None  # noqa: N815

    @staticmethod
    def _get_schema() -> str:
        return _SCHEMA


def export_lineage(
    request: ExportRequest, store: DicomStoreName | None, operation: Operation | None
) -> OperatorLineage[Dataset, RunFacet]:
    """
    Describe an export for OpenLineage.

    :param request: the options of the export.
    :param store: the DICOM store, if its full name is known.
    :param operation: the Operation as the API returned it last, if there is one.
    """
    inputs: list[Dataset] = []
    if store is not None:
        namespace, name = dataset_of_store(store)
        inputs.append(InputDataset(namespace=namespace, name=name))
    return OperatorLineage(
        inputs=inputs,
        outputs=[_output(request, operation)],
        run_facets={} if operation is None else {FACET_NAME: _run_facet(operation, store)},
    )


def _output(request: ExportRequest, operation: Operation | None) -> OutputDataset:
    destination = parse_destination(request.destination)
    namespace, name = dataset_of_destination(destination)
    output = OutputDataset(namespace=namespace, name=name)
    if operation is None or not operation.get("done"):
        return output
    success = counters(operation).success
    if not isinstance(destination, GcsUri):
        statistics = OutputStatisticsOutputDatasetFacet(rowCount=success)
    elif is_one_file_per_instance(request.mime_type):
        statistics = OutputStatisticsOutputDatasetFacet(fileCount=success)
    else:
        # The export writes one image for each frame, and the API counts instances only.
        return output
    output.outputFacets = {"outputStatistics": statistics}
    return output


def _run_facet(operation: Operation, store: DicomStoreName | None) -> DicomExportRunFacet:
    metadata = operation.get("metadata", {})
    count = counters(operation) if metadata else None
    return DicomExportRunFacet(
        operationName=operation["name"],
        done=bool(operation.get("done")),
        logsUrl=logs_url(operation, None if store is None else str(store)),
        success=count.success if count else None,
        failure=count.failure if count else None,
        pending=count.pending if count else None,
        createTime=metadata.get("createTime"),
        endTime=metadata.get("endTime"),
        errorCode=operation.get("error", {}).get("code"),
    )
