"""Canaries: texts that stand in for what may not be kept, and are looked for afterwards."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.wire import Wire, message_body, request_bytes

#: Stands in everything that may not be kept; every place has a number of its own behind it.
CANARY = "kanarienvogel"
#: Where the client comes from.
SOURCE = "127.0.0.9"

#: What proxies in front of a gateway tell about a person, in every way in which they write it.
IDENTITY_HEADERS = (
    "X-Forwarded-For",
    "Forwarded",
    "True-Client-IP",
    "X-Client-IP",
    "Fly-Client-IP",
    "CF-IPCountry",
    "Via",
    "Remote-User",
    "Tailscale-User-Login",
    "Tailscale-User-Name",
    "X-Auth-Request-Email",
    "x_auth_request_user",
    "X-Amzn-Oidc-Identity",
    "X-Goog-Authenticated-User-Email",
    "X-A-Proxy-That-Nobody-Knows",
    "Accept-Language",
    "Referer",
    "Cookie",
)
_IDENTITY = "told by a proxy: "


class Flock:
    """Gives out canaries, and finds those that were caught."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}

    def __call__(self, place: str) -> str:
        canary = f"{CANARY}{len(self._places):04d}x"
        self._places[canary] = place
        return canary

    def place(self, canary: str) -> str:
        """Where this one was put."""
        return self._places[canary]

    def identity(self) -> list[tuple[str, str]]:
        """Headers that tell of a person, each with a canary of its own."""
        return [(name, f"a={self(_IDENTITY + name)}") for name in IDENTITY_HEADERS]

    def identities_in(self, content: bytes) -> list[str]:
        """The headers of ``identity`` whose canaries are in there."""
        return [place for place in self.caught(content) if place.startswith(_IDENTITY)]

    def caught(self, content: bytes) -> list[str]:
        """The places whose canaries are in there."""
        lowered = content.lower()
        found = [place for canary, place in self._places.items() if canary.encode() in lowered]
        if not found and CANARY.encode() in lowered:
            return ["a part of one"]
        return found


def malformed(bird: Flock, key: str) -> dict[str, bytes]:
    """Requests that are wrong in every way that a parser may complain about."""
    good = request_bytes("POST", "/v1/messages", key=key, body=message_body())
    chunked = request_bytes(
        "POST", "/v1/messages", key=key, headers=[("transfer-encoding", "chunked")]
    )
    line, rest = good.split(b"\r\n", 1)
    makers: dict[str, Callable[[bytes], bytes]] = {
        "NUL in a header": lambda c: line + b"\r\nx-a: \0" + c + b"\r\n" + rest,
        "a bad chunk": lambda c: chunked + b"5\r\n{\"a\":\r\nZZ" + c + b"\r\n",
        "a body longer than said": lambda c: good + b"POST " + c,
        "garbage": lambda c: b"\x16\x03\x01\xff" + c + b"\r\n\r\n",
        "a word": lambda c: c + b"\r\n\r\n",
        "a method": lambda c: c.upper() + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
        "a version": lambda c: b"GET / HTTP/" + c + b"\r\n\r\n",
        "HTTP/2": lambda c: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + c,
        "absolute form": lambda c: line.replace(b" /", b" http://" + c + b"/") + b"\r\n" + rest,
        "userinfo": lambda c: line.replace(b" /", b" http://u:" + c + b"@h/") + b"\r\n" + rest,
        "a huge header": lambda c: line + b"\r\nx-a: " + c * 5000 + b"\r\n" + rest,
        "a huge line": lambda c: b"GET /" + c * 1000 + b" HTTP/1.1\r\n" + rest,
        "many headers": lambda c: line + b"\r\n" + b"".join(
            b"x-%d: %b\r\n" % (n, c) for n in range(500)
        ) + rest,
        "no colon": lambda c: line + b"\r\n" + c + b"\r\n" + rest,
        "two lengths": lambda c: line + b"\r\ncontent-length: 1\r\nx-a: " + c + b"\r\n" + rest,
        "a length": lambda c: line + b"\r\ncontent-length: " + c + b"\r\n\r\n",
        "a coding": lambda c: line + b"\r\ntransfer-encoding: " + c + b"\r\n" + rest,
        "a folded header": lambda c: line + b"\r\nx-a: b\r\n " + c + b"\r\n" + rest,
        "a percent": lambda c: b"GET /%zz" + c + b" HTTP/1.1\r\n" + rest,
        "an upgrade": lambda c: line + b"\r\nupgrade: " + c + b"\r\nconnection: upgrade\r\n" + rest,
        "an expectation": lambda c: line + b"\r\nexpect: " + c + b"\r\n" + rest,
        "a host": lambda c: line + b"\r\nhost: " + c + b"\r\n" + rest,
        "an underscore": lambda c: line + b"\r\ncontent_length: " + c + b"\r\n" + rest,
        "a bad body": lambda c: request_bytes("POST", "/v1/messages", key=key, body=b'{"a":"' + c),
        "a bad model": lambda c: request_bytes(
            "POST", "/v1/messages", key=key, body=b'{"model":{"a":"' + c + b'"}}'
        ),
        "a bad max_tokens": lambda c: request_bytes(
            "POST", "/v1/messages", key=key, body=message_body(max_tokens=c.decode())
        ),
        "half a body": lambda c: good[:-5] + c[:1],
    }  # fmt: skip
    return {name: make(bird(name).encode()) for name, make in makers.items()}


async def ask(wire: Wire, request: bytes) -> bytes:
    """Send it, close, and return what came back."""
    try:
        await wire.send(request)
        wire.half_close()
        return (await wire.ending())[1]
    except (BrokenPipeError, ConnectionResetError, OSError):
        return b""
    finally:
        wire.close()
