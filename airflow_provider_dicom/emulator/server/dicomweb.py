"""The DICOMweb methods of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_dicom.emulator.handlers import qido, stow, wado

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.messages import Handler

_INSTANCES = "datasets.dicomStores.studies.series.instances"

#: The methods by their ids in the discovery document.
HANDLERS: dict[str, Handler] = {
    "datasets.dicomStores.storeInstances": stow.store_instances,
    "datasets.dicomStores.studies.storeInstances": stow.store_instances,
    "datasets.dicomStores.searchForStudies": qido.search,
    "datasets.dicomStores.searchForSeries": qido.search,
    "datasets.dicomStores.searchForInstances": qido.search,
    "datasets.dicomStores.studies.searchForSeries": qido.search,
    "datasets.dicomStores.studies.searchForInstances": qido.search,
    "datasets.dicomStores.studies.series.searchForInstances": qido.search,
    "datasets.dicomStores.studies.retrieveStudy": wado.retrieve,
    "datasets.dicomStores.studies.retrieveMetadata": wado.metadata,
    "datasets.dicomStores.studies.series.retrieveSeries": wado.retrieve,
    "datasets.dicomStores.studies.series.retrieveMetadata": wado.metadata,
    f"{_INSTANCES}.retrieveInstance": wado.retrieve,
    f"{_INSTANCES}.retrieveMetadata": wado.metadata,
    "datasets.dicomStores.studies.delete": wado.delete,
    "datasets.dicomStores.studies.series.delete": wado.delete,
    f"{_INSTANCES}.delete": wado.delete,
}
