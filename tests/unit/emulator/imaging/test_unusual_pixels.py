"""Transcoding of unusual bit depths, and of files that are incomplete, broken or mislabelled."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from airflow_provider_dicom.emulator.imaging import pixel_decoders, transcode
from airflow_provider_dicom.emulator.imaging.pixel_decoders import decode
from airflow_provider_dicom.emulator.imaging.transcode import (
    CannotTranscode,
    Rendition,
    render,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom.dataset import Dataset

from tests.support.pixel_data import (
    DEFLATED_FRAMES,
    EXPLICIT,
    FILES,
    HTJ2K,
    IMPLICIT,
    JPEG_2000,
    JPEG_LS,
    JPEG_LS_NEAR,
    JPEG_XL,
    JPEG_XL_LOSSLESS,
    LOSSLESS,
    RLE,
    altered,
    dicom,
    differences,
    rendered,
    stored_values,
)

# pydicom's files are there to exercise a parser: many of their values draw a warning.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.mark.parametrize("syntax", sorted(LOSSLESS))
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [5, 8, 13])
def test_lossless_syntax_keeps_values_with_fewer_bits_than_their_cells(
    bits: int, signed: bool, syntax: str, tmp_path: Path
) -> None:
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
def test_lossy_syntax_has_small_errors_at_any_bit_depth(
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


def test_pixel_data_with_too_few_frames_is_refused(tmp_path: Path) -> None:
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


def test_error_about_damaged_pixel_data_has_no_patient_data(tmp_path: Path) -> None:
    def break_it(ds: Dataset) -> None:
        ds.PatientName = "Confidential^Person"
        ds.PixelData = encapsulate([b"no codestream at all"])

    for name in ("MR_small_jp2klossless.dcm", "SC_rgb_jpeg_gdcm.dcm", "MR_small_RLE.dcm"):
        path = altered(f"test_files/{name}", tmp_path / name, break_it)
        for form in (dicom(EXPLICIT), dicom(DEFLATED_FRAMES), "image/jpeg"):
            with pytest.raises(CannotTranscode, match="cannot be decoded") as reason:
                list(render(path, form))
            assert "Confidential" not in str(reason.value)


def test_file_that_is_not_dicom_cannot_be_converted(tmp_path: Path) -> None:
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


def test_implicit_vr_file_that_declares_explicit_vr_is_converted(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("syntax", [JPEG_2000, JPEG_LS, JPEG_XL, DEFLATED_FRAMES])
def test_codestream_of_other_dimensions_is_not_decoded(syntax: str, tmp_path: Path) -> None:
    large = np.zeros((4000, 4000), np.uint8)
    codestream = {
        JPEG_2000: imagecodecs.jpeg2k_encode(large, codecformat="j2k"),
        JPEG_LS: imagecodecs.jpegls_encode(large),
        JPEG_XL: imagecodecs.jpegxl_encode(large, usecontainer=False),
        DEFLATED_FRAMES: zlib.compress(large.tobytes(), wbits=-15),
    }[syntax]

    def replace(ds: Dataset) -> None:
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation = 7, 0
        ds.PixelData = encapsulate([bytes(codestream)])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = UID(syntax)

    ds = dcmread(FILES / "test_files/CT_small.dcm")
    replace(ds)
    with pytest.raises(CannotTranscode), memory_below(len(large.tobytes()) // 2):
        list(decode(ds))


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Check that no more memory than ``limit`` bytes was taken."""
    tracemalloc.start()
    try:
        yield
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < limit


def test_instance_beyond_googles_limits_is_not_transcoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FILES / "test_files/SC_rgb_rle_2frame.dcm"
    one_frame = 100 * 100 * 3
    for name, limit, reason in (
        ("MAX_FRAME_BYTES", one_frame, "a frame has more than"),
        ("MAX_FILE_BYTES", 2 * one_frame, "the frames have more than"),
    ):
        monkeypatch.setattr(pixel_decoders, name, limit)
        assert len(list(render(path, "image/png"))) == 2
        monkeypatch.setattr(pixel_decoders, name, limit - 1)
        for form in (dicom(EXPLICIT), dicom(JPEG_LS), "image/png", "application/octet-stream"):
            with pytest.raises(CannotTranscode, match=reason):
                list(render(path, form))
        assert next(render(path, dicom("*"))).content == path.read_bytes()
        monkeypatch.undo()
    monkeypatch.setattr(transcode, "MAX_FILE_BYTES", path.stat().st_size - 1)
    with pytest.raises(CannotTranscode, match="the file has more than"):
        list(render(path, dicom(EXPLICIT)))


def test_animation_is_not_decoded_beyond_its_first_image() -> None:
    image = np.zeros((64, 64), np.uint8)
    animation = bytes(imagecodecs.jpegxl_encode(np.stack([image] * 8), usecontainer=False))
    ds = dcmread(FILES / "test_files/CT_small.dcm")
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.PixelRepresentation = 64, 64, 8, 8, 0
    ds.PixelData = encapsulate([animation])
    ds.file_meta.TransferSyntaxUID = UID(JPEG_XL)
    [(frame, _)] = decode(ds)
    assert frame.shape == image.shape
