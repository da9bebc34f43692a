"""
Text that others wrote, made fit for our messages: one printable line of limited length, without secrets.

A message names the setting that is wrong, never its value: a value may be a key, or hold one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.auth.exceptions import GoogleAuthError

#: The longest text of others in a message, in characters.
MAX_LENGTH = 2000

# A password may hold any character, so everything up to the last "@" of a word is taken for userinfo.
_USERINFO = re.compile(r"(?<=://)\S*@")
#: Stands for what is not shown.
_HIDDEN = "..."
_QUOTATION = re.compile(r"""(?<!\w)(["'`\u201c])(.*?)(["'`\u201d])(?!\w)""")
_PERSON_NAME = re.compile(r"[^\s\"'`=:(]*\^\S*")
_HARMLESS = re.compile(
    r"(?:gs://|bq://|projects/|/studies/)\S*"
    r"|(?:application|image|video)/[\w.+-]+(?:; ?transfer-syntax=[\d.*]+)?"
    r"|\d+(?:\.\d+){3,}"
)


def printable(text: str, max_length: int = MAX_LENGTH) -> str:
    """
    Make a text one printable line: no line breaks, no escapes of a terminal, no endless length.

    :param text: the text.
    :param max_length: the length of the result, in characters.
    """
    if text.isprintable() and len(text) <= max_length:
        return text
    beginning = text[: 10 * max_length]
    line = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in " ".join(beginning.split())
    )
    if len(line) <= max_length and len(text) == len(beginning):
        return line
    return f"{line[: max_length - 3]}..."


def without_userinfo(text: str) -> str:
    """
    Remove user names and passwords from the URLs in a text, and make it one printable line.

    :param text: the text, such as an exception's.
    """
    return printable(_USERINFO.sub("...@", text))


def without_values(text: str) -> str:
    """
    Remove from an error text what may be the value of an attribute, and make it one printable line.

    Values stand in quotation marks, or are person names with ``^``; names of resources and formats, and UIDs,
    are kept.

    :param text: the text.
    """

    def shown(match: re.Match[str]) -> str:
        return match[0] if _HARMLESS.fullmatch(match[2]) else f"{match[1]}{_HIDDEN}{match[3]}"

    return _PERSON_NAME.sub(_HIDDEN, _QUOTATION.sub(shown, printable(text)))


def describe_token_error(error: GoogleAuthError) -> str:
    """
    Describe why there is no access token, without quoting an answer that may hold tokens.

    Only the members with which OAuth 2.0 and Google's APIs explain an error are quoted.

    :param error: google-auth's exception.
    """
    explanation = [part for argument in error.args for part in _explanation(argument)]
    words = ": ".join(dict.fromkeys(explanation)) or "the answer is not quoted"
    return f"{type(error).__name__}: {without_userinfo(words)}"


def _explanation(argument: object) -> list[str]:
    """Return the texts in an argument of an exception that explain the error."""
    if isinstance(argument, Exception):  # of the network
        return [str(argument)]
    if isinstance(argument, str):
        answer = _json_object(argument)
        if answer is None:
            # A sentence of google-auth itself; braces and angle brackets are those of an answer.
            return [] if re.search(r"[{<]", argument) else [argument]
        argument = answer
    if not isinstance(argument, dict):
        return []
    error = argument.get("error")
    members = error if isinstance(error, dict) else argument
    texts = [members.get(name) for name in ("error", "error_description", "status", "message")]
    return [text for text in texts if isinstance(text, str)]


def _json_object(text: str) -> dict[str, object] | None:
    import json

    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None
