"""Rows and columns of DICOM metadata."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom.data
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.datadict import keyword_dict
from pydicom.dataset import Dataset

from airflow_provider_dicom.emulator.exports.bigquery_columns import Column, covers, merge
from airflow_provider_dicom.emulator.exports.bigquery_schema import RowMaker
from airflow_provider_dicom.emulator.models.instances import StoredInstance

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.emulator.exports.bigquery_columns import Columns
    from airflow_provider_dicom.emulator.exports.bigquery_schema import SchemaKind

# pydicom's files are there to exercise a parser: many of their values draw a warning.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

FILES = Path(pydicom.data.__file__).parent / "test_files"
STORE = "projects/p/locations/l/datasets/d/dicomStores/s"
UPDATED = datetime(2026, 1, 2, 4, 4, 5, tzinfo=timezone(timedelta(hours=1)))


def stored(path: Path) -> StoredInstance:
    return StoredInstance("1.2", "1.2.3", "1.2.3.4", path, STORE, UPDATED)


def converted(
    name: str = "CT_small.dcm", schema: SchemaKind = "flattened", *, include_source_store: bool = False
) -> tuple[dict[str, Any], Columns]:
    maker = RowMaker(schema, include_source_store=include_source_store)
    return maker.row(stored(FILES / name)), maker.columns


@pytest.fixture
def altered(tmp_path: Path) -> Callable[[Callable[[Dataset], object]], tuple[dict[str, Any], Columns]]:
    """Convert the CT with something changed."""

    def convert(change: Callable[[Dataset], object]) -> tuple[dict[str, Any], Columns]:
        ds = dcmread(FILES / "CT_small.dcm")
        change(ds)
        dcmwrite(tmp_path / "altered.dcm", ds)
        maker = RowMaker("flattened", include_source_store=False)
        return maker.row(stored(tmp_path / "altered.dcm")), maker.columns

    return convert


@pytest.mark.parametrize(
    ("keyword", "kind", "mode", "value"),
    [
        ("Modality", "STRING", "NULLABLE", "CT"),
        ("ImageType", "STRING", "REPEATED", ["ORIGINAL", "PRIMARY", "AXIAL"]),
        ("PixelSpacing", "STRING", "REPEATED", ["0.661468", "0.661468"]),
        ("KVP", "STRING", "NULLABLE", "120"),
        ("InstanceNumber", "STRING", "NULLABLE", "1"),
        ("StudyDate", "DATE", "NULLABLE", "2004-01-19"),
        ("ContentTime", "TIME", "NULLABLE", "11:30:08"),
        ("Rows", "INTEGER", "NULLABLE", 128),
        ("SpecificCharacterSet", "STRING", "REPEATED", ["ISO_IR 100"]),
        ("TransferSyntaxUID", "STRING", "NULLABLE", "1.2.840.10008.1.2.1"),
    ],
)
def test_element_becomes_a_column_of_its_type(keyword: str, kind: str, mode: str, value: object) -> None:
    row, columns = converted()
    assert (columns[keyword].type, columns[keyword].mode, row[keyword]) == (kind, mode, value)


def test_multivalued_integers_are_a_repeated_column() -> None:
    row, columns = converted("liver_1frame.dcm")
    group = row["PerFrameFunctionalGroupsSequence"][0]
    assert group["FrameContentSequence"][0]["DimensionIndexValues"] == [1, 1]
    nested = columns["PerFrameFunctionalGroupsSequence"].fields["FrameContentSequence"]
    assert nested.fields["DimensionIndexValues"] == Column("INTEGER", "REPEATED")


def test_sequences_are_repeated_records() -> None:
    row, columns = converted()
    assert row["OtherPatientIDsSequence"] == [
        {"PatientID": "ABCD1234", "TypeOfPatientID": "TEXT"},
        {"PatientID": "1234ABCD", "TypeOfPatientID": "TEXT"},
    ]
    assert columns["OtherPatientIDsSequence"] == Column(
        "RECORD", "REPEATED", {"PatientID": Column("STRING"), "TypeOfPatientID": Column("STRING")}
    )


def test_person_names_have_groups_and_components(
    altered: Callable[[Callable[[Dataset], object]], tuple[dict[str, Any], Columns]],
) -> None:
    def name(ds: Dataset) -> None:
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.PatientName = "Yamada^Tarou^^Dr=山田^太郎=やまだ^たろう"
        ds.OperatorsName = ["One^A", "Two^B"]

    row, columns = altered(name)
    assert row["PatientName"] == {
        "Alphabetic": {"FamilyName": "Yamada", "GivenName": "Tarou", "NamePrefix": "Dr"},
        "Ideographic": {"FamilyName": "山田", "GivenName": "太郎"},
        "Phonetic": {"FamilyName": "やまだ", "GivenName": "たろう"},
    }
    assert row["OperatorsName"][1] == {"Alphabetic": {"FamilyName": "Two", "GivenName": "B"}}
    assert columns["PatientName"].mode == "NULLABLE"
    assert columns["OperatorsName"].mode == "REPEATED"
    assert [*columns["PatientName"].fields["Phonetic"].fields] == [
        "FamilyName",
        "GivenName",
        "MiddleName",
        "NamePrefix",
        "NameSuffix",
    ]


def test_private_elements_are_in_other_elements() -> None:
    row, columns = converted()
    others = {element["Tag"]: element["Data"] for element in row["OtherElements"]}
    assert others["Tag_00431018"] == ["0.085000", "1.102000", "0.095000"]
    assert others["Tag_00431025"] == ["1", "2", "3", "748", "749", "750"]
    assert columns["OtherElements"].fields == {"Tag": Column("STRING"), "Data": Column("STRING", "REPEATED")}
    assert not [name for name in columns if name.startswith("Tag_")]


def test_private_sequence_is_a_record_named_by_its_tag(
    altered: Callable[[Callable[[Dataset], object]], tuple[dict[str, Any], Columns]],
) -> None:
    def add(ds: Dataset) -> None:
        item = Dataset()
        item.Modality = "MR"
        ds.private_block(0x0033, "SOMEONE", create=True).add_new(1, "SQ", [item])

    row, columns = altered(add)
    assert row["Tag_00331001"] == [{"Modality": "MR"}]
    assert columns["Tag_00331001"] == Column("RECORD", "REPEATED", {"Modality": Column("STRING")})


def test_element_of_a_repeating_group_has_the_group_as_id(
    altered: Callable[[Callable[[Dataset], object]], tuple[dict[str, Any], Columns]],
) -> None:
    def overlay(ds: Dataset) -> None:
        ds.add_new(0x60000010, "US", 3)
        ds.add_new(0x60000050, "SS", [1, 1])
        ds.add_new(0x60020010, "US", 5)

    row, columns = altered(overlay)
    assert row["OverlayRows"] == [{"Id": "6000", "Value": 3}, {"Id": "6002", "Value": 5}]
    assert row["OverlayOrigin"] == [{"Id": "6000", "Value": [1, 1]}]
    assert columns["OverlayOrigin"].fields["Value"] == Column("INTEGER", "REPEATED")


def test_date_times_without_offset_have_that_of_the_instance(
    altered: Callable[[Callable[[Dataset], object]], tuple[dict[str, Any], Columns]],
) -> None:
    def times(ds: Dataset) -> None:
        ds.TimezoneOffsetFromUTC = "-0530"
        ds.AcquisitionDateTime = "20260102030405.25"
        ds.FrameReferenceDateTime = "20260102030405+0100"
        ds.ContentTime = "1011"

    row, _ = altered(times)
    assert row["AcquisitionDateTime"] == "2026-01-02T08:34:05.250000+00:00"
    assert row["FrameReferenceDateTime"] == "2026-01-02T02:04:05+00:00"
    assert row["ContentTime"] == "10:11:00"


def test_values_that_do_not_fit_their_column_are_in_other_elements(
    altered: Callable[[Callable[[Dataset], object]], tuple[dict[str, Any], Columns]],
) -> None:
    def damage(ds: Dataset) -> None:
        item = Dataset()
        item.add_new("StudyDate", "DA", "20261301")
        item.Modality = "MR"
        ds.OtherPatientIDsSequence = [item]
        ds["StudyTime"]._value = "noon"
        ds["PatientSex"].value = ["F", "M"]
        ds.add_new("SliceThickness", "US", 5)
        ds.ReferringPhysicianName = "^^^^"

    with pydicom.config.disable_value_validation():
        row, _ = altered(damage)
    others = {element["Tag"]: element["Data"] for element in row["OtherElements"]}
    assert others["Tag_00080030"] == ["noon"]
    assert others["Tag_00080090"] == ["^^^^"]
    assert others["Tag_00100040"] == ["F", "M"]
    assert others["Tag_00180050"] == ["5"]
    assert not {"StudyTime", "PatientSex", "SliceThickness", "ReferringPhysicianName"} & {*row}
    assert row["OtherPatientIDsSequence"] == [
        {"Modality": "MR", "OtherElements": [{"Tag": "Tag_00080020", "Data": ["20261301"]}]}
    ]


def test_nan_and_infinity_are_written_as_names(
    altered: Callable[[Callable[[Dataset], object]], tuple[dict[str, Any], Columns]],
) -> None:
    def numbers(ds: Dataset) -> None:
        ds.B1rms = float("nan")
        ds.DiffusionGradientOrientation = [float("inf"), 1.5, float("-inf")]

    row, columns = altered(numbers)
    assert row["B1rms"] == "nan"
    assert row["DiffusionGradientOrientation"] == ["inf", 1.5, "-inf"]
    assert columns["B1rms"] == Column("FLOAT")


@pytest.mark.parametrize("schema", ["flattened", "json"])
@pytest.mark.parametrize("name", ["CT_small.dcm", "waveform_ecg.dcm", "examples_palette.dcm"])
def test_rows_contain_no_bulk_data(name: str, schema: SchemaKind) -> None:
    row, columns = converted(name, schema)
    del row["DroppedTags"]
    text = json.dumps([row, sorted(columns)])
    for keyword in ("PixelData", "WaveformData", "RedPaletteColorLookupTableData"):
        assert keyword not in text
    for tag in ("7FE00010", "54001010", "00281201", "InlineBinary"):
        assert tag not in text


def test_dropped_tags_name_the_bulk_data() -> None:
    row, columns = converted()
    assert {"TagName": "PixelData", "TagReference": "Tag_7FE00010"} in row["DroppedTags"]
    assert columns["DroppedTags"] == Column(
        "RECORD", "REPEATED", {"TagName": Column("STRING"), "TagReference": Column("STRING")}
    )
    names = [dropped["TagName"] for dropped in converted("waveform_ecg.dcm")[0]["DroppedTags"]]
    assert "WaveformData" in names
    assert "PixelData" not in names


def test_flattened_columns_have_the_order_of_googles_tables(
    altered: Callable[[Callable[[Dataset], object]], tuple[dict[str, Any], Columns]],
) -> None:
    def add(ds: Dataset) -> None:
        ds.add_new(0x60000010, "US", 3)
        item = Dataset()
        item.Modality = "MR"
        item.private_block(0x0033, "SOMEONE", create=True).add_new(2, "LO", "x")
        ds.private_block(0x0033, "SOMEONE", create=True).add_new(1, "SQ", [item])

    names = [*altered(add)[1]]
    known = [name for name in names if keyword_dict.get(name)]
    assert known == sorted(known, key=keyword_dict.__getitem__)
    assert names[:3] == ["MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID"]
    assert names[-8:] == [
        "OverlayRows",
        "Tag_00331001",
        *("OtherElements", "DroppedTags", "Type", "LastUpdated", "StorageClass", "BlobStorageSize"),
    ]


def test_rows_have_the_storage_columns(tmp_path: Path) -> None:
    row, columns = converted(include_source_store=True)
    assert row["StudyInstanceUID"] == "1.2"
    assert row["SeriesInstanceUID"] == "1.2.3"
    assert row["SOPInstanceUID"] == "1.2.3.4"
    assert row["SourceDicomStore"] == STORE
    assert row["Type"] == "CREATE"
    assert "StructuredStorageSize" not in columns
    assert row["LastUpdated"] == "2026-01-02T03:04:05+00:00"
    assert row["BlobStorageSize"] == (FILES / "CT_small.dcm").stat().st_size
    assert columns["LastUpdated"] == Column("TIMESTAMP")
    assert "SourceDicomStore" not in converted()[0]
    assert "SourceDicomStore" not in converted()[1]


def test_json_schema_has_the_documented_columns() -> None:
    row, columns = converted(schema="json", include_source_store=True)
    assert columns == {
        "StudyInstanceUID": Column("STRING"),
        "SeriesInstanceUID": Column("STRING"),
        "SOPInstanceUID": Column("STRING"),
        "SourceDicomStore": Column("STRING"),
        "Metadata": Column("JSON"),
        "StructuredStorageSize": Column("INTEGER"),
        "DroppedTags": Column("STRING", "REPEATED"),
        "StorageClass": Column("STRING"),
        "LastUpdated": Column("TIMESTAMP"),
        "BlobStorageSize": Column("INTEGER"),
        "Type": Column("STRING"),
    }
    assert {*row} == {*columns}
    assert row["Type"] == "INSERT"
    assert row["Metadata"]["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "CompressedSamples^CT1"}]}
    assert row["Metadata"]["00280010"] == {"vr": "US", "Value": [128]}


def test_nan_is_dropped_in_the_json_schema(tmp_path: Path) -> None:
    ds = dcmread(FILES / "CT_small.dcm")
    ds.B1rms = float("nan")
    dcmwrite(tmp_path / "nan.dcm", ds)
    row = RowMaker("json", include_source_store=False).row(stored(tmp_path / "nan.dcm"))
    assert row["DroppedTags"] == ["B1rms"]
    json.dumps(row, allow_nan=False)


def test_columns_are_collected_over_instances() -> None:
    maker = RowMaker("default", include_source_store=False)
    for name in ("CT_small.dcm", "rtplan.dcm", "test-SR.dcm"):
        maker.row(stored(FILES / name))
    assert {"KVP", "BeamSequence", "ContentSequence"} <= {*maker.columns}


def test_sequences_too_deep_for_bigquery_are_dropped(
    altered: Callable[[Callable[[Dataset], object]], tuple[dict[str, Any], Columns]],
) -> None:
    def nest(ds: Dataset) -> None:
        innermost = ds
        for _ in range(20):
            item = Dataset()
            innermost.ContentSequence = [item]
            innermost = item

    row, columns = altered(nest)
    depth, fields = 0, columns
    while "ContentSequence" in fields:
        depth, fields = depth + 1, fields["ContentSequence"].fields
    assert depth == 15
    assert {"TagName": "ContentSequence", "TagReference": "Tag_0040A730"} in row["DroppedTags"]


def test_merge_adds_columns_and_refuses_other_types() -> None:
    columns = {"A": Column("STRING"), "R": Column("RECORD", fields={"B": Column("STRING")})}
    more = {"C": Column("DATE"), "R": Column("RECORD", fields={"D": Column("DATE")})}
    assert not covers(columns, more)
    merge(columns, more)
    assert covers(columns, more)
    assert [*columns["R"].fields] == ["B", "D"]
    with pytest.raises(ValueError, match="column A is NULLABLE STRING, not REPEATED STRING"):
        merge(columns, {"A": Column("STRING", "REPEATED")})
    assert not covers(columns, {"A": Column("DATE")})
