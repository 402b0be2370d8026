"""A certificate authority for tests (RFC 8555, RFC 9773): real TLS, and every fault.

It does what an authority does for one name at a time, and checks what a client owes it: nonces,
the key's own account, a proof at http-01, a request for the name. (Signatures are checked by the
other authority that tests run, pebble.) ``will`` queues an answer that a resource gives instead of
its own, once for each. Resources are directory, nonce, account, order (a new one), look (at an
order), authorization, challenge, finalize, chain and advice.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

_PROBLEM = "urn:ietf:params:acme:error:"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a resource answers. ``wait``: not before this is set. ``drip``: a byte of it at a time,
    without an end."""

    status: int = 200
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    wait: threading.Event | None = None
    drip: bool = False


#: In a queue of answers: what the resource answers by itself.
AS_USUAL = Answer(0)


def refusal(
    kind: str, detail: str = "No.", *, status: int = 403, retry_after: str | None = None
) -> Answer:
    headers = {"content-type": "application/problem+json"}
    if retry_after is not None:
        headers["retry-after"] = retry_after
    return Answer(status, {"type": _PROBLEM + kind, "detail": detail}, headers)


class AcmeDirectory:
    """Listens on a free port of 127.0.0.1 until it is closed.

    ``fetch`` gets what a name answers to a token, as http-01 does; ``now`` is when certificates
    begin.
    """

    def __init__(self, fetch: Callable[[str], bytes | None], now: Callable[[], datetime]) -> None:
        self._fetch = fetch
        self.now = now
        self.tls = trustme.CA()
        self.life = timedelta(days=90)
        #: Where the renewal's window stands in a new certificate's life; None for no ARI at all.
        self.window: tuple[timedelta, timedelta] | None = None
        self.advice_retry_after: str | None = None
        #: Of what kind it calls a proof that does not come.
        self.complaint = "connection"
        #: The resources that were asked, in turn.
        self.asked: list[str] = []
        self.replaced: list[str | None] = []
        self.contacts: list[str] = []
        self.issued: list[x509.Certificate] = []
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._root()
        self._instead: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._nonces: set[str] = set()
        self.accounts: dict[str, str] = {}
        self.orders: dict[str, dict[str, Any]] = {}
        self._ids: dict[str, x509.Certificate] = {}
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.issue_cert("127.0.0.1").configure_cert(self._tls)
        self._server = _listener(self, self._tls)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self.base}/directory"

    @property
    def base(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def trusted(self, folder: Path) -> Path:
        """A file with the root of its own TLS."""
        path = folder / "directory-root.pem"
        self.tls.cert_pem.write_to_path(str(path))
        return path

    def root_pem(self) -> str:
        """The root of the certificates that it issues."""
        return self.root.public_bytes(Encoding.PEM).decode()

    def will(self, resource: str, *answers: Answer) -> None:
        """The resource answers with these, one after the other, before it goes on as usual."""
        self._instead[resource].extend(answers)

    def present(self, tls: ssl.SSLContext) -> None:
        """Shake hands with this from now on."""
        self._tls.sni_callback = lambda handshake, name, context: _present(handshake, tls)

    def forget(self, resource: str) -> None:
        """The resource goes on as usual."""
        self._instead[resource].clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        resource, _, name = path.strip("/").partition("/")
        if resource == "order" and name:
            resource = "look"
        self.asked.append(resource)
        if self._instead[resource]:
            instead = self._instead[resource].popleft()
            if instead is not AS_USUAL:
                return instead
        if method == "POST":
            return self._signed(resource, name, body)
        if resource == "directory":
            return Answer(body=self.document())
        if resource == "nonce":
            return Answer()
        if resource == "advice" and self.window is not None and name in self._ids:
            begins = self._ids[name].not_valid_before_utc
            window = [(begins + each).isoformat() for each in self.window]
            said = self.advice_retry_after
            headers = {} if said is None else {"retry-after": said}
            suggested = dict(zip(("start", "end"), window, strict=True))
            return Answer(body={"suggestedWindow": suggested}, headers=headers)
        return refusal("malformed", status=404)

    def nonce(self) -> str:
        nonce = secrets.token_urlsafe(16)
        self._nonces.add(nonce)
        return nonce

    def document(self) -> dict[str, object]:
        names = {"newNonce": "nonce", "newAccount": "account", "newOrder": "order"}
        found: dict[str, object] = {key: f"{self.base}/{name}" for key, name in names.items()}
        if self.window is not None:
            found["renewalInfo"] = f"{self.base}/advice"
        return found

    def _signed(self, resource: str, name: str, body: bytes) -> Answer:
        signed = json.loads(body)
        head = json.loads(_decoded(signed["protected"]))
        if head.get("nonce") not in self._nonces:
            return refusal("badNonce", status=400)
        self._nonces.remove(head["nonce"])
        at = "order" if resource == "look" else resource
        assert head["url"] == f"{self.base}/{at}" + (f"/{name}" if name else "")
        content = json.loads(_decoded(signed["payload"]) or b"{}")
        if resource == "account":
            return self._account(name, head, content)
        if head.get("kid") not in self.accounts.values():
            return refusal("accountDoesNotExist", status=400)
        if resource == "order":
            return self._new_order(content)
        order = self.orders.get(name)
        if order is None:
            return refusal("malformed", status=404)
        answers: dict[str, Callable[[], Answer]] = {
            "look": lambda: Answer(body=self._order(name)),
            "authorization": lambda: Answer(body=self._authorization(name)),
            "challenge": lambda: self._prove(name),
            "finalize": lambda: self._finalize(name, content),
            "chain": lambda: Answer(body=order["chain"]),
        }
        return answers[resource]()

    def _account(self, name: str, head: dict[str, Any], content: dict[str, Any]) -> Answer:
        self.contacts += content.get("contact", [])
        if name:
            return Answer(body={"status": "valid"})
        assert content["termsOfServiceAgreed"]
        known_as = json.dumps(head["jwk"], sort_keys=True)
        status = 200 if known_as in self.accounts else 201
        location = self.accounts.setdefault(known_as, f"{self.base}/account/{secrets.token_hex(4)}")
        return Answer(status, {"status": "valid"}, {"location": location})

    def _new_order(self, content: dict[str, Any]) -> Answer:
        self.replaced.append(content.get("replaces"))
        (identifier,) = content["identifiers"]
        name = secrets.token_hex(4)
        self.orders[name] = {
            "name": identifier["value"],
            "token": secrets.token_urlsafe(16),
            "proven": "pending",
            "status": "pending",
        }
        return Answer(201, self._order(name), {"location": f"{self.base}/order/{name}"})

    def _order(self, name: str) -> dict[str, object]:
        order = self.orders[name]
        found = {
            "status": order["status"],
            "identifiers": [{"type": "dns", "value": order["name"]}],
            "authorizations": [f"{self.base}/authorization/{name}"],
            "finalize": f"{self.base}/finalize/{name}",
        }
        if "chain" in order:
            found["certificate"] = f"{self.base}/chain/{name}"
        return found

    def _authorization(self, name: str) -> dict[str, object]:
        order = self.orders[name]
        challenge = {
            "type": "http-01",
            "url": f"{self.base}/challenge/{name}",
            "status": order["proven"],
            "token": order["token"],
        }
        if order["proven"] == "invalid":
            challenge["error"] = {"type": _PROBLEM + self.complaint, "detail": "Nobody is there."}
        return {
            "status": order["proven"],
            "identifier": {"type": "dns", "value": order["name"]},
            "challenges": [{"type": "dns-01", "url": "x", "token": order["token"]}, challenge],
        }

    def _prove(self, name: str) -> Answer:
        order = self.orders[name]
        found = self._fetch(order["token"])
        proven = found is not None and found.startswith(order["token"].encode() + b".")
        order["proven"] = "valid" if proven else "invalid"
        order["status"] = "ready" if proven else "invalid"
        challenges: Any = self._authorization(name)["challenges"]
        return Answer(
            body=challenges[1], headers={"link": f'<{self.base}/authorization/{name}>;rel="up"'}
        )

    def _finalize(self, name: str, content: dict[str, Any]) -> Answer:
        order = self.orders[name]
        if order["status"] != "ready":
            return refusal("orderNotReady")
        request = x509.load_der_x509_csr(_decoded(content["csr"]))
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [order["name"]]
        leaf = self.issue(order["name"], request.public_key())
        order["chain"] = leaf.public_bytes(Encoding.PEM) + self.root.public_bytes(Encoding.PEM)
        order["status"] = "valid"
        return Answer(body=self._order(name) | {"status": "processing"})

    def issue(self, name: str, key: Any) -> x509.Certificate:
        """A certificate for this name and public key."""
        number = x509.random_serial_number()
        leaf = (
            _builder("a leaf", "the root", self.now(), self.life, key, number)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._root_key.public_key()),
                critical=False,
            )
            .sign(self._root_key, hashes.SHA256())
        )
        self.issued.append(leaf)
        known = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert known.key_identifier is not None
        serial = number.to_bytes(number.bit_length() // 8 + 1, "big")
        self._ids[f"{_encoded(known.key_identifier)}.{_encoded(serial)}"] = leaf
        return leaf

    def _root(self) -> x509.Certificate:
        begins = datetime(2020, 1, 1, tzinfo=UTC)
        key = self._root_key.public_key()
        return (
            _builder("the root", "the root", begins, timedelta(days=36500), key, 1)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .sign(self._root_key, hashes.SHA256())
        )


def _builder(
    subject: str, issuer: str, begins: datetime, life: timedelta, key: Any, number: int
) -> x509.CertificateBuilder:
    subject_name, issuer_name = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        for name in (subject, issuer)
    )
    return x509.CertificateBuilder(issuer_name, subject_name, key, number, begins, begins + life)


def _present(handshake: ssl.SSLSocket | ssl.SSLObject, context: ssl.SSLContext) -> None:
    handshake.context = context


def _listener(directory: AcmeDirectory, tls: ssl.SSLContext) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve()

        def do_HEAD(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def _serve(self) -> None:
            size = int(self.headers.get("content-length", 0))
            answer = directory.answer(self.command, self.path, self.rfile.read(size))
            if answer.wait is not None:
                answer.wait.wait()
            body = (
                answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            )
            self.send_response(answer.status)
            headers = {"content-type": "application/json", "replay-nonce": directory.nonce()}
            for name, value in (headers | answer.headers).items():
                self.send_header(name, value)
            if not answer.drip:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if not answer.drip:
                self.wfile.write(body)
                return
            while True:
                self.wfile.write(b" ")
                self.wfile.flush()
                if dripping.wait(0.01):
                    return

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients leave."""

        def server_close(self) -> None:
            dripping.set()
            super().server_close()

    dripping = threading.Event()
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
