"""The MIME types that a Cloud Storage export can be asked for."""

from __future__ import annotations

import re

_NAME = r"[A-Za-z0-9!#$&^_.+*-]+"
_WELL_FORMED = re.compile(rf"{_NAME}/{_NAME}([ \t]*;[ \t]*{_NAME}=({_NAME}|\"[^\"\s;]+\"))*")

_DICOM_TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.110",
    "1.2.840.10008.1.2.4.111",
    "1.2.840.10008.1.2.4.112",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.8.1",
    "*",
)

#: The forms that the API's documentation lists.
DOCUMENTED = (
    *(f"application/dicom; transfer-syntax={uid}" for uid in _DICOM_TRANSFER_SYNTAXES),
    "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1",
    "application/octet-stream; transfer-syntax=*",
    "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50",
    "image/png",
)
#: Forms without a transfer syntax, which the API accepts too.
BARE = ("application/dicom", "application/octet-stream", "image/jpeg")

_KNOWN = frozenset(form.replace(" ", "") for form in DOCUMENTED + BARE)


def is_well_formed(mime_type: str) -> bool:
    """
    Tell whether a text has the form ``type/subtype[; name=value]``.

    :param mime_type: the text.
    """
    return _WELL_FORMED.fullmatch(mime_type) is not None


def is_known(mime_type: str) -> bool:
    """
    Tell whether the API's documentation lists a MIME type, whatever the spaces in it.

    :param mime_type: a well-formed MIME type.
    """
    return re.sub(r"[ \t]", "", mime_type) in _KNOWN


def is_one_file_per_instance(mime_type: str | None) -> bool:
    """
    Tell whether an export writes one file for each instance, and not one for each frame.

    :param mime_type: a well-formed MIME type; files as uploaded if not given.
    """
    return mime_type is None or mime_type.partition(";")[0].strip() == "application/dicom"
