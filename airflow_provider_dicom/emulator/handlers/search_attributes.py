"""The attributes of searches: those that Google's API compares, and those that it returns.

The lists are those of the section "Search transaction" in the API's DICOM conformance statement.
``ModalitiesInStudy`` is not in it, but users of the API search studies for it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydicom.datadict import keyword_for_tag, tag_for_keyword

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.models.dicom_files import STUDY_DETAIL_TAGS, tags

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.models.search import Level

MODALITIES_IN_STUDY = "00080061"
INSTANCE_AVAILABILITY = "00080056"

_STUDY_KEYS = tags(
    *(
        "StudyInstanceUID",
        "PatientName",
        "PatientID",
        "AccessionNumber",
        "ReferringPhysicianName",
        "StudyDate",
    )
)
_SERIES_KEYS = _STUDY_KEYS | tags("SeriesInstanceUID", "Modality")
_SEARCHABLE: dict[Level, frozenset[str]] = {
    "studies": _STUDY_KEYS | {MODALITIES_IN_STUDY},
    "series": _SERIES_KEYS,
    "instances": _SERIES_KEYS | tags("SOPInstanceUID"),
}

#: Attributes that the server computes. They are returned if ``includefield`` names them.
_COMPUTED = tags(
    *("ModalitiesInStudy", "SOPClassesInStudy", "NumberOfStudyRelatedSeries"),
    *("NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances"),
)
#: Attributes of each level that are returned without ``includefield``.
_DEFAULTS: dict[Level, frozenset[str]] = {
    "studies": tags(
        *("SpecificCharacterSet", "StudyDate", "StudyTime", "AccessionNumber", "InstanceAvailability"),
        *("ReferringPhysicianName", "TimezoneOffsetFromUTC", "PatientName", "PatientID", "PatientBirthDate"),
        *("PatientSex", "StudyInstanceUID", "StudyID"),
    ),
    # The statement leaves out the UIDs of higher levels, which the standard requires (PS3.18, 10.6.3).
    "series": tags(
        *("SpecificCharacterSet", "Modality", "TimezoneOffsetFromUTC", "SeriesDescription"),
        *("SeriesInstanceUID", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
        *("RequestAttributesSequence", "StudyInstanceUID"),
    ),
    "instances": tags(
        *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "InstanceAvailability"),
        *("TimezoneOffsetFromUTC", "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames"),
        *("StudyInstanceUID", "SeriesInstanceUID"),
    ),
}
#: Further attributes that are returned with ``includefield=all``; of instances, all.
_DETAILS: dict[Level, frozenset[str]] = {
    "studies": STUDY_DETAIL_TAGS,
    "series": tags("SeriesNumber", "Laterality", "SeriesDate", "SeriesTime"),
}
#: Attributes that only answers to queries have. Google's API does not know the last one.
_ONLY_IN_ANSWERS = tags("RetrieveAETitle", "RetrieveURL", "AvailableTransferSyntaxUID")


def searchable_tag(name: str, level: Level, *, any_attribute: bool) -> str:
    """Return the tag of an attribute that a search compares.

    :param name: its keyword or tag.
    :param any_attribute: accept also what Google's API refuses.
    :raises ApiError: it cannot be searched at this level.
    """
    tag = _tag(name)
    if tag is None:
        raise _unknown(name)
    if not any_attribute and tag not in _SEARCHABLE[level]:
        raise ApiError.invalid_argument(
            f"{keyword_for_tag(tag) or name} is not a supported instance or study or series level attribute"
        )
    return tag


def included_tag(name: str, *, any_attribute: bool) -> str:
    """Return the tag of an attribute that ``includefield`` names; attributes of other levels are accepted.

    :param name: its keyword or tag.
    :param any_attribute: accept also what Google's API refuses.
    :raises ApiError: it is unknown.
    """
    tag = _tag(name)
    if tag is None or not (any_attribute or (keyword_for_tag(tag) and tag not in _ONLY_IN_ANSWERS)):
        raise _unknown(name)
    return tag


def returned_tags(
    level: Level, path: str, included: frozenset[str], *, everything: bool, any_attribute: bool
) -> frozenset[str] | None:
    """Return the tags that a search returns; None: all that there are.

    :param path: the path of the search below ``dicomWeb/``.
    :param included: the tags that ``includefield`` names.
    :param everything: ``includefield`` is ``all``.
    :param any_attribute: return also what Google's API leaves out.
    """
    if everything and (any_attribute or level == "instances"):
        return None
    # Attributes of a higher level are returned unless the search is inside one resource of that level.
    levels: list[Level] = [level]
    if level != "studies" and not path.startswith("studies/"):
        levels.append("studies")
    if level == "instances" and "series/" not in path:
        levels.append("series")
    returned = frozenset[str]().union(*(_DEFAULTS[one] for one in levels))
    if everything:
        return returned.union(*(_DETAILS[one] for one in levels))
    if any_attribute or level == "instances":
        return returned | included
    known = _COMPUTED.union(*_DEFAULTS.values(), *_DETAILS.values())
    return returned | (included & known)


def _tag(name: str) -> str | None:
    if re.fullmatch(r"[0-9A-Fa-f]{8}", name):
        return name.upper()
    number = tag_for_keyword(name)
    return None if number is None else f"{number:08X}"


def _unknown(name: str) -> ApiError:
    return ApiError.invalid_argument(f"unknown/unsupported QIDO attribute: {name}")
