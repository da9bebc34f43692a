"""The addresses of the emulators that exports write to."""

from __future__ import annotations

from airflow_provider_dicom.emulator.exports.emulators import environment_mistakes


def test_address_without_a_scheme_is_a_mistake() -> None:
    assert not environment_mistakes({})
    assert not environment_mistakes(
        {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9023", "BIGQUERY_EMULATOR_HOST": ""}
    )
    sentences = environment_mistakes(
        {"STORAGE_EMULATOR_HOST": "127.0.0.1:9023", "BIGQUERY_EMULATOR_HOST": "x"}
    )
    assert [sentence.partition(", here and")[0] for sentence in sentences] == [
        "STORAGE_EMULATOR_HOST=127.0.0.1:9023 has no scheme; set STORAGE_EMULATOR_HOST=http://127.0.0.1:9023",
        "BIGQUERY_EMULATOR_HOST=x has no scheme; set BIGQUERY_EMULATOR_HOST=http://x",
    ]
