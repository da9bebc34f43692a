"""Updates with a field mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers.field_mask import MAP, Fields, masked_update

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.messages import JsonObject

FIELDS: Fields = {"labels": MAP, "config": {"pubsubTopic": None, "other": None}, "list": None}
RESOURCE: JsonObject = {
    "labels": {"a": "1", "b_c": "2"},
    "config": {"pubsubTopic": "t", "other": "o"},
    "list": [1],
}


@pytest.mark.parametrize(
    ("mask", "body", "changed"),
    [
        ("labels", {"labels": {"x": "y"}}, {"labels": {"x": "y"}}),
        ("labels", {}, {"labels": None}),
        ("labels.b_c", {"labels": {"b_c": "3"}}, {"labels": {"a": "1", "b_c": "3"}}),
        ("labels.a", {}, {"labels": {"b_c": "2"}}),
        (
            "config.pubsub_topic",
            {"config": {"pubsubTopic": "u"}},
            {"config": {"pubsubTopic": "u", "other": "o"}},
        ),
        ("config.pubsubTopic", {"config": {"other": "p"}}, {"config": {"other": "o"}}),
        ("config, list", {"list": [2]}, {"config": None, "list": [2]}),
        ("list", {"list": [2], "labels": {}}, {"list": [2]}),
    ],
)
def test_only_the_fields_of_the_mask_change(mask: str, body: JsonObject, changed: JsonObject) -> None:
    expected = {name: value for name, value in (RESOURCE | changed).items() if value is not None}
    assert masked_update(RESOURCE, body, {"updateMask": mask}, FIELDS) == expected
    assert RESOURCE["labels"] == {"a": "1", "b_c": "2"}


def test_missing_field_of_a_missing_message_stays_missing() -> None:
    assert masked_update({}, {}, {"updateMask": "config.pubsubTopic,labels.a"}, FIELDS) == {}
    set_anew = masked_update({}, {"labels": {"a": "1"}}, {"updateMask": "labels.a"}, FIELDS)
    assert set_anew == {"labels": {"a": "1"}}


@pytest.mark.parametrize(
    "mask",
    [
        "",
        " , ",
        "name",
        "*",
        "list.x",
        "config.nothing",
        "config.pubsubTopic.x",
        "labels.a.b",
        "labels.",
        ".",
    ],
)
def test_other_masks_are_refused(mask: str) -> None:
    with pytest.raises(ApiError, match="update_mask"):
        masked_update(RESOURCE, {}, {"updateMask": mask}, FIELDS)
