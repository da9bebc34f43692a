"""Resource names of the Healthcare API: validated, built and parsed."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from airflow_provider_dicom.api.commands import gcloud
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.validation import raise_if_invalid

MAX_ID_LENGTH = 256
MAX_UID_LENGTH = 64
UID_PATTERN = r"[0-9]+(?:\.[0-9]+)*"
_FORBIDDEN = frozenset("/?#%")
_OPERATION_NAME = re.compile(
    r"projects/(?P<project_id>[^/]+)/locations/(?P<location>[^/]+)/datasets/(?P<dataset_id>[^/]+)"
    r"/operations/(?P<operation_id>[^/]+)"
)
#: Ids for which Google documents a grammar; older projects are shorter than new ones may be.
_GRAMMARS = {
    "project_id": re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?:)?[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"),
    "location": re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?"),
}
_ACCEPTED = {
    "project_id": "a project id: lowercase letters, digits and '-', after 'DOMAIN:' if the project has one",
    "location": "a location such as 'us-central1': lowercase letters, digits and '-'",
    "operation_id": "the id of an operation",
}
_ACCEPTED_IN_NAMES = "letters and digits of any script, '_', '-' and '.', 1 to 256 characters"


def id_error(parameter: str, value: object) -> str | None:
    """
    Return the validation error of a resource id, or None.

    Dataset and DICOM store ids may hold letters and digits of any script, ``_``, ``-`` and ``.``.

    :param parameter: the parameter's name, for the sentence.
    :param value: the id.
    """
    reason = _id_problem(parameter, value)
    if reason is None:
        return None
    accepted = _ACCEPTED.get(parameter, _ACCEPTED_IN_NAMES)
    return f"{parameter}={value!r} {reason}; accepted: {accepted}."


def _id_problem(parameter: str, value: object) -> str | None:
    if not isinstance(value, str):
        return f"is {type(value).__name__}, not a string"
    if not value:
        return "is empty"
    if len(value) > MAX_ID_LENGTH:
        return f"has {len(value)} characters"
    if ".." in value or value == ".":
        return "would walk to another resource"
    for character in value:
        if not _is_allowed(parameter, character):
            return f"contains {character!r}"
    grammar = _GRAMMARS.get(parameter)
    return "is not one" if grammar is not None and not grammar.fullmatch(value) else None


def _is_allowed(parameter: str, character: str) -> bool:
    if parameter in _GRAMMARS:
        return character in "-.:" or (character.isascii() and (character.islower() or character.isdigit()))
    if parameter == "operation_id":
        # Google documents no grammar: only characters that change the meaning of a URL are refused.
        return character not in _FORBIDDEN and unicodedata.category(character)[0] not in "ZC"
    return character in "_-." or unicodedata.category(character)[0] in "LN"


def uid_error(parameter: str, value: object) -> str | None:
    """
    Return the validation error of a DICOM UID, or None.

    :param parameter: the parameter's name, for the sentence.
    :param value: the UID.
    """
    if isinstance(value, str) and len(value) <= MAX_UID_LENGTH and re.fullmatch(UID_PATTERN, value):
        return None
    return f"{parameter}={value!r} is not a UID; accepted: numbers joined by '.', up to 64 characters."


def _validate(**ids: str) -> None:
    raise_if_invalid(error for name, value in ids.items() if (error := id_error(name, value)))


@dataclass(frozen=True)
class DatasetName:
    """
    The full name of a dataset.

    :param project_id: the project's id.
    :param location: the location, such as ``us-central1``.
    :param dataset_id: the dataset's id.
    :raises DicomExportInvalidRequestError: if an id is not acceptable.
    """

    project_id: str
    location: str
    dataset_id: str

    def __post_init__(self) -> None:
        _validate(project_id=self.project_id, location=self.location, dataset_id=self.dataset_id)

    def __str__(self) -> str:
        return f"projects/{self.project_id}/locations/{self.location}/datasets/{self.dataset_id}"

    @property
    def list_operations_command(self) -> str:
        """The command that lists the dataset's Operations, for error messages."""
        return gcloud(
            "healthcare",
            "operations",
            "list",
            dataset=self.dataset_id,
            location=self.location,
            project=self.project_id,
        )


@dataclass(frozen=True)
class DicomStoreName:
    """
    The full name of a DICOM store.

    :param dataset: the dataset that the store belongs to.
    :param dicom_store_id: the DICOM store's id.
    :raises DicomExportInvalidRequestError: if an id is not acceptable.
    """

    dataset: DatasetName
    dicom_store_id: str

    def __post_init__(self) -> None:
        _validate(dicom_store_id=self.dicom_store_id)

    def __str__(self) -> str:
        return f"{self.dataset}/dicomStores/{self.dicom_store_id}"


@dataclass(frozen=True)
class OperationName:
    """
    The full name of an Operation, which belongs to a dataset.

    :param dataset: the dataset that the Operation belongs to.
    :param operation_id: the Operation's id.
    :raises DicomExportInvalidRequestError: if an id is not acceptable.
    """

    dataset: DatasetName
    operation_id: str

    def __post_init__(self) -> None:
        _validate(operation_id=self.operation_id)

    def __str__(self) -> str:
        return f"{self.dataset}/operations/{self.operation_id}"

    @classmethod
    def parse(cls, name: str) -> OperationName:
        """
        Parse the full name of an Operation.

        :param name: ``projects/P/locations/L/datasets/D/operations/ID``.
        :raises DicomExportInvalidRequestError: if the name has another form.
        """
        match = _OPERATION_NAME.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise DicomExportInvalidRequestError(
                f"operation_name={name!r} is not the name of an operation; "
                "accepted: 'projects/PROJECT/locations/LOCATION/datasets/DATASET/operations/ID'."
            )
        dataset = DatasetName(match["project_id"], match["location"], match["dataset_id"])
        return cls(dataset, match["operation_id"])
