"""What the privacy policy says of the database, column by column, and when it last changed.

A test compares this with the schema, so that nothing is ever kept that the policy does not name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: The day on which the policy's text last changed.
CHANGED = "2026-11-25"

_SUMS = MappingProxyType(
    {
        "requests": "how many requests were sent on",
        "refusals": "how many were refused",
        "input_tokens": "sum of the input tokens",
        "output_tokens": "sum of the output tokens",
        "cache_read_tokens": "sum of the tokens from the cache",
        "cache_write_5m_tokens": "sum of those cached for 5 minutes",
        "cache_write_1h_tokens": "sum of those cached for 1 hour",
    }
)

#: Of each table what it is, and what each of its columns holds.
KEPT: Mapping[str, tuple[str, Mapping[str, str]]] = MappingProxyType(
    {
        "keys": (
            "One row for each key.",
            MappingProxyType(
                {
                    "key": "a number by which the other tables refer to the key",
                    "id": "the key's id, a random text that is also part of the key",
                    "name": "the name that the administrator gave the key",
                    "prefix": "the beginning of the key, up to its secret",
                    "created_at": "when the key was made",
                    "secret_hash": "a bcrypt hash of the key, from which it can't be worked out",
                    "enabled": "whether the administrator lets it be used",
                    "expires_at": "when it expires, if it does",
                    "models": "which models it may use",
                    "limits": "its limits",
                    "group_name": "the name of the group that shares limits, if there is one",
                    "previous_hash": "after a rotation, the hash of the old secret",
                    "previous_expires_at": "until when that old secret still works",
                    "erasing": "that the key is being erased",
                }
            ),
        ),
        "usage": (
            "One row for each request to a model.",
            MappingProxyType(
                {
                    "key": "the number of the key",
                    "time": "when the request was let in or refused, to the millisecond",
                    "seq": "a counter that tells apart requests of the same millisecond",
                    "model": "the model's name, if it is one that this gateway knows",
                    "status": "the HTTP status of the answer; empty while the request runs",
                    "latency_ms": "how long the answer took, so far; empty if nothing was sent on",
                    "input_tokens": "how many tokens the input had",
                    "output_tokens": "how many tokens the answer had",
                    "cache_read_tokens": "input tokens that came from the provider's cache",
                    "cache_write_5m_tokens": "input tokens cached there for 5 minutes",
                    "cache_write_1h_tokens": "input tokens cached there for 1 hour",
                }
            ),
        ),
        **{
            table: (
                f"The same, added up for each key, {bucket} and model.",
                MappingProxyType(
                    {
                        "key": "the number of the key",
                        bucket: f"which {bucket}",
                        "model": "the model's name, as above",
                        "tier": "which step of the model's price applied",
                        **_SUMS,
                    }
                ),
            )
            for table, bucket in (("hourly", "hour"), ("daily", "day"))
        },
        "totals": (
            "The same, added up for each key.",
            MappingProxyType(
                {
                    "key": "the number of the key",
                    "last_used_at": "when the latest of them was let in or refused",
                    **_SUMS,
                }
            ),
        ),
    }
)
