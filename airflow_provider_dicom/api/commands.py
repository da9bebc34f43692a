"""Commands that messages advise: all are built here, and quoted, because their values come from others."""

from __future__ import annotations

import shlex


class ShellText(str):
    """Text that is quoted for a shell already."""

    __slots__ = ()


def gcloud(*words: str, **options: str) -> str:
    """
    Build a ``gcloud`` command for a POSIX shell, in which every value is a part of one argument, as it is.

    :param words: the command's groups, its name, and its positional arguments.
    :param options: the values of its options, by their names with ``_`` for ``-``.
    """
    flags = (f"--{name.replace('_', '-')}={_quoted(value)}" for name, value in options.items())
    return " ".join(("gcloud", *map(_quoted, words), *flags))


def service_agent(project_id: str) -> ShellText:
    """
    Build the member that is a project's Healthcare Service Agent; the shell looks its number up.

    :param project_id: the project's id.
    """
    look_up = gcloud("projects", "describe", project_id, format="value(projectNumber)")
    return ShellText(f'"serviceAccount:service-$({look_up})@gcp-sa-healthcare.iam.gserviceaccount.com"')


def _quoted(value: str) -> str:
    return value if isinstance(value, ShellText) else shlex.quote(value)
