"""Frames of stored values, to and from the codestreams of DICOM's transfer syntaxes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import imagecodecs
import jpeg_ls  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import ENCODING_PROFILES, RLELosslessEncoder
from pydicom.pixels.processing import convert_color_space
from pydicom.pixels.utils import get_nr_frames, pack_bits, unpack_bits

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: The stored values of one frame, as rows x columns [x samples].
Frame: TypeAlias = NDArray[Any]

JPEG_XL_LOSSLESS = uid.UID("1.2.840.10008.1.2.4.110")
JPEG_XL_JPEG_RECOMPRESSION = uid.UID("1.2.840.10008.1.2.4.111")
JPEG_XL = uid.UID("1.2.840.10008.1.2.4.112")
DEFLATED_IMAGE_FRAME = uid.UID("1.2.840.10008.1.2.8.1")

# Newer than the dictionary of pydicom 3.0.
_UNKNOWN_TO_PYDICOM = (JPEG_XL_LOSSLESS, JPEG_XL_JPEG_RECOMPRESSION, JPEG_XL, DEFLATED_IMAGE_FRAME)

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GREYSCALE = ("MONOCHROME1", "MONOCHROME2")

JPEG_QUALITY = 90
NEAR_LOSSLESS_ERROR = 2
JPEG_2000_PSNR = 45
# OpenJPH's flag for tile-parts.
_BY_RESOLUTION = 1


class CannotTranscode(Exception):  # noqa: N818 - names what happened to one instance, not a fault of the program
    """No codec here can make the rendition of this instance; the message says why, without patient data."""


@dataclass(frozen=True)
class PixelFormat:
    """How the stored values of an instance are to be read.

    :param rows: of a frame.
    :param columns: of a frame.
    :param samples: per pixel.
    :param bits_allocated: of the cell of a sample.
    :param bits_stored: of the cell, what holds the value.
    :param signed: whether values are two's complement.
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
    def shape(self) -> tuple[int, ...]:
        """The shape of a decoded frame."""
        shape = (self.rows, self.columns)
        return shape if self.samples == 1 else (*shape, self.samples)


#: Photometric interpretation, samples per pixel, pixel representations, bits allocated, bits stored.
Profile: TypeAlias = tuple[str, int, Iterable[int], Iterable[int], Iterable[int]]


@dataclass(frozen=True)
class Codec:
    """How to encode frames in one transfer syntax.

    :param encode: makes the codestream of one frame.
    :param profiles: what the standard permits (PS3.5, section 8.2).
    :param bits: the most stored bits that the library at hand can encode.
    :param signed: whether negative values survive.
    :param photometric: what to declare instead of the photometric interpretation of the frames.
    :param planar_configuration: of colour images.
    :param lossy_method: the term of the compression method, if values do not come back exactly.
    """

    encode: Callable[[Frame, PixelFormat], bytes]
    profiles: Collection[Profile]
    bits: int = 16
    signed: bool = True
    photometric: Mapping[str, str] = field(default_factory=dict)
    planar_configuration: int = 0
    lossy_method: str | None = None

    def declared_photometric(self, decoded: str) -> str:
        """Return the photometric interpretation to declare, given that of the frames."""
        return self.photometric.get(decoded, decoded)

    def check(self, pixels: PixelFormat) -> None:
        """Refuse instances that the transfer syntax, or the codec, cannot hold.

        :raises CannotTranscode: it cannot.
        """
        photometric = self.declared_photometric(pixels.photometric)
        if not any(
            photometric == profile[0]
            and pixels.samples == profile[1]
            and int(pixels.signed) in profile[2]
            and pixels.bits_allocated in profile[3]
            and pixels.bits_stored in profile[4]
            for profile in self.profiles
        ):
            raise CannotTranscode(
                f"the transfer syntax does not hold {pixels.samples} samples of {photometric} with "
                f"{pixels.bits_stored} of {pixels.bits_allocated} bits, {'' if pixels.signed else 'un'}signed"
            )
        if pixels.bits_stored > self.bits or (pixels.signed and not self.signed):
            raise CannotTranscode(
                f"there is no encoder for {pixels.bits_stored} bits, {'' if pixels.signed else 'un'}signed"
            )


def is_encapsulated(syntax: uid.UID) -> bool:
    """Return whether a transfer syntax wraps pixel data in fragments."""
    return syntax in _UNKNOWN_TO_PYDICOM or syntax.is_encapsulated


def decode(ds: Dataset) -> Iterator[tuple[Frame, str]]:
    """Yield the stored values of every frame, with their photometric interpretation.

    :param ds: an instance, with its file meta information.
    :raises CannotTranscode: there is no decoder, or it refuses the data.
    """
    frames = 0
    # Codecs want the machine's byte order; decoders may choose smaller cells than were declared.
    dtype = PixelFormat.of(ds).dtype.newbyteorder("=") if "PixelData" in ds else None
    try:
        for frame, photometric in _decoded(ds):
            frames += 1
            # Subsampled colours have been brought to full resolution.
            yield (
                frame.astype(dtype, copy=False),
                "YBR_FULL" if photometric == "YBR_FULL_422" else photometric,
            )
    except CannotTranscode:
        raise
    except Exception as error:
        # What is stored is as users sent it, and decoders raise what they like.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CannotTranscode(f"the pixel data cannot be decoded: {reason}") from error
    if frames != (declared := get_nr_frames(ds, warn=False)):
        raise CannotTranscode(f"the pixel data holds {frames} of {declared} frames")


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
    """Return a frame as uncompressed little endian pixel data."""
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
        # Frames of single bits follow each other without padding: they have to be cut apart bit by bit.
        flags = np.asarray(unpack_bits(value, as_array=True))
        for index in range(number):
            yield bytes(pack_bits(flags[index * bits : (index + 1) * bits], pad=False))
        return
    size = bits // 8
    for index in range(number):
        yield value[index * size : (index + 1) * size]


def _decode_encapsulated(ds: Dataset, decode_frame: _Decoder) -> Iterator[tuple[Frame, str]]:
    pixels = PixelFormat.of(ds)
    offsets = None
    if "ExtendedOffsetTable" in ds:
        offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths)
    number = get_nr_frames(ds, warn=False)
    frames = generate_frames(ds.PixelData, number_of_frames=number, extended_offsets=offsets)
    # These two hold colours in a way of their own (XYB, a JPEG's YCbCr); their decoder gives RGB.
    to_rgb = pixels.samples == 3 and ds.file_meta.TransferSyntaxUID in (JPEG_XL_JPEG_RECOMPRESSION, JPEG_XL)
    for codestream in frames:
        yield (
            _with_sign(decode_frame(codestream, pixels), pixels),
            "RGB" if to_rgb else pixels.photometric,
        )


def _with_sign(frame: Frame, pixels: PixelFormat) -> Frame:
    if frame.shape != pixels.shape:
        raise CannotTranscode("the codestream's dimensions are not those of the instance")
    if not pixels.signed:
        return frame.astype(pixels.dtype, copy=False)
    shift = pixels.dtype.itemsize * 8 - pixels.bits_stored
    unsigned = frame.astype(pixels.dtype.str.replace("i", "u"))
    return (unsigned << shift).view(pixels.dtype) >> shift


def _pattern(frame: Frame, pixels: PixelFormat) -> Frame:
    """Return the stored bits as unsigned values in the smallest cells, for codecs that know no sign."""
    unsigned = frame.astype(frame.dtype.str.replace("i", "u"), copy=False) & ((1 << pixels.bits_stored) - 1)
    return unsigned.astype(np.uint8 if pixels.bits_stored <= 8 else np.uint16, copy=False)


def _small(frame: Frame, pixels: PixelFormat) -> Frame:
    """Return values in the smallest cells, for codecs that know a sign and take the cell for the range."""
    return (
        frame if pixels.bits_stored > 8 else frame.astype(np.int8 if pixels.signed else np.uint8, copy=False)
    )


def _encode_jpeg_lossy(frame: Frame, pixels: PixelFormat) -> bytes:
    bits = 8 if pixels.bits_stored <= 8 else 12
    if pixels.samples == 1:
        return bytes(imagecodecs.jpeg8_encode(frame, JPEG_QUALITY, bitspersample=bits))
    return bytes(
        imagecodecs.jpeg8_encode(
            frame,
            JPEG_QUALITY,
            colorspace="RGB" if pixels.photometric == "RGB" else "YCBCR",
            outcolorspace="YCBCR",
            subsampling="422",
            bitspersample=bits,
        )
    )


def _encode_jpeg_lossless(frame: Frame, pixels: PixelFormat) -> bytes:
    # First-order prediction is valid in both lossless syntaxes. Declaring RGB keeps the samples as they are,
    # whatever colour space they are in.
    colours = "RGB" if pixels.samples == 3 else None
    return bytes(
        imagecodecs.jpeg8_encode(
            _pattern(frame, pixels),
            colorspace=colours,
            outcolorspace=colours,
            lossless=True,
            predictor=1,
            bitspersample=pixels.bits_stored,
        )
    )


def _encode_jpeg_ls(frame: Frame, pixels: PixelFormat, error: int = 0) -> bytes:
    pattern = _pattern(frame, pixels)
    if pixels.bits_stored in (8, 16):
        return bytes(imagecodecs.jpegls_encode(pattern, error))
    # Only this binding can be told that values have fewer bits than their cells.
    return bytes(
        jpeg_ls.encode_pixel_data(
            pattern.tobytes(),
            rows=pixels.rows,
            columns=pixels.columns,
            samples_per_pixel=pixels.samples,
            bits_stored=pixels.bits_stored,
            planar_configuration=0,
            lossy_error=error,
        )
    )


def _encode_jpeg_ls_near(frame: Frame, pixels: PixelFormat) -> bytes:
    return _encode_jpeg_ls(frame, pixels, NEAR_LOSSLESS_ERROR)


def _encode_jpeg_2000(frame: Frame, pixels: PixelFormat, psnr: int = 0) -> bytes:
    return bytes(
        imagecodecs.jpeg2k_encode(
            _small(frame, pixels),
            psnr,
            codecformat="j2k",
            reversible=psnr == 0,
            bitspersample=pixels.bits_stored,
            mct=pixels.photometric == "RGB",
        )
    )


def _encode_jpeg_2000_lossy(frame: Frame, pixels: PixelFormat) -> bytes:
    # The ratio is to the largest value: 6 dB more for every bit keep the error at about one grey level.
    return _encode_jpeg_2000(frame, pixels, JPEG_2000_PSNR + 6 * (pixels.bits_stored - 8))


def _encode_htj2k(frame: Frame, pixels: PixelFormat, *, reversible: bool = True, rpcl: bool = False) -> bytes:
    # Codestreams declare 8, 16 or 32 bits: the binding cannot be told that values have fewer.
    # The encoder's progression order is always RPCL; the RPCL syntax also asks for TLM markers and for
    # tile-parts divided by resolution.
    return bytes(
        imagecodecs.htj2k_encode(
            _small(frame, pixels),
            rgb=pixels.photometric == "RGB",
            reversible=reversible,
            tlm=rpcl,
            tilepart=_BY_RESOLUTION if rpcl else None,
        )
    )


def _encode_htj2k_rpcl(frame: Frame, pixels: PixelFormat) -> bytes:
    return _encode_htj2k(frame, pixels, rpcl=True)


def _encode_htj2k_lossy(frame: Frame, pixels: PixelFormat) -> bytes:
    return _encode_htj2k(frame, pixels, reversible=False)


def _encode_jpeg_xl(frame: Frame, pixels: PixelFormat) -> bytes:
    return bytes(
        imagecodecs.jpegxl_encode(
            _pattern(frame, pixels),
            lossless=True,
            bitspersample=pixels.bits_stored,
            usecontainer=False,
            numthreads=1,
        )
    )


def _encode_jpeg_xl_lossy(frame: Frame, pixels: PixelFormat) -> bytes:
    if pixels.photometric == "YBR_FULL":
        frame = convert_color_space(frame, "YBR_FULL", "RGB")
    # The distance is one of perception on a screen; deeper values are windowed before they are looked at.
    distance = 1.0 if pixels.bits_stored <= 8 else 0.05
    return bytes(
        imagecodecs.jpegxl_encode(
            _pattern(frame, pixels),
            distance=distance,
            bitspersample=pixels.bits_stored,
            usecontainer=False,
            numthreads=1,
        )
    )


def _encode_rle(frame: Frame, pixels: PixelFormat) -> bytes:
    return RLELosslessEncoder.encode(
        frame,
        rows=pixels.rows,
        columns=pixels.columns,
        samples_per_pixel=pixels.samples,
        bits_allocated=pixels.bits_allocated,
        bits_stored=pixels.bits_allocated,
        pixel_representation=int(pixels.signed),
        photometric_interpretation=pixels.photometric,
        number_of_frames=1,
        planar_configuration=0,
    )


def _encode_deflated(frame: Frame, pixels: PixelFormat) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(native_bytes(frame, pixels)) + deflate.flush()


_Decoder: TypeAlias = Callable[[bytes, PixelFormat], Frame]


def _decode_jpeg(codestream: bytes, pixels: PixelFormat) -> Frame:
    colours = "RGB" if pixels.samples == 3 else None
    return np.asarray(imagecodecs.jpeg8_decode(codestream, colorspace=colours, outcolorspace=colours))


def _decode_jpeg_xl(codestream: bytes, pixels: PixelFormat) -> Frame:
    return np.asarray(imagecodecs.jpegxl_decode(codestream, numthreads=1))


def _decode_deflated(codestream: bytes, pixels: PixelFormat) -> Frame:
    data = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(codestream)
    if pixels.bits_allocated == 1:
        size = pixels.rows * pixels.columns * pixels.samples
        return np.asarray(unpack_bits(data, as_array=True))[:size].reshape(pixels.shape)
    unsigned = pixels.dtype.str.replace("i", "u")
    return np.frombuffer(data, dtype=unsigned).reshape(pixels.shape)


# Syntaxes that pydicom has no decoder for, or only one under the GPL.
_DECODERS: dict[str, _Decoder] = {
    uid.JPEGExtended12Bit: _decode_jpeg,
    uid.JPEGLossless: _decode_jpeg,
    uid.JPEGLosslessSV1: _decode_jpeg,
    JPEG_XL_LOSSLESS: _decode_jpeg_xl,
    JPEG_XL_JPEG_RECOMPRESSION: _decode_jpeg_xl,
    JPEG_XL: _decode_jpeg_xl,
    DEFLATED_IMAGE_FRAME: _decode_deflated,
}

_ANY_CELL: tuple[Profile, ...] = tuple(
    (photometric, samples, (0, 1), (1, 8, 16, 32, 64), range(1, 65))
    for photometric, samples in [
        *((name, 1) for name in (*GREYSCALE, "PALETTE COLOR")),
        ("RGB", 3),
        ("YBR_FULL", 3),
    ]
)
# The published text of the JPEG XL tables was not at hand. An image in JPEG XL has no sign, and what a lossy
# encoder makes of colours is XYB.
_JPEG_XL_PROFILES: tuple[Profile, ...] = tuple(
    (photometric, samples, (0,), (8, 16), range(1, 17))
    for photometric, samples in [
        ("MONOCHROME1", 1),
        ("MONOCHROME2", 1),
        ("RGB", 3),
        ("YBR_FULL", 3),
        ("XYB", 3),
    ]
)

_DEFLATED = Codec(_encode_deflated, _ANY_CELL, bits=64)

#: The encapsulated syntaxes that can be made from pixels (JPEG recompression starts from a JPEG instead).
CODECS: dict[str, Codec] = {
    uid.JPEGBaseline8Bit: Codec(
        _encode_jpeg_lossy,
        ENCODING_PROFILES[uid.JPEGBaseline8Bit],
        photometric={"RGB": "YBR_FULL_422", "YBR_FULL": "YBR_FULL_422"},
        lossy_method="ISO_10918_1",
    ),
    uid.JPEGExtended12Bit: Codec(
        _encode_jpeg_lossy, ENCODING_PROFILES[uid.JPEGExtended12Bit], lossy_method="ISO_10918_1"
    ),
    uid.JPEGLossless: Codec(_encode_jpeg_lossless, ENCODING_PROFILES[uid.JPEGLossless]),
    uid.JPEGLosslessSV1: Codec(_encode_jpeg_lossless, ENCODING_PROFILES[uid.JPEGLosslessSV1]),
    uid.JPEGLSLossless: Codec(_encode_jpeg_ls, ENCODING_PROFILES[uid.JPEGLSLossless]),
    # The codec knows no sign: an error in the bits of -1 would make the largest value of it.
    uid.JPEGLSNearLossless: Codec(
        _encode_jpeg_ls_near,
        ENCODING_PROFILES[uid.JPEGLSNearLossless],
        signed=False,
        lossy_method="ISO_14495_1",
    ),
    uid.JPEG2000Lossless: Codec(
        _encode_jpeg_2000,
        ENCODING_PROFILES[uid.JPEG2000Lossless],
        bits=24,
        photometric={"RGB": "YBR_RCT"},
    ),
    uid.JPEG2000: Codec(
        _encode_jpeg_2000_lossy,
        ENCODING_PROFILES[uid.JPEG2000],
        bits=24,
        photometric={"RGB": "YBR_ICT"},
        lossy_method="ISO_15444_1",
    ),
    JPEG_XL_LOSSLESS: Codec(_encode_jpeg_xl, _JPEG_XL_PROFILES),
    JPEG_XL: Codec(
        _encode_jpeg_xl_lossy,
        _JPEG_XL_PROFILES,
        photometric={"RGB": "XYB", "YBR_FULL": "XYB"},
        lossy_method="ISO_18181_1",
    ),
    uid.HTJ2KLossless: Codec(
        _encode_htj2k,
        ENCODING_PROFILES[uid.JPEG2000Lossless],
        bits=24,
        photometric={"RGB": "YBR_RCT"},
    ),
    uid.HTJ2KLosslessRPCL: Codec(
        _encode_htj2k_rpcl,
        ENCODING_PROFILES[uid.JPEG2000Lossless],
        bits=24,
        photometric={"RGB": "YBR_RCT"},
    ),
    uid.HTJ2K: Codec(
        _encode_htj2k_lossy,
        ENCODING_PROFILES[uid.JPEG2000],
        bits=24,
        photometric={"RGB": "YBR_ICT"},
        lossy_method="ISO_15444_15",
    ),
    uid.RLELossless: Codec(_encode_rle, ENCODING_PROFILES[uid.RLELossless], planar_configuration=1),
    DEFLATED_IMAGE_FRAME: _DEFLATED,
}
