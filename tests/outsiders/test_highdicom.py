"""What highdicom writes is stored, found, exported, imported and read by highdicom again."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import highdicom
import numpy as np
import pytest
from highdicom.sr.coding import CodedConcept
from pydicom import Dataset, dcmread, dcmwrite

from rig.dicom_files import create_store, sample_files

if TYPE_CHECKING:
    import requests
    from dicomweb_client import DICOMwebClient

    from rig.servers import HealthcareEmulator, StorageEmulator

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CT = next(path for path in sample_files() if path.name == "CT_small.dcm")
STORED = (("application/dicom", "*"),)
EQUIPMENT = {
    "manufacturer": "outsiders",
    "manufacturer_model_name": "tests",
    "software_versions": "1",
    "device_serial_number": "1",
}


def named(number: int) -> dict[str, object]:
    return {
        "series_instance_uid": highdicom.UID(),
        "series_number": number,
        "sop_instance_uid": highdicom.UID(),
        "instance_number": 1,
    }


def segmentation(source: Dataset) -> Any:
    code = CodedConcept("85756007", "SCT", "Tissue")
    description = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="bright",
        segmented_property_category=code,
        segmented_property_type=code,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    return highdicom.seg.Segmentation(
        source_images=[source],
        pixel_array=(source.pixel_array > source.pixel_array.mean()).astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[description],
        **named(100),
        **EQUIPMENT,
    )


def secondary_capture(source: Dataset) -> Any:
    pixels = (source.pixel_array // 16).astype(np.uint8)
    return highdicom.sc.SCImage.from_ref_dataset(
        ref_dataset=source,
        pixel_array=pixels,
        photometric_interpretation=highdicom.PhotometricInterpretationValues.MONOCHROME2,
        bits_allocated=8,
        coordinate_system=highdicom.CoordinateSystemNames.PATIENT,
        patient_orientation=("L", "P"),
        manufacturer="outsiders",
        **named(101),
    )


def key_objects(source: Dataset) -> Any:
    content = highdicom.ko.KeyObjectSelection(
        document_title=CodedConcept("113000", "DCM", "Of Interest"),
        referenced_objects=[source],
    )
    return highdicom.ko.KeyObjectSelectionDocument(
        evidence=[source], content=content, manufacturer="outsiders", **named(102)
    )


MADE = {"segmentation": segmentation, "secondary capture": secondary_capture, "key objects": key_objects}


def as_bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", MADE)
def test_object_survives_store_export_import_and_retrieval(
    kind: str,
    healthcare: HealthcareEmulator,
    storage: StorageEmulator,
    http: requests.Session,
    dicom_store: str,
    client: DICOMwebClient,
) -> None:
    source = dcmread(CT)
    made = MADE[kind](source)
    client.store_instances([source, made])
    found = client.search_for_instances(search_filters={"SOPInstanceUID": made.SOPInstanceUID})
    assert [one["00080060"]["Value"] for one in found] == [[made.Modality]]

    folder = f"gs://outsiders/{dicom_store.rpartition('/')[2]}"
    exported = http.post(
        f"{healthcare.url}/v1/{dicom_store}:export", json={"gcsDestination": {"uriPrefix": folder}}
    )
    assert exported.ok
    copy = f"{dicom_store}-copy"
    create_store(healthcare.url, copy)
    imported = http.post(
        f"{healthcare.url}/v1/{copy}:import", json={"gcsSource": {"uri": f"{folder}/**.dcm"}}
    )
    operation = http.get(f"{healthcare.url}/v1/{imported.json()['name']}").json()
    assert operation["metadata"]["counter"] == {"success": "2"}

    client.base_url = client.base_url.replace(dicom_store, copy)
    uids = (made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID)
    path = f"{healthcare.url}/v1/{copy}/dicomWeb/studies/{uids[0]}/series/{uids[1]}/instances/{uids[2]}"
    retrieved = http.get(path, headers={"Accept": "application/dicom; transfer-syntax=*"}).content
    assert retrieved == as_bytes(made)
    if kind == "segmentation":
        again = highdicom.seg.segread(io.BytesIO(retrieved))
        assert (again.pixel_array == made.pixel_array).all()
        assert again.get_segment_description(1).segment_label == "bright"
    elif kind == "key objects":
        again = highdicom.ko.KeyObjectSelectionDocument.from_dataset(dcmread(io.BytesIO(retrieved)))
        assert again.resolve_reference(source.SOPInstanceUID) == tuple(
            source[name].value for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        )
