"""Every form of the API's list, over the real files that pydicom ships."""

from __future__ import annotations

import io
import json
import re
import zlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pydicom.data
import pytest
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_color_lut, convert_color_space
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import MPEG2MPML, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.imaging.transcode import (
    FORMS,
    CannotTranscode,
    Rendition,
    check_mime_type,
    extension,
    media_type,
    render,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# pydicom's files are there to exercise a parser: many of their values draw a warning.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

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

# What of the lossless encapsulated syntaxes can hold the file's pixels.
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
    """Decode with what did not encode, where there is one: not for JPEG XL."""
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
    """Name the elements that are in only one of the two, or have another value."""
    # Group lengths are retired, and not kept. Implicit VR does not tell the VR of private elements.
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


# ---- MIME types


def listed_forms() -> list[str]:
    """Return the forms in the description of the API itself."""
    document = resources.files("googleapiclient.discovery_cache.documents") / "healthcare.v1.json"
    schemas = json.loads(document.read_text())["schemas"]
    text = schemas["GoogleCloudHealthcareV1DicomGcsDestination"]["properties"]["mimeType"]["description"]
    listed = text.partition("are supported:")[2].partition("The following extensions")[0]
    return re.findall(r"- ((?:application|image)/[a-z-]+(?:; transfer-syntax=[\d.*]+)?)", listed)


def test_forms_are_those_of_the_discovery_document() -> None:
    ours = {
        f"{kind}; transfer-syntax={syntax}" if syntax else kind
        for kind, syntaxes in FORMS.items()
        for syntax in syntaxes
    }
    assert len(listed_forms()) == 24
    assert ours == set(listed_forms())


@pytest.mark.parametrize(
    "form", [*listed_forms(), *FORMS, None, 'Image/JPEG;transfer-syntax="1.2.840.10008.1.2.4.50"']
)
def test_listed_and_bare_forms_are_accepted(form: str | None) -> None:
    check_mime_type(form)


@pytest.mark.parametrize(
    "form",
    [
        "text/plain",
        "application/dicom; transfer-syntax=1.2.840.10008.1.2.2",
        "application/dicom; transfer-syntax=",
        "application/dicom; transfer-syntax",
        "application/dicom; quality=1",
        "application/dicom; transfer-syntax=*; q=1",
        "image/png; transfer-syntax=*",
        "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.70",
        "; transfer-syntax=*",
        "application",
    ],
)
def test_other_forms_are_refused(form: str) -> None:
    with pytest.raises(ApiError, match="Unsupported MIME type") as refusal:
        check_mime_type(form)
    assert (refusal.value.http_status, refusal.value.status) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("form", "kind", "ending"),
    [
        (None, "application/dicom", ".dcm"),
        (dicom("*"), "application/dicom", ".dcm"),
        ("image/jpeg", "image/jpeg", ".jpg"),
        ("image/png", "image/png", ".png"),
        ("application/octet-stream; transfer-syntax=*", "application/octet-stream", ""),
    ],
)
def test_media_type_and_extension(form: str | None, kind: str, ending: str) -> None:
    assert (media_type(form), extension(form)) == (kind, ending)


# ---- DICOM


@pytest.mark.parametrize("form", [None, "application/dicom", dicom("*")])
@pytest.mark.parametrize("name", ["test_files/MR_small_bigendian.dcm", "test_files/MR_truncated.dcm"])
def test_as_uploaded_is_byte_for_byte(name: str, form: str | None) -> None:
    assert list(render(FILES / name, form)) == [Rendition(None, (FILES / name).read_bytes())]


def test_the_syntax_it_is_in_is_byte_for_byte() -> None:
    path = FILES / "test_files/SC_rgb_jpeg_dcmtk.dcm"
    assert list(render(path, dicom(BASELINE))) == [Rendition(None, path.read_bytes())]


@pytest.mark.parametrize("syntax", sorted(NATIVE | LOSSLESS))
@pytest.mark.parametrize("name", PICTURES)
def test_lossless_forms_come_back_pixel_for_pixel(name: str, syntax: str) -> None:
    source = dcmread(FILES / name)
    if syntax not in PICTURES[name] | NATIVE | {source.file_meta.TransferSyntaxUID}:
        with pytest.raises(CannotTranscode, match=r"does not hold|no encoder"):
            list(render(FILES / name, dicom(syntax)))
        return
    exported = rendered(FILES / name, dicom(syntax))

    assert exported.file_meta.TransferSyntaxUID == syntax
    expected, got = stored_values(source), stored_values(exported)
    assert len(got) == len(expected)
    for frame, original in zip(got, expected, strict=True):
        np.testing.assert_array_equal(frame, original)
    changed = {"PixelData", "PhotometricInterpretation", "PlanarConfiguration", "LossyImageCompression"}
    assert differences(source, exported) <= changed


@pytest.mark.parametrize(
    ("name", "syntax", "photometric", "planar"),
    [
        ("SC_rgb_rle_2frame.dcm", EXPLICIT, "RGB", 0),
        ("SC_rgb_rle_2frame.dcm", JPEG_2000_LOSSLESS, "YBR_RCT", 0),
        ("SC_rgb_rle_2frame.dcm", HTJ2K_LOSSLESS[1], "YBR_RCT", 0),
        ("SC_rgb_rle_2frame.dcm", HTJ2K, "YBR_ICT", 0),
        ("SC_rgb_rle_2frame.dcm", JPEG_2000, "YBR_ICT", 0),
        ("SC_rgb_rle_2frame.dcm", JPEG_LS, "RGB", 0),
        ("SC_rgb_rle_2frame.dcm", BASELINE, "YBR_FULL_422", 0),
        ("SC_rgb_rle_2frame.dcm", JPEG_XL, "XYB", 0),
        ("examples_rgb_color.dcm", RLE, "RGB", 1),
        ("examples_ybr_color.dcm", EXPLICIT, "YBR_FULL", 0),
        ("examples_ybr_color.dcm", JPEG_2000_LOSSLESS, "YBR_FULL", 0),
        ("SC_ybr_full_422_uncompressed.dcm", DEFLATED, "YBR_FULL_422", 0),
        ("SC_ybr_full_422_uncompressed.dcm", BASELINE, "YBR_FULL_422", 0),
        ("examples_palette.dcm", JPEG_2000_LOSSLESS, "PALETTE COLOR", None),
    ],
)
def test_colour_space_is_what_was_encoded(
    name: str, syntax: str, photometric: str, planar: int | None
) -> None:
    exported = rendered(FILES / "test_files" / name, dicom(syntax))
    assert exported.PhotometricInterpretation == photometric
    assert exported.get("PlanarConfiguration") == planar


def test_codestreams_tell_their_bit_depth() -> None:
    # 12 bits stored in cells of 16.
    path = FILES / "test_files/examples_overlay.dcm"
    [jpeg] = generate_frames(rendered(path, dicom(JPEG_LOSSLESS[1])).PixelData, number_of_frames=1)
    assert jpeg[jpeg.index(b"\xff\xc3") + 4] == 12
    [jpeg_ls] = generate_frames(rendered(path, dicom(JPEG_LS)).PixelData, number_of_frames=1)
    assert jpeg_ls[jpeg_ls.index(b"\xff\xf7") + 4] == 12
    [jpeg_2000] = generate_frames(rendered(path, dicom(JPEG_2000_LOSSLESS)).PixelData, number_of_frames=1)
    assert jpeg_2000[jpeg_2000.index(b"\xff\x51") + 40] + 1 == 12


def test_htj2k_rpcl_has_its_markers() -> None:
    exported = rendered(FILES / "test_files/CT_small.dcm", dicom(HTJ2K_LOSSLESS[1]))
    [codestream] = generate_frames(exported.PixelData, number_of_frames=1)
    assert codestream[codestream.index(b"\xff\x52") + 5] == 2, "progression order"
    assert b"\xff\x55" in codestream, "tile-part lengths"
    assert codestream.count(b"\xff\x90") > 1, "a tile-part per resolution"


@pytest.mark.parametrize(
    ("name", "syntax", "method"),
    [
        ("examples_rgb_color.dcm", BASELINE, "ISO_10918_1"),
        ("examples_rgb_color.dcm", JPEG_LS_NEAR, "ISO_14495_1"),
        ("examples_rgb_color.dcm", JPEG_2000, "ISO_15444_1"),
        ("examples_rgb_color.dcm", HTJ2K, "ISO_15444_15"),
        ("examples_rgb_color.dcm", JPEG_XL, "ISO_18181_1"),
        ("examples_ybr_color.dcm", JPEG_XL, "ISO_18181_1"),
        ("examples_overlay.dcm", EXTENDED, "ISO_10918_1"),
        ("examples_overlay.dcm", JPEG_LS_NEAR, "ISO_14495_1"),
        ("examples_overlay.dcm", JPEG_XL, "ISO_18181_1"),
        ("CT_small.dcm", JPEG_2000, "ISO_15444_1"),
        ("CT_small.dcm", HTJ2K, "ISO_15444_15"),
    ],
)
def test_lossy_forms_look_alike_and_say_so(name: str, syntax: str, method: str, tmp_path: Path) -> None:
    path = FILES / "test_files" / name
    source, exported = dcmread(path), rendered(path, dicom(syntax))

    assert exported.LossyImageCompression == "01"
    methods = exported.LossyImageCompressionMethod
    assert (methods if isinstance(methods, str) else methods[-1]) == method
    ratios = exported.LossyImageCompressionRatio
    assert float(ratios if isinstance(ratios, float) else ratios[-1]) > 1
    assert exported.SOPInstanceUID == source.SOPInstanceUID
    assert exported.BitsStored == source.BitsStored
    again = tmp_path / "exported.dcm"
    again.write_bytes(next(render(path, dicom(syntax))).content)
    for original, picture in zip(pictures(path), pictures(again), strict=True):
        assert np.abs(original - picture).mean() < 4


def test_a_second_loss_is_added_to_the_first(tmp_path: Path) -> None:
    def lose(ds: Dataset) -> None:
        ds.LossyImageCompressionMethod, ds.LossyImageCompressionRatio = "ISO_15444_1", "12.5"

    source = altered("test_files/examples_rgb_color.dcm", tmp_path / "lossy.dcm", lose)
    once = tmp_path / "once.dcm"
    once.write_bytes(next(render(source, dicom(BASELINE))).content)
    twice = rendered(once, dicom(JPEG_2000))
    assert twice.LossyImageCompressionMethod == ["ISO_15444_1", "ISO_10918_1", "ISO_15444_1"]
    assert twice.LossyImageCompressionRatio[0] == 12.5
    assert len(twice.LossyImageCompressionRatio) == 3


def test_what_was_a_jpeg_says_so_when_it_is_none_any_longer(tmp_path: Path) -> None:
    def forget(ds: Dataset) -> None:
        ds.pop("LossyImageCompression", None)

    path = altered("test_files/examples_ybr_color.dcm", tmp_path / "forgetful.dcm", forget)
    for syntax in (EXPLICIT, JPEG_2000_LOSSLESS):
        assert rendered(path, dicom(syntax)).LossyImageCompression == "01"


@pytest.mark.parametrize("syntax", [JPEG_2000_LOSSLESS, JPEG_2000, *HTJ2K_LOSSLESS, HTJ2K])
@pytest.mark.parametrize(
    ("name", "transformed"), [("examples_rgb_color.dcm", 1), ("examples_ybr_color.dcm", 0)]
)
def test_only_rgb_is_transformed(name: str, transformed: int, syntax: str) -> None:
    exported = rendered(FILES / "test_files" / name, dicom(syntax))
    frames = generate_frames(exported.PixelData, number_of_frames=int(exported.get("NumberOfFrames", 1)))
    for codestream in frames:
        assert codestream[codestream.index(b"\xff\x52") + 8] == transformed


def test_jpeg_recompression_keeps_the_jpeg() -> None:
    path = FILES / "test_files/examples_ybr_color.dcm"
    source, exported = dcmread(path), rendered(path, dicom(JPEG_XL_JPEG))
    jpegs = generate_frames(source.PixelData, number_of_frames=30)
    recompressed = [*generate_frames(exported.PixelData, number_of_frames=30)]
    for jpeg, codestream in zip(jpegs, recompressed, strict=True):
        # The fragment in the source may be padded.
        assert jpeg.startswith(imagecodecs.jpegxl_decode_jpeg(codestream))
    assert len(exported.PixelData) < len(source.PixelData)


def test_jpeg_recompression_needs_a_jpeg() -> None:
    with pytest.raises(CannotTranscode, match="starts from a JPEG"):
        list(render(FILES / "test_files/CT_small.dcm", dicom(JPEG_XL_JPEG)))


@pytest.mark.parametrize("syntax", sorted({*NATIVE, *LOSSLESS, BASELINE, JPEG_XL_JPEG}))
@pytest.mark.parametrize("name", OTHERS)
def test_instances_without_pixels_are_rewritten(name: str, syntax: str) -> None:
    source, exported = dcmread(FILES / name), rendered(FILES / name, dicom(syntax))
    assert exported.file_meta.TransferSyntaxUID == (syntax if syntax in NATIVE else EXPLICIT)
    assert differences(source, exported) == set()


def test_text_in_other_character_sets_survives() -> None:
    path = FILES / "charset_files/chrH32.dcm"
    source, exported = dcmread(path), rendered(path, dicom(IMPLICIT))
    assert str(exported.PatientName) == str(source.PatientName) != ""
    assert differences(source, exported) == set()


def test_private_elements_survive() -> None:
    path = FILES / "test_files/CT_small.dcm"
    source, exported = dcmread(path), rendered(path, dicom(RLE))
    private = [element.tag for element in source if element.tag.is_private]
    assert private
    assert [exported[tag].value for tag in private] == [source[tag].value for tag in private]


def test_words_of_big_endian_elements_are_turned_round(tmp_path: Path) -> None:
    ds = dcmread(FILES / "test_files/MR_small.dcm")
    overlay = bytes(range(64))
    swapped = np.frombuffer(overlay, ">u2").astype("<u2").tobytes()
    ds.add_new(0x60003000, "OW", swapped)
    ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    path = tmp_path / "big.dcm"
    dcmwrite(path, ds)

    exported = rendered(path, dicom(EXPLICIT))
    assert exported[0x60003000].value == overlay
    assert exported.PixelData == dcmread(FILES / "test_files/MR_small.dcm").PixelData


def altered(name: str, path: Path, change: Callable[[Dataset], object]) -> Path:
    """Write a copy of one of the files with something changed."""
    ds = dcmread(FILES / name)
    change(ds)
    dcmwrite(path, ds)
    return path


@pytest.mark.parametrize("syntax", sorted(LOSSLESS))
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [5, 8, 13])
def test_any_number_of_bits_in_larger_cells(bits: int, signed: bool, syntax: str, tmp_path: Path) -> None:
    values = np.arange(128 * 128, dtype="<i2").reshape(128, 128) % (1 << bits)
    values -= signed * (1 << bits - 1)

    def narrow(ds: Dataset) -> None:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, int(signed)
        ds.PixelData = values.tobytes()

    path = altered("test_files/CT_small.dcm", tmp_path / "narrow.dcm", narrow)
    if signed and syntax == JPEG_XL_LOSSLESS:
        with pytest.raises(CannotTranscode, match=f"{bits} of 16 bits, signed"):
            list(render(path, dicom(syntax)))
        return
    exported = tmp_path / "exported.dcm"
    exported.write_bytes(next(render(path, dicom(syntax))).content)
    [frame] = stored_values(dcmread(exported))
    np.testing.assert_array_equal(frame, values)
    assert rendered(exported, dicom(EXPLICIT)).PixelData == values.tobytes()


@pytest.mark.parametrize("syntax", [JPEG_LS_NEAR, JPEG_2000, JPEG_XL, HTJ2K])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [6, 8, 12, 16])
def test_losses_are_small_with_any_number_of_bits(
    bits: int, signed: bool, syntax: str, tmp_path: Path
) -> None:
    row, column = np.mgrid[0:128, 0:128]
    waves = (np.sin(row / 9) * np.cos(column / 7) + 1) / 2 * ((1 << bits) - 1)
    values = waves.astype(np.int64) - signed * (1 << bits - 1)

    def wave(ds: Dataset) -> None:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, int(signed)
        ds.PixelData = values.astype("<i8").astype("<i2" if signed else "<u2").tobytes()

    path = altered("test_files/CT_small.dcm", tmp_path / "wave.dcm", wave)
    if signed and syntax in {JPEG_LS_NEAR, JPEG_XL}:
        with pytest.raises(CannotTranscode, match="signed"):
            list(render(path, dicom(syntax)))
        return
    exported = tmp_path / "exported.dcm"
    exported.write_bytes(next(render(path, dicom(syntax))).content)
    frame = np.frombuffer(rendered(exported, dicom(EXPLICIT)).PixelData, "<i2" if signed else "<u2")
    error = np.abs(frame.astype(np.int64) - values.ravel())
    assert error.mean() < (1 << bits) / 40


def test_missing_frames_are_noticed(tmp_path: Path) -> None:
    def promise(ds: Dataset) -> None:
        ds.NumberOfFrames = 3

    path = altered("test_files/SC_rgb_jpeg_gdcm.dcm", tmp_path / "promise.dcm", promise)
    with pytest.raises(CannotTranscode, match="1 of 3 frames"):
        list(render(path, dicom(EXPLICIT)))


def test_video_has_no_decoder(tmp_path: Path) -> None:
    def film(ds: Dataset) -> None:
        ds.file_meta.TransferSyntaxUID = MPEG2MPML
        ds.PixelData = encapsulate([b"\0\0\1\xb3"])

    path = altered("test_files/examples_rgb_color.dcm", tmp_path / "film.dcm", film)
    for form in (dicom(EXPLICIT), dicom(JPEG_2000), "image/png", "application/octet-stream"):
        with pytest.raises(CannotTranscode, match="no decoder for MPEG2"):
            list(render(path, form))
    assert list(render(path, "application/octet-stream; transfer-syntax=*")) == [
        Rendition(None, b"\0\0\1\xb3")
    ]


def test_broken_pixels_are_a_reason_without_patient_data(tmp_path: Path) -> None:
    def break_it(ds: Dataset) -> None:
        ds.PatientName = "Confidential^Person"
        ds.PixelData = encapsulate([b"no codestream at all"])

    for name in ("MR_small_jp2klossless.dcm", "SC_rgb_jpeg_gdcm.dcm", "MR_small_RLE.dcm"):
        path = altered(f"test_files/{name}", tmp_path / name, break_it)
        for form in (dicom(EXPLICIT), dicom(DEFLATED_FRAMES), "image/jpeg"):
            with pytest.raises(CannotTranscode, match="cannot be decoded") as reason:
                list(render(path, form))
            assert "Confidential" not in str(reason.value)


def test_what_is_no_dicom_is_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("Confidential")
    with pytest.raises(CannotTranscode, match="InvalidDicomError while making image/png"):
        list(render(path, "image/png"))


def test_floating_point_pixels_stay_uncompressed(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 128 * 128, dtype="<f4").tobytes()

    def to_float(ds: Dataset) -> None:
        del ds.PixelData
        ds.BitsAllocated = 32
        ds.FloatPixelData = values

    path = altered("test_files/CT_small.dcm", tmp_path / "float.dcm", to_float)
    assert rendered(path, dicom(IMPLICIT)).FloatPixelData == values
    assert list(render(path, "application/octet-stream")) == [Rendition(None, values)]
    with pytest.raises(CannotTranscode, match="floating point"):
        list(render(path, dicom(JPEG_LS)))


# ---- raw pixel data


def test_raw_pixel_data_of_one_frame() -> None:
    path = FILES / "test_files/SC_rgb_small_odd.dcm"
    [rendition] = render(path, "application/octet-stream")
    # 3 x 3 x 3 bytes: what pads the element to an even length is no pixel.
    assert rendition == Rendition(None, dcmread(path).PixelData[:27])


def test_raw_pixel_data_by_frame() -> None:
    path = FILES / "test_files/rtdose.dcm"
    frames = list(render(path, "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"))
    assert [frame.frame for frame in frames] == list(range(1, 16))
    assert b"".join(frame.content for frame in frames) == dcmread(path).PixelData


@pytest.mark.parametrize("name", ["rtdose_expb.dcm", "rtdose_rle.dcm"])
def test_raw_uncompressed_pixel_data_is_little_endian(name: str) -> None:
    frames = render(FILES / "test_files" / name, "application/octet-stream")
    expected = dcmread(FILES / "test_files/rtdose.dcm").PixelData
    assert b"".join(frame.content for frame in frames) == expected


def test_raw_pixel_data_as_stored() -> None:
    path = FILES / "test_files/examples_ybr_color.dcm"
    frames = list(render(path, "application/octet-stream; transfer-syntax=*"))
    assert [frame.frame for frame in frames] == list(range(1, 31))
    assert all(frame.content.startswith(b"\xff\xd8") for frame in frames)
    assert [frame.content for frame in frames] == list(
        generate_frames(dcmread(path).PixelData, number_of_frames=30)
    )


def test_truncated_pixel_data_is_no_frame() -> None:
    path = FILES / "test_files/MR_truncated.dcm"
    for form in ("application/octet-stream", "application/octet-stream; transfer-syntax=*"):
        with pytest.raises(CannotTranscode, match="shorter than declared"):
            list(render(path, form))
    with pytest.raises(CannotTranscode, match="less than expected"):
        list(render(path, dicom(RLE)))


def test_frames_of_single_bits_are_cut_apart(tmp_path: Path) -> None:
    flags = np.random.default_rng(0).integers(0, 2, (3, 5, 5), dtype="u1")

    def to_bits(ds: Dataset) -> None:
        ds.Rows = ds.Columns = 5
        ds.NumberOfFrames = 3
        ds.PixelData = np.packbits(flags.ravel(), bitorder="little").tobytes()

    path = altered("test_files/liver_1frame.dcm", tmp_path / "bits.dcm", to_bits)
    for form in ("application/octet-stream", "application/octet-stream; transfer-syntax=*"):
        for index, rendition in enumerate(render(path, form)):
            bits = np.unpackbits(np.frombuffer(rendition.content, "u1"), bitorder="little")[:25]
            np.testing.assert_array_equal(bits.reshape(5, 5), flags[index])
    exported = rendered(path, dicom(DEFLATED_FRAMES))
    np.testing.assert_array_equal(np.stack(stored_values(exported)), flags)
    path.write_bytes(next(render(path, dicom(DEFLATED_FRAMES))).content)
    native = rendered(path, dicom(EXPLICIT))
    np.testing.assert_array_equal(np.stack(stored_values(native)), flags)


@pytest.mark.parametrize("form", ["application/octet-stream", "image/png", "image/jpeg"])
@pytest.mark.parametrize("name", OTHERS)
def test_there_are_no_pixels_of_other_instances(name: str, form: str) -> None:
    with pytest.raises(CannotTranscode, match="no pixel data"):
        list(render(FILES / name, form))


# ---- PNG and JPEG


def pictures(path: Path, kind: str = "image/png") -> list[NDArray[np.int64]]:
    return [
        np.asarray(Image.open(io.BytesIO(rendition.content))).astype(np.int64)
        for rendition in render(path, kind)
    ]


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    name = "test_files/dicomdirtests/77654033/CR1/6154"

    def invert(ds: Dataset) -> None:
        ds.PhotometricInterpretation = "MONOCHROME2"

    [inverted] = pictures(FILES / name)
    [plain] = pictures(altered(name, tmp_path / "plain.dcm", invert))
    assert plain.min() < plain.max()
    np.testing.assert_array_equal(inverted, 255 - plain)


def test_the_window_is_applied_to_rescaled_values(tmp_path: Path) -> None:
    def window(ds: Dataset) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = 2, -1000
        ds.WindowCenter, ds.WindowWidth = [40.5, 0], [401, 1]

    path = altered("test_files/CT_small.dcm", tmp_path / "window.dcm", window)
    [picture] = pictures(path)
    hounsfield = dcmread(path).pixel_array.astype(float) * 2 - 1000
    # PS3.3, C.11.2.1.2.1, the first of two windows: from -160 to 240.
    expected = np.clip((hounsfield + 160) / 400, 0, 1) * 255
    assert np.abs(picture - expected).max() <= 0.5
    assert {0, 255} < set(picture.ravel())


def test_without_a_window_the_whole_range_shows(tmp_path: Path) -> None:
    def brick_up(ds: Dataset) -> None:
        del ds.WindowCenter, ds.WindowWidth

    [picture] = pictures(altered("test_files/MR_small.dcm", tmp_path / "wall.dcm", brick_up))
    assert (picture.min(), picture.max()) == (0, 255)


def test_one_grey_level_is_black(tmp_path: Path) -> None:
    def flat(ds: Dataset) -> None:
        ds.PixelData = bytes([7]) * len(ds.PixelData)

    [picture] = pictures(altered("test_files/CT_small.dcm", tmp_path / "flat.dcm", flat))
    assert set(picture.ravel()) == {0}


def test_a_table_of_grey_levels_is_applied(tmp_path: Path) -> None:
    def table(ds: Dataset) -> None:
        lut = Dataset()
        lut.LUTDescriptor = [256, 0, 12]
        lut.LUTData = [4095 - 16 * entry for entry in range(256)]
        lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
        ds.VOILUTSequence = [lut]

    path = altered("charset_files/chrGerm.dcm", tmp_path / "table.dcm", table)
    [picture] = pictures(path)
    values = dcmread(path).pixel_array.astype(float)
    np.testing.assert_allclose(picture, (4095 - 16 * values) / 4095 * 255, atol=0.5)


def test_frames_have_windows_of_their_own(tmp_path: Path) -> None:
    def enhanced(ds: Dataset) -> None:
        shared, groups = Dataset(), []
        transformation = Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = 1, 0
        transformation.RescaleType = "US"
        shared.PixelValueTransformationSequence = [transformation]
        for center in (500, 1500):
            group, look = Dataset(), Dataset()
            look.WindowCenter, look.WindowWidth = center, 400
            group.FrameVOILUTSequence = [look]
            groups.append(group)
        ds.NumberOfFrames = 2
        ds.PixelData += ds.PixelData
        ds.SharedFunctionalGroupsSequence = [shared]
        ds.PerFrameFunctionalGroupsSequence = groups

    first, second = pictures(altered("test_files/CT_small.dcm", tmp_path / "enhanced.dcm", enhanced))
    assert first.mean() > second.mean() + 20


def test_palettes_become_colours() -> None:
    path = FILES / "test_files/examples_palette.dcm"
    ds = dcmread(path)
    [picture] = pictures(path)
    np.testing.assert_array_equal(picture, apply_color_lut(ds.pixel_array, ds) >> 8)


def test_every_frame_is_a_picture_in_rgb() -> None:
    path = FILES / "test_files/examples_ybr_color.dcm"
    assert [rendition.frame for rendition in render(path, "image/png")] == list(range(1, 31))
    expected = get_decoder(BASELINE).iter_array(dcmread(path), raw=True)
    for picture, (frame, _) in zip(pictures(path), expected, strict=True):
        np.testing.assert_array_equal(picture, convert_color_space(frame, "YBR_FULL", "RGB"))


def test_deep_colours_are_scaled() -> None:
    [picture] = pictures(FILES / "test_files/SC_rgb_rle_16bit.dcm")
    [frame] = stored_values(dcmread(FILES / "test_files/SC_rgb_rle_16bit.dcm"))
    np.testing.assert_array_equal(picture, frame >> 8)


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "examples_palette.dcm", "examples_rgb_color.dcm", "liver_1frame.dcm"]
)
def test_jpegs_are_baseline_and_look_like_the_pngs(name: str) -> None:
    path = FILES / "test_files" / name
    [rendition] = render(path, "image/jpeg")
    assert b"\xff\xc0" in rendition.content, "the marker of baseline"
    for jpeg, png in zip(pictures(path, "image/jpeg"), pictures(path), strict=True):
        assert np.abs(jpeg - png).mean() < 4


def test_unknown_colours_are_refused(tmp_path: Path) -> None:
    def paint(ds: Dataset) -> None:
        ds.PhotometricInterpretation = "CMYK"

    path = altered("test_files/examples_rgb_color.dcm", tmp_path / "cmyk.dcm", paint)
    with pytest.raises(CannotTranscode, match="CMYK"):
        list(render(path, "image/png"))


def test_implicit_files_that_say_explicit_are_read(tmp_path: Path) -> None:
    ds = dcmread(FILES / "test_files/CT_small.dcm")
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    file = io.BytesIO()
    dcmwrite(file, ds)
    explicit = ExplicitVRLittleEndian.encode() + b"\0"
    path = tmp_path / "liar.dcm"
    head, _, tail = file.getvalue().partition(b"UI\x12\x00" + ImplicitVRLittleEndian.encode() + b"\0")
    length = int.from_bytes(head[140:144], "little") + len(explicit) - 18
    path.write_bytes(head[:140] + length.to_bytes(4, "little") + head[144:] + b"UI\x14\x00" + explicit + tail)
    assert differences(ds, rendered(path, dicom(RLE))) == {"PixelData"}
