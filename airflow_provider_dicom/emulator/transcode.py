"""The renditions of an instance that an export to Cloud Storage can ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The forms that the API lists: media type -> transfer syntaxes; the first is what the bare type means.
FORMS: dict[str, tuple[str, ...]] = {
    "application/dicom": (
        "*",
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
    ),
    "application/octet-stream": ("1.2.840.10008.1.2.1", "*"),
    "image/jpeg": ("1.2.840.10008.1.2.4.50",),
    "image/png": ("",),
}

EXTENSIONS = {
    "application/dicom": ".dcm",
    "application/octet-stream": "",
    "image/jpeg": ".jpg",
    "image/png": ".png",
}


class CannotTranscode(Exception):  # noqa: N818 - part of the agreed interface, and not an error of the program
    """No codec here can make the rendition of this instance; the message says why, without patient data."""


@dataclass(frozen=True)
class Rendition:
    """One output file of an instance.

    :param frame: the frame's number, from 1; only for the frames of a multi-frame instance.
    :param content: the file.
    """

    frame: int | None
    content: bytes


class MimeType(NamedTuple):
    """A MIME type of the list: its media type, and the transfer syntax, ``*`` or an empty string."""

    media_type: str
    transfer_syntax: str


def check_mime_type(mime_type: str | None) -> None:
    """Refuse a MIME type that the API does not list.

    :raises ApiError: as the API answers it, INVALID_ARGUMENT.
    """
    _parse(mime_type)


def media_type(mime_type: str | None) -> str:
    """Return the media type of the output files, without parameters."""
    return _parse(mime_type).media_type


def extension(mime_type: str | None) -> str:
    """Return the extension of the output files: ``.dcm``, ``.jpg``, ``.png`` or nothing."""
    return EXTENSIONS[_parse(mime_type).media_type]


def render(path: Path, mime_type: str | None) -> Iterator[Rendition]:
    """Make the renditions of an instance, one or one per frame.

    :param path: the Part 10 file as it was uploaded.
    :param mime_type: a form of the API's list; None for the file as it is.
    :raises CannotTranscode: no codec here can do it for this instance.
    """
    form = _parse(mime_type)
    if form == MimeType("application/dicom", "*"):
        yield Rendition(None, path.read_bytes())
        return
    raise CannotTranscode(f"No codec for {mime_type}.")


def _parse(mime_type: str | None) -> MimeType:
    kind, *parameters = (part.strip() for part in (mime_type or "application/dicom").split(";"))
    kind = kind.lower()
    syntaxes = FORMS.get(kind, ())
    if syntaxes and not parameters:
        return MimeType(kind, syntaxes[0])
    if len(parameters) == 1:
        name, _, value = parameters[0].partition("=")
        value = value.strip().strip('"')
        if name.strip().lower() == "transfer-syntax" and value and value in syntaxes:
            return MimeType(kind, value)
    raise ApiError.invalid_argument(f"Unsupported MIME type: {mime_type!r}.")
