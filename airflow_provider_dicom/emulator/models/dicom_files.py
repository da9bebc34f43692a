"""Uploaded DICOM files: their UIDs, and their attributes as DICOM JSON."""

from __future__ import annotations

import hashlib
import threading
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from airflow_provider_dicom.emulator.names import is_uid

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pydicom import Dataset
    from pydicom.dataelem import DataElement

#: DICOM JSON (PS3.18, F): an attribute's 8-digit tag -> its ``vr`` and ``Value``.
Attributes: TypeAlias = "dict[str, dict[str, Any]]"

_OLD_SEPARATORS = {"DA": ".", "TM": ":"}
#: Dataset.to_json_dict(suppress_invalid_tags=True) changes a setting of the whole process and restores it.
#: Two threads at the same time could restore the strict setting for good, and then files with slightly
#: invalid values could no longer be read.
_strict_reading = threading.Lock()
#: The largest data set in the transfer syntax Deflated Explicit VR Little Endian.
MAX_INFLATED_BYTES = 256 * 1024 * 1024
#: Preamble, prefix, and the element with the length of the other elements of the file meta information.
_META_START = 128 + 4 + 12
_CHUNK_BYTES = 1024 * 1024
#: Values longer than this are bulk data, which is left out of the metadata.
BULK_DATA_BYTES = 1024
#: Values longer than this are not even read into memory.
_LARGE_BYTES = 1024 * 1024


def tags(*keywords: str) -> frozenset[str]:
    """Return the 8-digit tags of attributes."""
    return frozenset(f"{tag_for_keyword(keyword):08X}" for keyword in keywords)


#: Attributes of a study that Google's API returns on request only.
STUDY_DETAIL_TAGS = tags(
    *(
        "PersonIdentificationCodeSequence",
        "PersonAddress",
        "PersonTelephoneNumbers",
        "PersonTelecomInformation",
    ),
    *("InstitutionName", "InstitutionAddress", "InstitutionCodeSequence", "ConsultingPhysicianName"),
    *("ReferringPhysicianIdentificationSequence", "ConsultingPhysicianIdentificationSequence"),
    *(
        "IssuerOfAccessionNumberSequence",
        "LocalNamespaceEntityID",
        "UniversalEntityID",
        "UniversalEntityIDType",
    ),
    *("StudyDescription", "PhysiciansOfRecord", "PhysiciansOfRecordIdentificationSequence"),
    *("NameOfPhysiciansReadingStudy", "PhysiciansReadingStudyIdentificationSequence"),
    *("RequestingServiceCodeSequence", "ReferencedStudySequence", "ProcedureCodeSequence"),
    "ReasonForPerformedProcedureCodeSequence",
)
#: The attributes of the Patient, General Study and Patient Study modules (PS3.3, C.7.1 and C.7.2), too.
STUDY_TAGS = STUDY_DETAIL_TAGS | tags(
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC"),
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex"),
    *("OtherPatientIDs", "OtherPatientNames", "EthnicGroup", "PatientComments", "ResponsiblePerson"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
    *("PatientAge", "PatientSize", "PatientWeight", "Occupation", "AdditionalPatientHistory"),
)
#: The attributes of the General Series and General Equipment modules (PS3.3, C.7.3 and C.7.5).
SERIES_TAGS = tags(
    *("SeriesInstanceUID", "Modality", "SeriesNumber", "Laterality", "SeriesDate", "SeriesTime"),
    *("PerformingPhysicianName", "ProtocolName", "SeriesDescription", "OperatorsName", "BodyPartExamined"),
    *("PatientPosition", "PerformedProcedureStepID", "PerformedProcedureStepStartDate"),
    *("PerformedProcedureStepStartTime", "PerformedProcedureStepDescription", "RequestAttributesSequence"),
    *("Manufacturer", "InstitutionName", "InstitutionAddress", "StationName", "InstitutionalDepartmentName"),
    *("ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"),
)


class NotDicomError(Exception):
    """A file cannot be stored; the message gives the reason and contains no patient data."""


@dataclass(frozen=True)
class DicomFile:
    """What was read from an uploaded file.

    :param sha256: the checksum of the file, in hexadecimal digits.
    :param size: the size of the file in bytes.
    :param attributes: its data set as DICOM JSON, without bulk data.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    sha256: str
    size: int
    attributes: Attributes


def read(path: Path) -> DicomFile:
    """Read an uploaded file.

    :raises NotDicomError: it is not a Part 10 file, or lacks a valid UID.
    """
    try:
        with warnings.catch_warnings():
            # Values that are invalid for their VR are common in real files; they are stored unchanged.
            warnings.simplefilter("ignore")
            _check_inflated(path)
            dataset = dcmread(path, stop_before_pixels=True, defer_size=_LARGE_BYTES)
            _drop_large_values(dataset)
            return _describe(path, dataset)
    except NotDicomError:
        raise
    except Exception as error:  # a damaged file makes pydicom raise errors of any type
        raise NotDicomError(f"not a readable DICOM Part 10 file ({type(error).__name__})") from error


def _drop_large_values(dataset: Dataset) -> None:
    """Remove values that were too large to be read; they are bulk data, like encapsulated documents."""
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag, keep_deferred=True)
        if isinstance(element, RawDataElement) and element.value is None and element.length:
            known = dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"
            # A large sequence is read: its items may be small.
            if (element.VR or known) != "SQ":
                del dataset[tag]


def _check_inflated(path: Path) -> None:
    """Check the size of a data set that is deflated as a whole, which pydicom inflates at once.

    :raises NotDicomError: it is too large.
    """
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    inflated = 0
    with path.open("rb") as file:
        file.seek(_META_START + int(meta.FileMetaInformationGroupLength))
        while not inflate.eof and (chunk := inflate.unconsumed_tail or file.read(_CHUNK_BYTES)):
            inflated += len(inflate.decompress(chunk, _CHUNK_BYTES))
            if inflated > MAX_INFLATED_BYTES:
                raise NotDicomError(f"its data set inflates to more than {MAX_INFLATED_BYTES} bytes")


def _describe(path: Path, dataset: Dataset) -> DicomFile:
    uids = {
        keyword: str(dataset.get(keyword) or "")
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    }
    for keyword, uid in uids.items():
        if not is_uid(uid):
            raise NotDicomError(f"{keyword} is missing or not a UID")
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    if not syntax:
        raise NotDicomError("TransferSyntaxUID is missing")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return DicomFile(
        study_uid=uids["StudyInstanceUID"],
        series_uid=uids["SeriesInstanceUID"],
        instance_uid=uids["SOPInstanceUID"],
        sop_class_uid=uids["SOPClassUID"],
        transfer_syntax_uid=syntax,
        sha256=digest,
        size=path.stat().st_size,
        attributes=_attributes(dataset),
    )


def _attributes(dataset: Dataset) -> Attributes:
    def leave_out(_: DataElement) -> str:
        return ""

    with _strict_reading:
        attributes: Attributes = dataset.to_json_dict(
            bulk_data_threshold=BULK_DATA_BYTES,
            bulk_data_element_handler=leave_out,
            suppress_invalid_tags=True,
        )
    return _normalised(attributes)


def _normalised(attributes: Attributes) -> Attributes:
    """Remove bulk data, and convert dates and times in the retired form (1997.04.24, 14:04:38)."""
    normalised: Attributes = {}
    for tag, element in sorted(attributes.items()):
        if "BulkDataURI" in element:
            continue
        values = element.get("Value")
        if values and element["vr"] == "SQ":
            element = {**element, "Value": [_normalised(item) for item in values]}
        elif values and (separator := _OLD_SEPARATORS.get(element["vr"])):
            element = {**element, "Value": [value and value.replace(separator, "") for value in values]}
        normalised[tag] = element
    return normalised


def select(attributes: Attributes, wanted: Iterable[str]) -> Attributes:
    """Return the attributes with the given tags, in the order of the tags."""
    chosen = set(wanted)
    return {tag: value for tag, value in attributes.items() if tag in chosen}
