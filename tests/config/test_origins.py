"""Origins of pages: written in several ways, kept as browsers send them."""

from __future__ import annotations

import pytest

from tests.support.toml import parse, refusal


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("https://chat.example.com", None),
        ("HTTPS://Chat.Example.com", "https://chat.example.com"),
        ("https://chat.example.com:443", "https://chat.example.com"),
        ("https://chat.example.com:8443", None),
        ("https://chat.example.com:4430", None),
        ("http://localhost:3000", None),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://127.0.0.1:443", None),
        ("http://[::1]:5173", None),
        ("https://10.0.0.7", None),
        ("chrome-extension://abcdefghijklmnopabcdefghijklmnop", None),
        ("app://obsidian.md", None),
        ("tauri://localhost", None),
    ],
)
def test_an_origin_is_kept_as_browsers_write_it(written: str, kept: str | None) -> None:
    server = parse(f"[server]\ncors_origins = ['{written}']").server
    assert server.cors_origins == (kept or written,)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("*", "name each origin"),
        ("null", "name each origin"),
        ("http://chat.example.com", "write https://"),
        ("http://10.0.0.7:3000", "write https://"),
        ("http://localhost.example.com", "write https://"),
        ("https://chat.example.com/", "with nothing behind them"),
        ("https://chat.example.com/app", "with nothing behind them"),
        ("https://chat.example.com?x", "without '?'"),
        ("https://*.example.com", "must be an address"),
        ("https://", "must be an address"),
        ("https://user@example.com", "without a user name"),
        ("https://a.example, https://b.example", "without spaces"),
        ("https://chat.example.com:0", "must be an address"),
        ("https://chat.example.com:99999", "must be an address"),
        ("chat.example.com", "a scheme"),
        ("localhost:3000", "a scheme"),
        ("file://", "a scheme"),
        ("file://localhost", "a scheme"),
        ("app://obsidian.md/", "with nothing behind them"),
        ("javascript:alert(1)", "a scheme"),
        ("", "one line"),
    ],
)
def test_what_is_no_origin_is_refused_with_the_reason(written: str, why: str) -> None:
    message = refusal(f"[server]\ncors_origins = ['{written}']")
    assert "server.cors_origins: " in message
    assert why in message


def test_no_origin_is_allowed_by_default() -> None:
    assert parse("").server.cors_origins == ()
    assert "must be a list" in refusal("[server]\ncors_origins = 'https://a.example'")
