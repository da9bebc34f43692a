"""Resource names (``projects/P/locations/L/datasets/D/...``), resource paths in a DICOM store, and UIDs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_dicom.emulator.errors import ApiError

#: The versions of the API. The older and the newer one are other names of what they share with v1.
API_VERSIONS = ("v1", "v1beta1", "v1alpha2")
_ID = re.compile(r"[\w.\-]{1,256}")
_STORE = re.compile(
    r"projects/[^/]+/locations/[^/]+/datasets/(?P<dataset>[^/]+)/dicomStores/(?P<store>[^/]+)"
)
#: Clients remove these from the path of a URL, so that nobody could reach a resource with such an id.
DOT_SEGMENTS = frozenset({".", ".."})
_UID = re.compile(r"(?=.{1,64}\Z)[0-9]+(?:\.[0-9]+)*")


def check_id(field: str, value: str | None) -> str:
    """Return the id of a resource that is to be created.

    :param field: the field that holds the id, such as ``dicomStoreId``.
    :param value: letters and digits of any script, ``_``, ``-`` and ``.``, at most 256.
    :raises ApiError: the id is missing or contains another character.
    """
    if not value:
        raise ApiError.invalid_argument(f"{field} is required")
    if not _ID.fullmatch(value) or value in DOT_SEGMENTS:
        raise ApiError.invalid_argument(
            rf"invalid {field} {value!r}: it must match [\p{{L}}\p{{N}}_\-\.]{{1,256}}, and not be . or .."
        )
    return value


def check_store_name(name: str) -> str:
    """Return the full name of a DICOM store.

    :raises ApiError: it is not ``projects/P/locations/L/datasets/D/dicomStores/S``, with valid ids.
    """
    match = _STORE.fullmatch(name)
    if match is None:
        raise ApiError.invalid_argument(
            f"{name!r} is not of the form projects/P/locations/L/datasets/D/dicomStores/S"
        )
    check_id("datasetId", match["dataset"])
    check_id("dicomStoreId", match["store"])
    return name


def is_uid(value: str) -> bool:
    """Tell whether a text is a valid DICOM UID, and therefore safe as part of a path."""
    return _UID.fullmatch(value) is not None


def dataset_of(name: str) -> str:
    """Return ``projects/P/locations/L/datasets/D`` from the name of a resource in that dataset."""
    return "/".join(name.split("/", 6)[:6])


@dataclass(frozen=True)
class ResourcePath:
    """The path of a study, a series or an instance in a DICOM store; without any UID, of the whole store."""

    study: str | None = None
    series: str | None = None
    instance: str | None = None

    @classmethod
    def parse(cls, path: str) -> ResourcePath:
        """Read ``studies/U[/series/U[/instances/U]]``; a rest, such as ``/metadata``, is ignored."""
        return cls(*path.split("/")[1:6:2])

    def __str__(self) -> str:
        return "".join(
            f"/{kind}/{uid}"
            for kind, uid in (("studies", self.study), ("series", self.series), ("instances", self.instance))
            if uid is not None
        )


WHOLE_STORE = ResourcePath()
