"""Google's token endpoint and IAM Credentials API on loopback."""

from __future__ import annotations

import base64
import functools
import json
import threading
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.loopback_server import JsonHandler, LoopbackServer

Json = dict[str, Any]
#: The longest time for which ``gate`` holds a response back, in seconds.
GATE_TIMEOUT = 60.0


@functools.cache
def private_key() -> str:
    """Return an RSA key as PEM; generated once, because that takes long."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


class TokenServer(LoopbackServer):
    """
    Issues access tokens to a service account, and impersonates other ones.

    Tokens are ``token-1``, ``token-2``, ... A test reads ``requests`` and ``tokens``, changes ``expires_in``,
    fills ``faults`` with responses (status, body) of which each is used once, and holds responses back by
    clearing ``gate``: ``received`` is set as soon as a request has arrived.

    :param prefix: the beginning of all tokens.
    """

    def __init__(self, prefix: str = "token") -> None:
        self._prefix = prefix
        self.received = threading.Event()
        self.gate = threading.Event()
        self.reset()
        super().__init__(_TokenHandler)

    def reset(self) -> None:
        """Forget all requests and tokens, and respond without faults from now on."""
        self.requests: list[Json] = []
        self.tokens: list[str] = []
        self.faults: list[tuple[int, Json]] = []
        self.expires_in = 3600
        self.received.clear()
        self.gate.set()

    def keyfile(self, **changes: Any) -> Json:
        """
        Return the key of a service account that gets its tokens here.

        :param changes: other values of the key's fields.
        """
        return {
            "type": "service_account",
            "project_id": "keyfile-project",
            "private_key_id": "key-1",
            "private_key": private_key(),
            "client_email": "airflow@keyfile-project.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
            **changes,
        }

    def respond(self, path: str, authorization: str | None, body: bytes) -> tuple[int, Json]:
        """
        Record a request, and return the status and the body of the response.

        :param path: the request's path.
        :param authorization: the request's ``Authorization`` header.
        :param body: the request's body.
        """
        request: Json = {"path": path, "authorization": authorization}
        if path == "/token":
            (assertion,) = parse_qs(body.decode())["assertion"]
            payload = assertion.split(".")[1]
            request["claims"] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        else:
            request["body"] = json.loads(body)
        self.requests.append(request)
        if self.faults:
            return self.faults.pop(0)
        token = f"{self._prefix}-{len(self.tokens) + 1}"
        self.tokens.append(token)
        if path == "/token":
            return 200, {"access_token": token, "expires_in": self.expires_in, "token_type": "Bearer"}
        return 200, {"accessToken": token, "expireTime": "2099-01-01T00:00:00Z"}

    def __exit__(self, *exception: object) -> None:
        self.gate.set()
        super().__exit__(*exception)


class _TokenHandler(JsonHandler):
    owner: TokenServer

    def do_POST(self) -> None:  # noqa: N802 - the name of the base class
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.owner.received.set()
        self.owner.gate.wait(GATE_TIMEOUT)
        status, response = self.owner.respond(self.path, self.headers.get("Authorization"), body)
        self.respond(status, json.dumps(response).encode())
