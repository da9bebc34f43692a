"""Decoders: from the pixel data of an instance to frames of stored values."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import get_nr_frames, pack_bits, unpack_bits

from airflow_provider_dicom.emulator.imaging import codestreams

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: The stored values of one frame, as rows x columns [x samples].
Frame: TypeAlias = NDArray[Any]

JPEG_XL_LOSSLESS = uid.UID("1.2.840.10008.1.2.4.110")
JPEG_XL_JPEG_RECOMPRESSION = uid.UID("1.2.840.10008.1.2.4.111")
JPEG_XL = uid.UID("1.2.840.10008.1.2.4.112")
DEFLATED_IMAGE_FRAME = uid.UID("1.2.840.10008.1.2.8.1")

# These are not in the dictionary of pydicom 3.0.
_UNKNOWN_TO_PYDICOM = (JPEG_XL_LOSSLESS, JPEG_XL_JPEG_RECOMPRESSION, JPEG_XL, DEFLATED_IMAGE_FRAME)

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GREYSCALE = ("MONOCHROME1", "MONOCHROME2")


MB = 1_000_000
#: Google's limits for transcoding.
MAX_FRAME_BYTES = 150 * MB
MAX_FILE_BYTES = 1_000 * MB


class CannotTranscode(Exception):  # noqa: N818 - the outcome of one instance, not a programming error
    """An instance cannot be converted; the message gives the reason and contains no patient data."""


@dataclass(frozen=True)
class PixelFormat:
    """The format of an instance's stored values.

    :param rows: rows of a frame.
    :param columns: columns of a frame.
    :param samples: samples per pixel.
    :param bits_allocated: bits of the cell that holds a sample.
    :param bits_stored: bits of the cell that hold the value.
    :param signed: whether values are in two's complement.
    :param photometric: the photometric interpretation of decoded frames.
    """

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str

    @classmethod
    def of(cls, ds: Dataset) -> PixelFormat:
        """Read the format from the attributes of an instance."""
        bits_allocated = int(ds.BitsAllocated)
        return cls(
            rows=int(ds.Rows),
            columns=int(ds.Columns),
            samples=int(ds.get("SamplesPerPixel", 1)),
            bits_allocated=bits_allocated,
            bits_stored=int(ds.get("BitsStored", bits_allocated)),
            signed=ds.get("PixelRepresentation", 0) == 1,
            photometric=str(ds.PhotometricInterpretation),
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a decoded frame."""
        size = max(self.bits_allocated, 8) // 8
        return np.dtype(f"<{'i' if self.signed else 'u'}{size}")

    @property
    def frame_bytes(self) -> int:
        """The size of a decoded frame in bytes."""
        return math.ceil(self.rows * self.columns * self.samples * self.bits_allocated / 8)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a decoded frame."""
        shape = (self.rows, self.columns)
        return shape if self.samples == 1 else (*shape, self.samples)


def is_encapsulated(syntax: uid.UID) -> bool:
    """Return whether a transfer syntax encapsulates the pixel data in fragments."""
    return syntax in _UNKNOWN_TO_PYDICOM or syntax.is_encapsulated


def decode(ds: Dataset) -> Iterator[tuple[Frame, str]]:
    """Yield the stored values of every frame, with their photometric interpretation.

    :param ds: an instance, with its file meta information.
    :raises CannotTranscode: there is no decoder for the transfer syntax, or it cannot decode the pixel data.
    """
    frames = 0
    _check_size(ds)
    # Encoders need the machine's byte order; decoders may return smaller cells than BitsAllocated declares.
    dtype = PixelFormat.of(ds).dtype.newbyteorder("=") if "PixelData" in ds else None
    try:
        for frame, photometric in _decoded(ds):
            frames += 1
            # The decoder has restored the full resolution of subsampled colours.
            yield (
                frame.astype(dtype, copy=False),
                "YBR_FULL" if photometric == "YBR_FULL_422" else photometric,
            )
    except CannotTranscode:
        raise
    except Exception as error:
        # Damaged pixel data makes decoders raise errors of any type.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CannotTranscode(f"the pixel data cannot be decoded: {reason}") from error
    if frames != (declared := get_nr_frames(ds, warn=False)):
        raise CannotTranscode(f"the pixel data holds {frames} of {declared} frames")


def _check_size(ds: Dataset) -> None:
    """Check Google's limits for transcoding, before any memory is taken.

    :raises CannotTranscode: a frame, or all of them, are larger.
    """
    size, number = PixelFormat.of(ds).frame_bytes, get_nr_frames(ds, warn=False)
    if size > MAX_FRAME_BYTES:
        raise CannotTranscode(f"a frame has more than {MAX_FRAME_BYTES // MB} MB")
    if size * number > MAX_FILE_BYTES:
        raise CannotTranscode(f"the frames have more than {MAX_FILE_BYTES // MB} MB")


def _check_dimensions(codestream: bytes, pixels: PixelFormat) -> None:
    # A decoder takes the memory that the codestream asks for.
    if codestreams.dimensions(codestream) not in (None, (pixels.rows, pixels.columns)):
        raise CannotTranscode("the dimensions of the codestream are not those of the instance")


def _decoded(ds: Dataset) -> Iterator[tuple[Frame, str]]:
    syntax = ds.file_meta.TransferSyntaxUID
    own = _DECODERS.get(syntax)
    if own is not None and not (syntax == uid.JPEGExtended12Bit and ds.get("SamplesPerPixel") == 3):
        yield from _decode_encapsulated(ds, own)
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise CannotTranscode(f"there is no decoder for {uid.UID(syntax).name}") from error
    if is_encapsulated(syntax):
        pixels = PixelFormat.of(ds)
        for codestream in _codestreams(ds):
            _check_dimensions(codestream, pixels)
    for frame, meta in decoder.iter_array(ds, raw=True):
        yield frame, str(meta["photometric_interpretation"])


def frames_as_stored(ds: Dataset) -> Iterator[bytes]:
    """Yield the value of the pixel data element as it is stored, frame by frame."""
    element = next(ds[keyword] for keyword in PIXEL_KEYWORDS if keyword in ds)
    number = get_nr_frames(ds, warn=False)
    if is_encapsulated(ds.file_meta.TransferSyntaxUID):
        yield from generate_frames(element.value, number_of_frames=number)
    else:
        yield from _split_native(element.value, ds, number)


def native_bytes(frame: Frame, pixels: PixelFormat) -> bytes:
    """Return a frame as uncompressed, little-endian pixel data."""
    if pixels.bits_allocated == 1:
        return bytes(pack_bits(frame, pad=False))
    return np.ascontiguousarray(frame).astype(frame.dtype.newbyteorder("<"), copy=False).tobytes()


def _split_native(value: bytes, ds: Dataset, number: int) -> Iterator[bytes]:
    pixels = PixelFormat.of(ds)
    bits = pixels.rows * pixels.columns * pixels.samples * pixels.bits_allocated
    if pixels.photometric == "YBR_FULL_422":
        bits = bits // 3 * 2
    if len(value) * 8 < bits * number:
        raise CannotTranscode("the pixel data is shorter than declared")
    if bits % 8:
        # One-bit frames follow each other without padding, so that a frame may begin inside a byte.
        flags = np.asarray(unpack_bits(value, as_array=True))
        for index in range(number):
            yield bytes(pack_bits(flags[index * bits : (index + 1) * bits], pad=False))
        return
    size = bits // 8
    for index in range(number):
        yield value[index * size : (index + 1) * size]


def _codestreams(ds: Dataset) -> Iterator[bytes]:
    """Yield the codestream of every frame of encapsulated pixel data."""
    offsets = None
    if "ExtendedOffsetTable" in ds:
        offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths)
    number = get_nr_frames(ds, warn=False)
    return generate_frames(ds.PixelData, number_of_frames=number, extended_offsets=offsets)


def _decode_encapsulated(ds: Dataset, decode_frame: _Decoder) -> Iterator[tuple[Frame, str]]:
    pixels = PixelFormat.of(ds)
    # In these two syntaxes colours are coded as XYB or as a JPEG's YCbCr; the decoder always returns RGB.
    to_rgb = pixels.samples == 3 and ds.file_meta.TransferSyntaxUID in (JPEG_XL_JPEG_RECOMPRESSION, JPEG_XL)
    for codestream in _codestreams(ds):
        _check_dimensions(codestream, pixels)
        yield (
            _with_sign(decode_frame(codestream, pixels), pixels),
            "RGB" if to_rgb else pixels.photometric,
        )


def _with_sign(frame: Frame, pixels: PixelFormat) -> Frame:
    """Return the values in cells of the declared size, with the sign extended from the stored bits."""
    if frame.shape != pixels.shape:
        raise CannotTranscode("the dimensions of the codestream are not those of the instance")
    if not pixels.signed:
        return frame.astype(pixels.dtype, copy=False)
    shift = pixels.dtype.itemsize * 8 - pixels.bits_stored
    unsigned = frame.astype(pixels.dtype.str.replace("i", "u"))
    return (unsigned << shift).view(pixels.dtype) >> shift


_Decoder: TypeAlias = Callable[[bytes, PixelFormat], Frame]


def _decode_jpeg(codestream: bytes, pixels: PixelFormat) -> Frame:
    colours = "RGB" if pixels.samples == 3 else None
    return np.asarray(imagecodecs.jpeg8_decode(codestream, colorspace=colours, outcolorspace=colours))


def _decode_jpeg_xl(codestream: bytes, pixels: PixelFormat) -> Frame:
    # An animation has more images than the first one, which take memory, too.
    return np.asarray(imagecodecs.jpegxl_decode(codestream, index=0, numthreads=1))


def _decode_deflated(codestream: bytes, pixels: PixelFormat) -> Frame:
    data = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(codestream, pixels.frame_bytes + 1)
    if pixels.bits_allocated == 1:
        size = pixels.rows * pixels.columns * pixels.samples
        return np.asarray(unpack_bits(data, as_array=True))[:size].reshape(pixels.shape)
    unsigned = pixels.dtype.str.replace("i", "u")
    return np.frombuffer(data, dtype=unsigned).reshape(pixels.shape)


# Syntaxes for which pydicom has no decoder, or only one under the GPL.
_DECODERS: dict[str, _Decoder] = {
    uid.JPEGExtended12Bit: _decode_jpeg,
    uid.JPEGLossless: _decode_jpeg,
    uid.JPEGLosslessSV1: _decode_jpeg,
    JPEG_XL_LOSSLESS: _decode_jpeg_xl,
    JPEG_XL_JPEG_RECOMPRESSION: _decode_jpeg_xl,
    JPEG_XL: _decode_jpeg_xl,
    DEFLATED_IMAGE_FRAME: _decode_deflated,
}
