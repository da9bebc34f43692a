"""Conversion of an instance to the MIME types of an export to Cloud Storage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import imagecodecs
import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.pixels.utils import get_nr_frames
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGExtended12Bit

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.imaging.consumer_images import consumer_images
from airflow_provider_dicom.emulator.imaging.pixel_decoders import (
    JPEG_XL_JPEG_RECOMPRESSION,
    MAX_FILE_BYTES,
    MB,
    PIXEL_KEYWORDS,
    CannotTranscode,
    PixelFormat,
    decode,
    frames_as_stored,
    is_encapsulated,
    native_bytes,
)
from airflow_provider_dicom.emulator.imaging.pixel_encoders import CODECS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom.dataset import Dataset

__all__ = [
    "CannotTranscode",
    "Rendition",
    "check_mime_type",
    "extension",
    "is_as_stored",
    "media_type",
    "render",
    "transfer_syntax",
]

#: The MIME types that the API lists: media type -> transfer syntaxes, the default first.
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

_LOSSY_JPEGS = (JPEGBaseline8Bit, JPEGExtended12Bit)
_WORD_SIZES = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
_PIXEL_TAGS = {tag_for_keyword(keyword) for keyword in PIXEL_KEYWORDS}


@dataclass(frozen=True)
class Rendition:
    """One output file of an instance.

    :param frame: the number of the frame, from 1; None for an instance with one frame, or as a whole.
    :param content: the bytes of the file.
    :param transfer_syntax: of a Part 10 file; empty for other files.
    """

    frame: int | None
    content: bytes
    transfer_syntax: str = ""


class MimeType(NamedTuple):
    """A parsed MIME type.

    :param media_type: such as ``application/dicom``.
    :param transfer_syntax: a UID, ``*`` for the stored one, or empty for media types without one.
    """

    media_type: str
    transfer_syntax: str


def check_mime_type(mime_type: str | None) -> None:
    """Check that the API lists a MIME type.

    :param mime_type: None for the default.
    :raises ApiError: it does not; INVALID_ARGUMENT, as from the API.
    """
    _parse(mime_type)


def media_type(mime_type: str | None) -> str:
    """Return the media type of the output files, without parameters."""
    return _parse(mime_type).media_type


def extension(mime_type: str | None) -> str:
    """Return the extension of the output files: ``.dcm``, ``.jpg``, ``.png`` or an empty string."""
    return EXTENSIONS[_parse(mime_type).media_type]


def is_as_stored(path: Path, mime_type: str | None) -> bool:
    """Tell whether the file as it was uploaded is the only output file of an instance.

    :param path: the Part 10 file as it was uploaded.
    :param mime_type: a MIME type that the API lists; None for the file as it was uploaded.
    """
    form = _parse(mime_type)
    if form.media_type != "application/dicom":
        return False
    return form.transfer_syntax == "*" or form.transfer_syntax == _declared_syntax(path)


def transfer_syntax(path: Path) -> str:
    """Return the UID of the transfer syntax of a Part 10 file.

    :raises CannotTranscode: the file is damaged.
    """
    syntax = _declared_syntax(path)
    if syntax is None:
        raise CannotTranscode("the transfer syntax cannot be read")
    return syntax


def _declared_syntax(path: Path) -> str | None:
    try:
        return str(read_file_meta_info(path).TransferSyntaxUID)
    except (InvalidDicomError, AttributeError, EOFError):
        return None


def render(path: Path, mime_type: str | None) -> Iterator[Rendition]:
    """Yield the output files of an instance: one, or one per frame.

    :param path: the Part 10 file as it was uploaded.
    :param mime_type: a MIME type that the API lists; None for the file as it was uploaded.
    :raises CannotTranscode: the instance cannot be converted to this MIME type.
    """
    form = _parse(mime_type)
    if is_as_stored(path, mime_type):
        yield Rendition(None, path.read_bytes(), _declared_syntax(path) or "")
        return
    if path.stat().st_size > MAX_FILE_BYTES:
        raise CannotTranscode(f"the file has more than {MAX_FILE_BYTES // MB} MB")
    try:
        yield from _render(dcmread(path), form)
    except CannotTranscode:
        raise
    except Exception as error:
        # Damaged files make pydicom and codecs raise errors of any type, whose messages may contain patient
        # data.
        raise CannotTranscode(f"{type(error).__name__} while making {mime_type}") from error


def _render(ds: Dataset, form: MimeType) -> Iterator[Rendition]:
    if form.media_type == "application/dicom":
        content = _with_transfer_syntax(ds, UID(form.transfer_syntax))
        # Not always what was asked for: of an instance without pixels, see there.
        yield Rendition(None, content, str(ds.file_meta.TransferSyntaxUID))
        return
    if not _has_pixels(ds):
        raise CannotTranscode("the instance has no pixel data")
    frames = _frames(ds, form)
    if get_nr_frames(ds, warn=False) > 1:
        yield from (Rendition(number, content) for number, content in enumerate(frames, start=1))
    else:
        yield Rendition(None, next(frames))


def _frames(ds: Dataset, form: MimeType) -> Iterator[bytes]:
    if form.media_type == "image/png":
        return consumer_images(ds, "PNG")
    if form.media_type == "image/jpeg":
        return consumer_images(ds, "JPEG")
    if form.transfer_syntax == "*" or _is_native_little_endian(ds):
        return frames_as_stored(ds)
    pixels = PixelFormat.of(ds)
    return (native_bytes(frame, pixels) for frame, _ in decode(ds))


def _with_transfer_syntax(ds: Dataset, target: UID) -> bytes:
    if not _has_pixels(ds):
        # An encapsulated syntax is Explicit VR Little Endian but for the pixels. An instance without pixels
        # is written, and declared, as Explicit VR Little Endian, which every reader supports.
        target = ExplicitVRLittleEndian if is_encapsulated(target) else target
    elif is_encapsulated(target):
        _encapsulate(ds, target)
    elif not _is_native_little_endian(ds):
        _decapsulate(ds)
    if ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
        _swap_words(ds)
    if ds.file_meta.TransferSyntaxUID in _LOSSY_JPEGS:
        ds.LossyImageCompression = "01"
    _parse_implicit(ds)
    ds.file_meta.TransferSyntaxUID = target
    return _part_10(ds)


def _parse_implicit(ds: Dataset) -> None:
    # Some files are in Implicit VR although they declare Explicit VR. pydicom reads them, but would copy
    # elements that it has not parsed yet in the wrong encoding.
    if any(ds.get_item(tag).VR is None for tag in ds.keys()):  # noqa: SIM118 - iterating over the data set would parse it
        for _ in ds.iterall():
            pass


def _part_10(ds: Dataset) -> bytes:
    file = DicomBytesIO()
    if ds.file_meta.TransferSyntaxUID.is_transfer_syntax:
        dcmwrite(file, ds, enforce_file_format=True)
    else:
        # dcmwrite refuses syntaxes that are not in its dictionary. These are Explicit VR Little Endian.
        file.write((ds.preamble or bytes(128)) + b"DICM")
        write_file_meta_info(file, ds.file_meta)
        file.is_implicit_VR, file.is_little_endian = False, True
        write_dataset(file, ds)
    return file.getvalue()


def _encapsulate(ds: Dataset, target: UID) -> None:
    if target == JPEG_XL_JPEG_RECOMPRESSION:
        _recompress_jpeg(ds)
        return
    if "PixelData" not in ds:
        raise CannotTranscode("the transfer syntax does not hold floating point values")
    codec = CODECS[target]
    size = 0
    codestreams = []
    pixels = PixelFormat.of(ds)
    for frame, photometric in decode(ds):
        pixels = replace(pixels, photometric=photometric)
        codec.check(pixels)
        codestreams.append(codec.encode(np.ascontiguousarray(frame), pixels))
        size += frame.nbytes
    _replace_pixels(ds, codestreams)
    ds.PhotometricInterpretation = codec.declared_photometric(pixels.photometric)
    if pixels.samples > 1:
        ds.PlanarConfiguration = codec.planar_configuration
    if codec.lossy_method:
        _record_loss(ds, codec.lossy_method, size / sum(map(len, codestreams)))


def _recompress_jpeg(ds: Dataset) -> None:
    if ds.file_meta.TransferSyntaxUID not in _LOSSY_JPEGS:
        raise CannotTranscode(
            "JPEG XL JPEG Recompression starts from a JPEG, which the instance is not stored as"
        )
    codestreams = [bytes(imagecodecs.jpegxl_encode_jpeg(jpeg, numthreads=1)) for jpeg in frames_as_stored(ds)]
    _replace_pixels(ds, codestreams)


def _decapsulate(ds: Dataset) -> None:
    pixels = PixelFormat.of(ds)
    if pixels.bits_allocated == 1:
        # All frames at once, because one-bit frames follow each other without padding.
        frames, photometrics = zip(*decode(ds), strict=True)
        content = native_bytes(np.stack(frames), pixels)
    else:
        contents = ((native_bytes(frame, pixels), photometric) for frame, photometric in decode(ds))
        natives, photometrics = zip(*contents, strict=True)
        content = b"".join(natives)
    keyword = next(keyword for keyword in PIXEL_KEYWORDS if keyword in ds)
    ds[keyword].value = content + bytes(len(content) % 2)
    ds[keyword].is_undefined_length = False
    if keyword == "PixelData":
        ds[keyword].VR = "OB" if pixels.bits_allocated <= 8 else "OW"
    ds.PhotometricInterpretation = photometrics[0]
    if pixels.samples > 1:
        ds.PlanarConfiguration = 0
    _drop_offsets(ds)


def _replace_pixels(ds: Dataset, codestreams: list[bytes]) -> None:
    # Offsets in the basic offset table have 32 bits.
    if sum(map(len, codestreams)) < 2**32 - 8 * len(codestreams):
        _drop_offsets(ds)
        value = encapsulate(codestreams)
    else:
        value, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(codestreams)
    ds["PixelData"] = DataElement("PixelData", "OB", value)
    ds["PixelData"].is_undefined_length = True


def _drop_offsets(ds: Dataset) -> None:
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in ds:
            del ds[keyword]


def _record_loss(ds: Dataset, method: str, ratio: float) -> None:
    """Append a lossy compression to the record of earlier ones."""
    ds.LossyImageCompression = "01"
    for keyword, value in (
        ("LossyImageCompressionRatio", f"{ratio:.4f}"),
        ("LossyImageCompressionMethod", method),
    ):
        before = ds.get(keyword)
        values = [] if before is None else [before] if isinstance(before, str | float) else [*before]
        setattr(ds, keyword, [*values, value])


def _swap_words(ds: Dataset) -> None:
    """Swap the bytes of words in big-endian elements, because pydicom writes them as they were read."""
    for element in ds.iterall():
        size = _WORD_SIZES.get(element.VR)
        if size and isinstance(element.value, bytes) and element.tag not in _PIXEL_TAGS:
            element.value = np.frombuffer(element.value, f">u{size}").astype(f"<u{size}").tobytes()


def _has_pixels(ds: Dataset) -> bool:
    return any(keyword in ds for keyword in PIXEL_KEYWORDS)


def _is_native_little_endian(ds: Dataset) -> bool:
    syntax = ds.file_meta.TransferSyntaxUID
    return not is_encapsulated(syntax) and syntax != ExplicitVRBigEndian


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
