"""Every form of the API's list, over the real files that pydicom ships."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRBigEndian

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
    from pathlib import Path

    from pydicom.dataset import Dataset

from tests.support.pixel_data import (
    BASELINE,
    DEFLATED,
    EXPLICIT,
    EXTENDED,
    FILES,
    HTJ2K,
    HTJ2K_LOSSLESS,
    IMPLICIT,
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_LOSSLESS,
    JPEG_LS,
    JPEG_LS_NEAR,
    JPEG_XL,
    JPEG_XL_JPEG,
    LOSSLESS,
    NATIVE,
    OTHERS,
    PICTURES,
    RLE,
    altered,
    dicom,
    differences,
    pictures,
    rendered,
    stored_values,
)

# pydicom's files are there to exercise a parser: many of their values draw a warning.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


# ---- MIME types


def listed_forms() -> list[str]:
    """Return the forms in the description of the API itself."""
    document = resources.files("googleapiclient.discovery_cache.documents") / "healthcare.v1.json"
    schemas = json.loads(document.read_text())["schemas"]
    text = schemas["GoogleCloudHealthcareV1DicomGcsDestination"]["properties"]["mimeType"]["description"]
    listed = text.partition("are supported:")[2].partition("The following extensions")[0]
    return re.findall(r"- ((?:application|image)/[a-z-]+(?:; transfer-syntax=[\d.*]+)?)", listed)


def test_mime_types_are_those_of_the_discovery_document() -> None:
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
def test_listed_mime_type_is_accepted_with_and_without_parameter(form: str | None) -> None:
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
def test_unlisted_mime_type_is_refused(form: str) -> None:
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
def test_mime_type_has_a_media_type_and_an_extension(form: str | None, kind: str, ending: str) -> None:
    assert (media_type(form), extension(form)) == (kind, ending)


# ---- DICOM


@pytest.mark.parametrize("form", [None, "application/dicom", dicom("*")])
@pytest.mark.parametrize("name", ["test_files/MR_small_bigendian.dcm", "test_files/MR_truncated.dcm"])
def test_default_mime_type_returns_the_uploaded_bytes(name: str, form: str | None) -> None:
    (rendition,) = render(FILES / name, form)
    assert (rendition.frame, rendition.content) == (None, (FILES / name).read_bytes())


def test_stored_transfer_syntax_returns_the_uploaded_bytes() -> None:
    path = FILES / "test_files/SC_rgb_jpeg_dcmtk.dcm"
    (rendition,) = render(path, dicom(BASELINE))
    assert rendition == Rendition(None, path.read_bytes(), BASELINE)


@pytest.mark.parametrize("syntax", sorted(NATIVE | LOSSLESS))
@pytest.mark.parametrize("name", PICTURES)
def test_lossless_syntax_keeps_every_pixel_and_attribute(name: str, syntax: str) -> None:
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
def test_photometric_interpretation_is_that_of_the_codestream(
    name: str, syntax: str, photometric: str, planar: int | None
) -> None:
    exported = rendered(FILES / "test_files" / name, dicom(syntax))
    assert exported.PhotometricInterpretation == photometric
    assert exported.get("PlanarConfiguration") == planar


def test_codestream_declares_the_stored_bits() -> None:
    # 12 bits stored in cells of 16.
    path = FILES / "test_files/examples_overlay.dcm"
    [jpeg] = generate_frames(rendered(path, dicom(JPEG_LOSSLESS[1])).PixelData, number_of_frames=1)
    assert jpeg[jpeg.index(b"\xff\xc3") + 4] == 12
    [jpeg_ls] = generate_frames(rendered(path, dicom(JPEG_LS)).PixelData, number_of_frames=1)
    assert jpeg_ls[jpeg_ls.index(b"\xff\xf7") + 4] == 12
    [jpeg_2000] = generate_frames(rendered(path, dicom(JPEG_2000_LOSSLESS)).PixelData, number_of_frames=1)
    assert jpeg_2000[jpeg_2000.index(b"\xff\x51") + 40] + 1 == 12


def test_htj2k_rpcl_codestream_has_the_required_markers() -> None:
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
def test_lossy_syntax_is_similar_and_recorded_in_the_attributes(
    name: str, syntax: str, method: str, tmp_path: Path
) -> None:
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


def test_second_lossy_compression_is_appended_to_the_first(tmp_path: Path) -> None:
    def lose(ds: Dataset) -> None:
        ds.LossyImageCompressionMethod, ds.LossyImageCompressionRatio = "ISO_15444_1", "12.5"

    source = altered("test_files/examples_rgb_color.dcm", tmp_path / "lossy.dcm", lose)
    once = tmp_path / "once.dcm"
    once.write_bytes(next(render(source, dicom(BASELINE))).content)
    twice = rendered(once, dicom(JPEG_2000))
    assert twice.LossyImageCompressionMethod == ["ISO_15444_1", "ISO_10918_1", "ISO_15444_1"]
    assert twice.LossyImageCompressionRatio[0] == 12.5
    assert len(twice.LossyImageCompressionRatio) == 3


def test_decompressed_jpeg_is_still_marked_as_lossy(tmp_path: Path) -> None:
    def forget(ds: Dataset) -> None:
        ds.pop("LossyImageCompression", None)

    path = altered("test_files/examples_ybr_color.dcm", tmp_path / "forgetful.dcm", forget)
    for syntax in (EXPLICIT, JPEG_2000_LOSSLESS):
        assert rendered(path, dicom(syntax)).LossyImageCompression == "01"


@pytest.mark.parametrize("syntax", [JPEG_2000_LOSSLESS, JPEG_2000, *HTJ2K_LOSSLESS, HTJ2K])
@pytest.mark.parametrize(
    ("name", "transformed"), [("examples_rgb_color.dcm", 1), ("examples_ybr_color.dcm", 0)]
)
def test_colour_transform_is_used_only_for_rgb(name: str, transformed: int, syntax: str) -> None:
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
        assert jpeg.startswith(imagecodecs.jpegxl_decode_jpeg(codestream, numthreads=1))
    assert len(exported.PixelData) < len(source.PixelData)


def test_jpeg_recompression_needs_a_jpeg() -> None:
    with pytest.raises(CannotTranscode, match="starts from a JPEG"):
        list(render(FILES / "test_files/CT_small.dcm", dicom(JPEG_XL_JPEG)))


@pytest.mark.parametrize("syntax", sorted({*NATIVE, *LOSSLESS, BASELINE, JPEG_XL_JPEG}))
@pytest.mark.parametrize("name", OTHERS)
def test_instance_without_pixels_is_written_as_explicit_little_endian(name: str, syntax: str) -> None:
    source, exported = dcmread(FILES / name), rendered(FILES / name, dicom(syntax))
    assert exported.file_meta.TransferSyntaxUID == (syntax if syntax in NATIVE else EXPLICIT)
    assert differences(source, exported) == set()


def test_text_in_any_character_set_is_kept() -> None:
    path = FILES / "charset_files/chrH32.dcm"
    source, exported = dcmread(path), rendered(path, dicom(IMPLICIT))
    assert str(exported.PatientName) == str(source.PatientName) != ""
    assert differences(source, exported) == set()


def test_private_elements_are_kept() -> None:
    path = FILES / "test_files/CT_small.dcm"
    source, exported = dcmread(path), rendered(path, dicom(RLE))
    private = [element.tag for element in source if element.tag.is_private]
    assert private
    assert [exported[tag].value for tag in private] == [source[tag].value for tag in private]


def test_words_of_big_endian_elements_are_byte_swapped(tmp_path: Path) -> None:
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
