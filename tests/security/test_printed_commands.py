"""Printed commands run nothing but themselves, with every value as it is: shown by a real shell."""

from __future__ import annotations

import ast
import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_dicom.api import permissions
from airflow_provider_dicom.api.commands import gcloud, service_agent
from airflow_provider_dicom.api.permissions import explain_caller, explain_policy, explain_service_agent
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName
from rig.servers import ROOT
from tests.support.resource_ids import LOCATIONS, PROJECTS, RESOURCE_IDS

if TYPE_CHECKING:
    from pathlib import Path

#: Arguments of a process hold no NUL, and must be text in the file system's encoding.
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
HOSTILE = st.sampled_from(
    [
        "us;touch${IFS}X;",
        "$(touch X)",
        "`touch X`",
        "a'b",
        'a"b',
        "a\nb",
        "--quiet",
        "",
        " ",
        "\\",
        "!!",
        "*",
        "~",
        "#",
    ]
)
#: Programs that print their arguments, each followed by a NUL; gcloud's inner call prints a number.
PROGRAMS = """
gcloud() {
    case "$1 $2" in
        "projects describe") printf 123 ;;
        *) printf '%s\\0' "$@" ;;
    esac
}
"""


def run(command: str, folder: Path) -> list[str]:
    """Run a command in a real shell, in an empty folder, and return gcloud's arguments."""
    result = subprocess.run(
        ["/bin/sh", "-c", f"{PROGRAMS}\n{command}"],
        cwd=folder,
        capture_output=True,
        check=True,
        timeout=60,
        env={"PATH": "/nowhere"},
    )
    assert result.stderr == b""
    assert list(folder.iterdir()) == [], "the command created a file"
    return result.stdout.decode().split("\0")[:-1]


def printed_commands(text: str) -> list[str]:
    """Return the commands in a message; each one ends its sentence, or its part of an enumeration."""
    starts = [match.start() for match in re.finditer(r"(?<=: )gcloud ", text)]
    ends = [*(text.rindex("; ", 0, start) if "; " in text[:start] else start for start in starts[1:]), None]
    return [text[start:end].partition(". See https")[0] for start, end in zip(starts, ends, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder."""
    return tmp_path_factory.mktemp("empty")


@settings(max_examples=60)
@given(
    st.lists(VALUES | HOSTILE, max_size=3), st.dictionaries(st.sampled_from(["a", "b_c"]), VALUES | HOSTILE)
)
def test_every_value_of_a_command_arrives_as_it_is(
    folder: Path, words: list[str], options: dict[str, str]
) -> None:
    expected = [*words, *(f"--{name.replace('_', '-')}={value}" for name, value in options.items())]
    assert run(gcloud("x", *words, **options), folder) == ["x", *expected]


@settings(max_examples=30)
@given(VALUES | HOSTILE)
def test_service_agent_runs_its_look_up_and_nothing_else(folder: Path, project: str) -> None:
    command = gcloud("x", member=service_agent(project))
    agent = "service-123@gcp-sa-healthcare.iam.gserviceaccount.com"
    assert run(command, folder) == ["x", f"--member=serviceAccount:{agent}"]


@settings(max_examples=30)
@given(PROJECTS, LOCATIONS, RESOURCE_IDS, RESOURCE_IDS, VALUES | HOSTILE)
def test_commands_about_the_healthcare_api_run_in_a_real_shell(
    folder: Path, project: str, location: str, dataset_id: str, store_id: str, caller: str
) -> None:
    dataset = DatasetName(project, location, dataset_id)
    listed = run(dataset.list_operations_command, folder)
    place = [f"--location={location}", f"--project={project}"]
    assert listed == ["healthcare", "operations", "list", f"--dataset={dataset_id}", *place]
    text = explain_caller(permissions.EXPORT, dataset, DicomStoreName(dataset, store_id), caller)
    grant = run(text.partition("Grant it with: ")[2], folder)
    assert grant[:4] == ["healthcare", "dicom-stores", "add-iam-policy-binding", store_id]
    assert [word for word in grant if word.startswith("--member=")] == [f"--member=user:{caller}"]
    policy = explain_policy("SERVICE_DISABLED", "", project)
    assert policy is not None
    assert run(policy.partition("enable it: ")[2], folder)[-1] == f"--project={project}"


@settings(max_examples=30)
@given(PROJECTS, st.sampled_from(["gs://bucket/a b;touch X", "gs://b/$(touch X)", "bq://p.d.t"]))
def test_commands_about_the_service_agent_run_in_a_real_shell(
    folder: Path, project: str, destination: str
) -> None:
    text = explain_service_agent(
        "Permission denied on Cloud Storage or BigQuery",
        f"projects/{project}/locations/l/datasets/d",
        destination=destination,
        source="gs://filters/f;touch X",
    )
    assert text is not None
    commands = printed_commands(text)
    assert len(commands) == 2
    for command in commands:
        assert "add-iam-policy-binding" in run(command, folder)


def test_every_command_is_built_by_one_function() -> None:
    """A text that begins like a command stands only where commands are built."""
    found = []
    for module in (ROOT / "airflow_provider_dicom").rglob("*.py"):
        if "emulator" in module.parts or module.name == "commands.py":
            continue
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found += re.findall(r"(?:gcloud|gsutil|bq|airflow) [a-z-]+ .*", node.value)
    assert found == []
