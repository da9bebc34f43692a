"""Pixel data of pydicom's own files: transfer syntaxes, and decoders other than those under test."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pydicom.data
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder

from airflow_provider_dicom.emulator.imaging.transcode import (
    render,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

FILES = Path(pydicom.data.__file__).parent
IMPLICIT, EXPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS, JPEG_LS_NEAR = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS, JPEG_2000 = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202")
HTJ2K = "1.2.840.10008.1.2.4.203"
JPEG_XL_LOSSLESS, JPEG_XL_JPEG, JPEG_XL = (f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112))
RLE, DEFLATED_FRAMES = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"
BASELINE, EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"

NATIVE = {IMPLICIT, EXPLICIT, DEFLATED}
LOSSLESS = {
    *JPEG_LOSSLESS,
    JPEG_LS,
    JPEG_2000_LOSSLESS,
    *HTJ2K_LOSSLESS,
    JPEG_XL_LOSSLESS,
    RLE,
    DEFLATED_FRAMES,
}
SIGNED = LOSSLESS - {JPEG_XL_LOSSLESS}

# The lossless encapsulated syntaxes that can hold the file's pixels.
PICTURES: dict[str, set[str]] = {
    "test_files/CT_small.dcm": SIGNED,
    "test_files/MR_small_bigendian.dcm": SIGNED,
    "test_files/MR_small_implicit.dcm": SIGNED,
    "test_files/MR_small_RLE.dcm": SIGNED,
    "test_files/MR_small_jpeg_ls_lossless.dcm": SIGNED,
    "test_files/MR_small_jp2klossless.dcm": SIGNED,
    "test_files/693_J2KI.dcm": SIGNED,
    "test_files/J2K_pixelrep_mismatch.dcm": SIGNED,
    "test_files/image_dfl.dcm": LOSSLESS,
    "test_files/examples_overlay.dcm": LOSSLESS,
    "test_files/dicomdirtests/77654033/CR1/6154": LOSSLESS,
    "test_files/examples_palette.dcm": LOSSLESS - {JPEG_XL_LOSSLESS},
    "test_files/examples_rgb_color.dcm": LOSSLESS,
    "test_files/examples_ybr_color.dcm": LOSSLESS,
    "test_files/examples_jpeg2k.dcm": LOSSLESS,
    "test_files/ExplVR_BigEnd.dcm": LOSSLESS,
    "test_files/SC_rgb_small_odd_big_endian.dcm": LOSSLESS,
    "test_files/SC_rgb_jpeg.dcm": LOSSLESS,
    "test_files/SC_ybr_full_422_uncompressed.dcm": LOSSLESS,
    "test_files/SC_rgb_rle_2frame.dcm": LOSSLESS,
    "test_files/SC_rgb_rle_16bit.dcm": LOSSLESS,
    "test_files/SC_rgb_rle_32bit.dcm": {DEFLATED_FRAMES},
    "test_files/rtdose_rle.dcm": {DEFLATED_FRAMES},
    "test_files/rtdose_expb.dcm": {DEFLATED_FRAMES},
    "test_files/liver_1frame.dcm": {DEFLATED_FRAMES},
    "test_files/liver_expb_1frame.dcm": {DEFLATED_FRAMES},
}
OTHERS = [
    "test_files/test-SR.dcm",
    "test_files/reportsi.dcm",
    "test_files/rtplan.dcm",
    "test_files/waveform_ecg.dcm",
    "palettes/pet.dcm",
    "charset_files/chrJapMulti.dcm",
]


def dicom(syntax: str) -> str:
    return f"application/dicom; transfer-syntax={syntax}"


def rendered(path: Path, mime_type: str | None) -> Dataset:
    [rendition] = render(path, mime_type)
    assert rendition.frame is None
    return dcmread(io.BytesIO(rendition.content))


def stored_values(ds: Dataset) -> list[NDArray[Any]]:
    """Decode with a library other than the encoder's; JPEG XL has only one."""
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax not in {*JPEG_LOSSLESS, JPEG_XL_LOSSLESS, DEFLATED_FRAMES}:
        return [frame for frame, _ in get_decoder(syntax).iter_array(ds, raw=True)]
    frames = generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames", 1)))
    return [_unpacked(codestream, ds) for codestream in frames]


def _unpacked(codestream: bytes, ds: Dataset) -> NDArray[Any]:
    shape = (ds.Rows, ds.Columns) if ds.SamplesPerPixel == 1 else (ds.Rows, ds.Columns, ds.SamplesPerPixel)
    if ds.file_meta.TransferSyntaxUID == DEFLATED_FRAMES:
        raw = zlib.decompressobj(wbits=-15).decompress(codestream)
        if ds.BitsAllocated == 1:
            return np.unpackbits(np.frombuffer(raw, "u1"), bitorder="little")[: np.prod(shape)].reshape(shape)
        sign = "i" if ds.PixelRepresentation else "u"
        return np.frombuffer(raw, f"<{sign}{ds.BitsAllocated // 8}").reshape(shape)
    if ds.file_meta.TransferSyntaxUID == JPEG_XL_LOSSLESS:
        unsigned = imagecodecs.jpegxl_decode(codestream)
    else:
        unsigned = imagecodecs.jpegsof3_decode(codestream).reshape(shape)
    if not ds.PixelRepresentation:
        return unsigned
    values = unsigned.astype(np.int64)
    return np.where(values >= 1 << (ds.BitsStored - 1), values - (1 << ds.BitsStored), values)


def differences(one: Dataset, other: Dataset) -> set[str]:
    """Name the elements that are in only one of two datasets, or differ in their values."""
    # Group lengths are retired, and dropped. Implicit VR has no VR for private elements.
    tags = {
        element.tag
        for element in [*one, *other]
        if element.tag.element != 0 and not (element.tag.is_private and other.original_encoding[0])
    }
    return {
        pydicom.datadict.keyword_for_tag(tag) or str(tag)
        for tag in tags
        if tag not in one or tag not in other or one[tag].value != other[tag].value
    }


def altered(name: str, path: Path, change: Callable[[Dataset], object]) -> Path:
    """Write a changed copy of one of the files."""
    ds = dcmread(FILES / name)
    change(ds)
    dcmwrite(path, ds)
    return path


def pictures(path: Path, kind: str = "image/png") -> list[NDArray[np.int64]]:
    return [
        np.asarray(Image.open(io.BytesIO(rendition.content))).astype(np.int64)
        for rendition in render(path, kind)
    ]
