"""IAM policies of datasets and DICOM stores, through Google's own client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from googleapiclient.errors import HttpError

from tests.support.discovery_check import execute

if TYPE_CHECKING:
    from googleapiclient.discovery import Resource

VIEWER = {"role": "roles/healthcare.dicomViewer", "members": ["user:eva@example.com"]}
CONDITION = {"title": "weekdays", "expression": "request.time.getDayOfWeek() < 6"}
CONDITIONAL = {**VIEWER, "condition": CONDITION}


@pytest.fixture(params=["store", "dataset"])
def policies(request: pytest.FixtureRequest, google: Resource, dicom_store: str) -> tuple[Resource, str]:
    """The collection and the name of a resource with a policy."""
    if request.param == "store":
        return google.dicomStores(), dicom_store
    parent, _, number = dicom_store.rpartition("/datasets/")[0], "", dicom_store.rsplit("-", 1)[1]
    execute(google.create(parent=parent, datasetId=f"policies-{number}", body={}))
    return google, f"{parent}/datasets/policies-{number}"


def _set(policies: tuple[Resource, str], **policy: Any) -> dict[str, Any]:
    collection, name = policies
    return execute(collection.setIamPolicy(resource=name, body={"policy": policy}))


def _get(policies: tuple[Resource, str], **options: Any) -> dict[str, Any]:
    collection, name = policies
    return execute(collection.getIamPolicy(resource=name, **options))


def test_policy_is_empty_until_it_is_set(policies: tuple[Resource, str]) -> None:
    before = _get(policies)
    assert before.keys() == {"etag"}
    policy = _set(policies, bindings=[VIEWER], etag=before["etag"])
    assert policy["bindings"] == [VIEWER]
    assert policy["version"] == 1
    assert _get(policies) == policy


def test_policy_that_changed_meanwhile_is_not_overwritten(policies: tuple[Resource, str]) -> None:
    old = _get(policies)["etag"]
    policy = _set(policies, bindings=[VIEWER])
    with pytest.raises(HttpError, match="concurrent policy changes") as refused:
        _set(policies, bindings=[], etag=old)
    assert refused.value.status_code == 409
    assert _get(policies) == policy


def test_conditions_need_version_3(policies: tuple[Resource, str]) -> None:
    with pytest.raises(HttpError, match="must have version 3"):
        _set(policies, bindings=[CONDITIONAL], version=1)
    assert _set(policies, bindings=[CONDITIONAL], version=3)["version"] == 3
    with pytest.raises(HttpError, match="requestedPolicyVersion must be 3"):
        _get(policies)
    policy = _get(policies, options_requestedPolicyVersion=3)
    assert policy["bindings"] == [CONDITIONAL]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"version": 2}, "invalid policy version 2"),
        ({"bindings": [{"members": ["allUsers"]}]}, "Role name must be set"),
        ({"bindings": [{"role": "roles/viewer"}]}, "has no members"),
        ({"bindings": [{"role": "roles/viewer", "members": ["eva"]}]}, "Invalid member 'eva'"),
    ],
)
def test_invalid_policy_is_refused(
    google: Resource, dicom_store: str, policy: dict[str, Any], message: str
) -> None:
    with pytest.raises(HttpError, match=message):
        _set((google.dicomStores(), dicom_store), **policy)


def test_missing_store_has_no_policy_and_a_deleted_one_loses_it(google: Resource, dicom_store: str) -> None:
    stores = google.dicomStores()
    _set((stores, dicom_store), bindings=[VIEWER])
    execute(stores.delete(name=dicom_store))
    with pytest.raises(HttpError, match="does not exist"):
        _get((stores, dicom_store))
    parent, _, store_id = dicom_store.rpartition("/dicomStores/")
    execute(stores.create(parent=parent, dicomStoreId=store_id, body={}))
    assert "bindings" not in _get((stores, dicom_store))
