"""What the administration API takes and answers, as JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from opuslive.administration.choosing import MAX_CHOSEN
from opuslive.administration.keys import MAX_ENTRIES, MAX_NAME
from opuslive.administration.records import RECORD_COLUMNS
from opuslive.administration.report_kinds import REPORTS
from opuslive.administration.states import StateName
from opuslive.diagnostics.findings import Level
from opuslive.gateway.alerts.channels import NAMES
from opuslive.gateway.upstreams.health import UpstreamState
from opuslive.keys import ID_LENGTH
from opuslive.latencies import Latencies
from opuslive.limits.accounts import AccountKind
from opuslive.storage import SumsBy
from opuslive.usage import Outcome, UsageSum

Schema = Mapping[str, Any]

#: Keys on a page of a list.
MAX_PAGE = 1000
DEFAULT_PAGE = 100
#: The cursor of a list of keys: when the last key shown was made (ms since the epoch), and its id.
#: Lists are in that order, so that the cursor is of use when that key is deleted.
CURSOR = rf"([0-9]{{1,15}})-([0-9A-Za-z]{{{ID_LENGTH}}})"


def ref(schema: str) -> Schema:
    """A schema by its name in ``SCHEMAS``."""
    return {"$ref": f"#/components/schemas/{schema}"}


def _object(members: Mapping[str, Schema], *, optional: Sequence[str] = ()) -> Schema:
    """An object with these members and no others."""
    return {
        "type": "object",
        "properties": dict(members),
        "required": [name for name in members if name not in optional],
        "additionalProperties": False,
    }


def _text(description: str, **more: object) -> Schema:
    return {"type": "string", "description": description, **more}


def _flag(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _list(items: Schema, description: str, **more: object) -> Schema:
    return {"type": "array", "items": items, "description": description, **more}


_COUNT: Schema = {"type": "integer", "minimum": 0}
_FLAG: Schema = {"type": "boolean"}
_TIME = _text("A time, UTC.", format="date-time")
_SUMS: Mapping[str, Schema] = dict.fromkeys(UsageSum().as_dict(), _COUNT)
_FIGURES: Mapping[str, Schema] = {
    **_SUMS,
    "usd": {
        "type": ["number", "null"],
        "minimum": 0,
        "description": "The cost at list prices. Tokens of models that have no price are left out, "
        "so all tokens together may have cost more. Null if no model has a price.",
    },
}
_MS: Schema = {
    "type": ["integer", "null"],
    "minimum": 0,
    "description": "How long the requests took that were served, in ms; null without any. It is "
    "told from counts by bounds (250 ms, 500 ms, 1 s … 10 min), not to the ms.",
}
_LATENCY: Mapping[str, Schema] = dict.fromkeys(Latencies().as_dict(), _MS)
_OUTCOME: Schema = {
    "enum": list(get_args(Outcome)),
    "description": "How requests ended: refused if nothing was sent upstream; served if the answer "
    "was 2xx; cut if the client left (499); client_error for other 4xx but 429; upstream_error for "
    "429 and all else.",
}
_LIMIT = _text(
    "AMOUNT METRIC/WINDOW or N concurrent.",
    examples=["60 requests/1m", "2M tokens/5h", "20 usd/month", "8 concurrent"],
)
_AMOUNT: Schema = {
    "type": "number",
    "minimum": 0,
    "description": "Requests, tokens or dollars.",
}
_WHOSE: Mapping[str, Schema] = {
    "scope": {"enum": [kind.value for kind in AccountKind]},
    "group": _or_null(_text("The name of the group whose limit it is.")),
}
_GLOB = _text("A model's name; * stands for any characters.", examples=["claude-opus-*"])

_KEY: Mapping[str, Schema] = {
    "id": _text("Eight letters and digits that never change."),
    "name": _text("What the administrator calls it."),
    "prefix": _text("The part of the key that is no secret."),
    "group": _or_null(_text("The group whose limits it shares.")),
    "enabled": _FLAG,
    "created_at": _TIME,
    "expires_at": _or_null(_TIME),
    "previous_secret_expires_at": _or_null(_TIME),
    "invitation_expires_at": _or_null(_TIME),
    "models": _list(_GLOB, "The models that it may use; none means all."),
    "limits": _list(_LIMIT, "Its limits; all of them hold."),
    "raises": _list(
        _object({"limit": _LIMIT, "from": _LIMIT, "until": _TIME}),
        "Those of its limits that are higher for a while: what holds instead, and until when.",
    ),
}
_WARNINGS = _list(_text("A sentence."), "What is worth a look, such as a group without limits.")
_NEW_KEY: Mapping[str, Schema] = {
    "name": _text(
        "Printable characters, with no space at the ends; kept until the key is deleted.",
        minLength=1,
        maxLength=MAX_NAME,
    ),
    "models": _or_null(
        _list(
            {**_GLOB, "minLength": 1, "maxLength": MAX_NAME},
            "The models that it may use; none means all.",
            maxItems=MAX_ENTRIES,
        )
    ),
    "limits": _or_null(_list(_LIMIT, "In place of [keys] default_limits.", maxItems=MAX_ENTRIES)),
    "expires": _or_null(
        _text(
            "A span from now, a day (its end, UTC) or a time; null for never.",
            examples=["30d", "2099-12-31", "2099-12-31T12:00:00Z"],
        )
    ),
    "group": _or_null(
        _text("A group of [limits.groups]; null for none.", minLength=1, maxLength=MAX_NAME)
    ),
    "enabled": _or_null(_FLAG),
}
_CHANGES: Mapping[str, Schema] = {
    **_NEW_KEY,
    "name": _or_null(_NEW_KEY["name"]),
    "limits": _or_null(_list(_LIMIT, "In place of its limits so far.", maxItems=MAX_ENTRIES)),
    "add_limits": _or_null(_list(_LIMIT, "Added, or in place of those of the same kind.")),
    "remove_limits": _or_null(_list(_LIMIT, "Removed.")),
    "raise": _or_null(
        {
            **_object(
                {
                    "limit": _text(
                        "One of its limits, with a larger amount.", examples=["4M tokens/5h"]
                    ),
                    "until": _or_null(
                        _text("A span from now, a day (its end, UTC) or a time.", examples=["1d"])
                    ),
                    "for": _or_null(_text("A span, in place of 'until'.", examples=["1d"])),
                },
                optional=["until", "for"],
            ),
            "description": "Raise a limit for a while; that ends by itself. Null takes all raises "
            "back.",
        }
    ),
}
#: Which keys a change of several is about.
_CHOSEN: Mapping[str, Schema] = {
    "keys": _or_null(
        _list(
            _text("The id, the name or the display prefix of a key."),
            "The keys, unless 'group' says which.",
            minItems=1,
            maxItems=MAX_CHOSEN,
        )
    ),
    "group": _or_null(_text("A group all of whose keys are meant.")),
}

_GRACE = _or_null(
    _text(
        "How long the old secret goes on working; any before it stops at once.",
        examples=["0s", "24h"],
    )
)

_SECRET = _text("The key itself, shown this once.")
_LINK = _text("The link to hand to the holder, shown this once.")

_UPSTREAMS = _list(
    _object(
        {
            "name": _text("Its name."),
            "dialect": _text("What it speaks."),
            "priority": {"type": "integer"},
            "weight": {"type": "integer"},
            "state": {"enum": [state.value for state in UpstreamState]},
            "since": _or_null(_TIME),
            "out_until": _or_null(_TIME),
            "failures_in_a_row": _COUNT,
            "last_failure": _or_null(_text("How it failed last.")),
            "last_failure_at": _or_null(_TIME),
            "last_success_at": _or_null(_TIME),
        }
    ),
    "The model providers, those of lower priority first.",
)
_CONFIGURATION: Mapping[str, Schema] = {
    "file": _or_null(_text("Where the configuration stands; null where there is no file.")),
    "since": _text("Since when it is in force, UTC.", format="date-time"),
}
_NEEDS_RESTART = _list(
    _text("The name of a key.", examples=["server.port"]),
    "Keys that the file has with other values, which a restart puts into force.",
)

#: Name, as routes use it → schema.
SCHEMAS: Mapping[str, Schema] = {
    "UsageSum": _object(_SUMS),
    "UsageTotals": _object(_FIGURES),
    "WholeTotals": _object({**_FIGURES, **_LATENCY}),
    "ComparedSpan": _object({"since": _TIME, "until": _TIME, "totals": ref("UsageTotals")}),
    "KeyWithUsage": _object(
        {
            **_KEY,
            "state": {
                "enum": list(get_args(StateName)),
                "description": "Why requests of the key are refused now, or enabled if they are "
                "not. If there are several reasons, the one that is checked first. A key is "
                "exhausted while a limit is used up: one of its own, or one that it shares. It is "
                "invited while it has no secret and its invitation is good, lapsed when it is not.",
            },
            "last_used_at": _or_null(_TIME),
            "counts_since": _text("When the sums in 'usage' began, UTC.", format="date-time"),
            "usage": ref("UsageSum"),
            "standing": _list(
                ref("LimitStanding"),
                "Every limit that holds for it: its own, its group's and the gateway's.",
            ),
            "exhausted_by": _list(
                _object({**_WHOSE, "limit": _LIMIT}),
                "The limits that are used up, if it is exhausted.",
            ),
            "expires_soon": _flag("Whether it expires within 7 days."),
            "warnings": _WARNINGS,
        }
    ),
    "ManyChanges": _object({**_CHOSEN, "changes": ref("KeyChanges")}, optional=list(_CHOSEN)),
    "ManyRotation": _object({**_CHOSEN, "grace": _GRACE}, optional=[*_CHOSEN, "grace"]),
    "ChangedKeys": _object({"items": _list(ref("KeyWithUsage"), "The keys, as they are now.")}),
    "RotatedKeys": _object({"items": _list(ref("KeyWithSecret"), "The keys, each once.")}),
    "Group": _object(
        {
            "name": _text("Its name."),
            "known": _flag("Whether the configuration has it in [limits.groups]."),
            "keys": _COUNT,
            "expiring_soon": {
                **_COUNT,
                "description": "How many of its keys expire within 7 days.",
            },
            "limits": _list(ref("LimitStanding"), "How each of its limits stands."),
            "warnings": _WARNINGS,
        }
    ),
    "GroupPage": _object(
        {
            "items": _list(ref("Group"), "All of them."),
            "next": {"type": "null", "description": "There is no further page."},
        }
    ),
    "LimitStanding": _object(
        {
            **_WHOSE,
            "limit": _LIMIT,
            "metric": _text("What it counts.", examples=["tokens"]),
            "window": _or_null(_text("Within what time; null if at once.", examples=["5h"])),
            "window_seconds": {"type": ["integer", "null"], "minimum": 1},
            "max": _AMOUNT,
            "raised_from": _or_null(_LIMIT),
            "raised_until": _or_null(_TIME),
            "used": _AMOUNT,
            "reserved": {**_AMOUNT, "description": "What requests that run now may still use."},
            "remaining": _AMOUNT,
            "frees_at": _or_null(
                _text(
                    "When more of it frees; null if nothing is used, or never.", format="date-time"
                )
            ),
        }
    ),
    "KeyWithSecret": _object({**_KEY, "key": _SECRET, "warnings": _WARNINGS}),
    "KeyWithLink": _object({**_KEY, "link": _LINK, "warnings": _WARNINGS}),
    "MadeKey": {
        "oneOf": [ref("KeyWithSecret"), ref("KeyWithLink")],
        "description": "With 'invite' there is a link, else the key.",
    },
    "ModelNames": {
        "type": "object",
        "additionalProperties": _list(
            _text("A model's full name."), "The first suits most purposes."
        ),
        "description": "Each dialect of an upstream, with the models that are asked for in it.",
    },
    "ErasedKey": _object(
        {
            **_KEY,
            "erased_records": _COUNT,
            "no_longer_counts": _list(
                _object(
                    {
                        "scope": {"enum": ["group", "gateway"]},
                        "group": _or_null(_text("The name of the group.")),
                        "limit": _LIMIT,
                        "amount": _AMOUNT,
                    }
                ),
                "What the key had used of limits that it shared.",
            ),
        }
    ),
    "Key": _object(_KEY),
    "KeyPage": _object(
        {
            "items": _list(ref("KeyWithUsage"), "A page of the list."),
            "next": _or_null(_text("What to pass as 'after' for the next page; null on the last.")),
        }
    ),
    "NewKey": _object(
        {
            **_NEW_KEY,
            "invite": _or_null(
                _flag(
                    "Make no secret but the link of an invitation, by which the holder makes it. "
                    "It needs [server] public_url."
                )
            ),
        },
        optional=[*(name for name in _NEW_KEY if name != "name"), "invite"],
    ),
    "KeyChanges": _object(_CHANGES, optional=list(_CHANGES)),
    "Rotation": _object({"grace": _GRACE}, optional=["grace"]),
    "UsageReport": _object(
        {
            "key": {"oneOf": [ref("Key"), {"type": "null"}], "description": "The key asked for."},
            "limits": _list(
                ref("LimitStanding"),
                "How the limits of the gateway and of groups stand; of one key, all that hold for "
                "it.",
            ),
            "warnings": _WARNINGS,
            "since": _TIME,
            "until": _TIME,
            "by": {"enum": list(REPORTS)},
            "totals": ref("WholeTotals"),
            "series": _list(
                {
                    "anyOf": [
                        _object(
                            {
                                "day": _text("A day, UTC.", format="date"),
                                "hour": _TIME,
                                "model": _or_null(
                                    _text("A model; null where its name is not kept.")
                                ),
                                "key": _text("The id of a key."),
                                "name": _text("The key's name."),
                                "group": _or_null(
                                    _text(
                                        "The group that keys were in at that time; null for none."
                                    )
                                ),
                                **_FIGURES,
                                **_LATENCY,
                            },
                            optional=[*get_args(SumsBy), "name", *_LATENCY],
                        ),
                        _object(
                            {
                                "status": _OUTCOME,
                                "requests": _COUNT,
                                "share": {"type": "number", "minimum": 0, "maximum": 1},
                            }
                        ),
                    ]
                },
                "A point a day, hour, model, key, group or status, under the member that 'by' "
                "names; days and hours ascend, models, keys and groups begin with who used most "
                "tokens. What was not used is left out. Tokens are not summed by status: such a "
                "point has the requests, refused ones too, and their share of all.",
            ),
            "comparison": {
                "oneOf": [
                    _object({"this": ref("ComparedSpan"), "before": ref("ComparedSpan")}),
                    {"type": "null"},
                ],
                "description": "The whole hours of the span, and the span before: the present day, "
                "week and month beside the last one up to the same time, others beside the span of "
                "the same length that ends where they begin. Null unless 'compare' is true, or "
                "while there is no whole hour.",
            },
        }
    ),
    "Records": _text(
        f"Lines with the columns or members {', '.join(RECORD_COLUMNS)}; those of a key are in the "
        "order of time. A request that several models answered has a line for each, of which the "
        "first alone has a latency. The header x-expected-records has about how many there are."
    ),
    "TroublePage": _object(
        {
            "items": _list(
                _object(
                    {
                        "time": _TIME,
                        "key": _text("The id of the key."),
                        "name": _text("The key's name."),
                        "outcome": _OUTCOME,
                        "model": _or_null(_text("A model; null where its name is not kept.")),
                        "status": _COUNT,
                        "latency_ms": {"type": ["integer", "null"], "minimum": 0},
                    }
                ),
                "Requests that were not served, newest first. Of refusals one a second and key is "
                "recorded.",
            )
        }
    ),
    "Checkup": _object(
        {
            "ok": _flag("Whether none of the checks is an error."),
            "checks": _list(
                _object(
                    {
                        "name": _text("What was looked at."),
                        "level": {"enum": [level.value for level in Level]},
                        "text": _text("What was found."),
                        "remedy": _or_null(_text("What to do about it.")),
                    }
                ),
                "One for each thing that was looked at.",
            ),
        }
    ),
    "TestedChannels": _object(
        {
            "channels": _list(
                _object(
                    {
                        "channel": {"enum": list(NAMES)},
                        "ok": _flag("Whether it took the message."),
                        "problem": _or_null(_text("What went wrong.")),
                        "answer": _or_null(_text("What the other side said.")),
                    }
                ),
                "One for each that is configured.",
            )
        }
    ),
    "Reloaded": _object(
        {
            **_CONFIGURATION,
            "changed": _list(
                _text("The name of a key.", examples=["limits.gateway", "upstreams.anthropic"]),
                "Keys whose values changed, or the files they name.",
            ),
            "needs_restart": _NEEDS_RESTART,
        }
    ),
    "Status": _object(
        {
            "version": _text("The version of OpusLive."),
            "base_url": _or_null(_text("Where clients reach it; null if nobody configured that.")),
            "started_at": _TIME,
            "configuration": _object({**_CONFIGURATION, "needs_restart": _NEEDS_RESTART}),
            "requests_in_flight": _COUNT,
            "unrecorded_refusals": _COUNT,
            "ready": _flag(
                "Whether load balancers should send requests here, as /readyz says: it is not "
                "told to end, the database takes writes, and an upstream is up."
            ),
            "stopping": _flag(
                "Whether it was told to end. For [server] drain_notice it still serves."
            ),
            "draining": _flag(
                "Whether it ends: it listens no longer, running requests finish, new ones are "
                "refused, unless they come on a connection that a successor can't serve."
            ),
            "storage_healthy": _flag("Whether the database takes writes."),
            "keys": _COUNT,
            "upstreams": _UPSTREAMS,
            "certificate": _or_null(
                _object(
                    {
                        "name": _text("The host that it is got for, or its file."),
                        "not_before": _or_null(_TIME),
                        "not_after": _or_null(_TIME),
                        "next_attempt": _or_null(_TIME),
                        "failures_in_a_row": _COUNT,
                        "last_failure": _or_null(_text("Why there is no new one.")),
                        "last_failure_at": _or_null(_TIME),
                    }
                )
            ),
        }
    ),
    "Activity": _object(
        {
            "in_flight": _COUNT,
            "waiting": _COUNT,
            "requests_per_minute": _COUNT,
            "tokens_per_minute": _COUNT,
            "upstreams": _UPSTREAMS,
            "keys": _list(
                _object(
                    {
                        "id": _text("The id of a key."),
                        "name": _text("The key's name."),
                        "requests_per_minute": _COUNT,
                        "tokens_per_minute": _COUNT,
                        "tightest": _or_null(
                            _object(
                                {
                                    "limit": _LIMIT,
                                    "used": {"type": "number", "minimum": 0},
                                    "remaining": {"type": "number", "minimum": 0},
                                    "percent": _COUNT,
                                    "frees_at": _or_null(_TIME),
                                }
                            )
                        ),
                    }
                ),
                "The keys that were used within the last minute, the busiest first.",
            ),
        }
    ),
    "Document": {"type": "object", "required": ["openapi", "info", "paths"]},
    "Problem": _object(
        {
            "type": _text("Always about:blank."),
            "title": _text("The status in words."),
            "status": {"type": "integer"},
            "detail": _text("One sentence with the remedy."),
            "request_id": _text("The id under which this request is known."),
        }
    ),
}

#: Name → parameter: of a path under its own name, of a query under that with ``-query`` behind.
PARAMETERS: Mapping[str, Schema] = {
    "id": {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "The id, the name or the display prefix of a key.",
        "schema": {"type": "string", "minLength": 1},
    },
    "name": {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "The name of a group, percent-encoded. ('.' and '..' can't stand in a path: "
        "GET /groups?name=.. has them.)",
        "schema": {"type": "string", "minLength": 1},
    },
    **{
        f"{name}-query": {"name": name, "in": "query", "description": description, "schema": schema}
        for name, description, schema in (
            (
                "limit",
                "Items in the answer.",
                {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
            ),
            (
                "after",
                "The 'next' of the page before.",
                {"type": "string", "pattern": f"^{CURSOR}$"},
            ),
            (
                "since",
                "today, week or month (UTC, as far as they have passed), a span back from now, a "
                "day (its start, UTC) or a time.",
                {"type": "string", "default": "7d", "examples": ["7d", "month", "2026-01-31"]},
            ),
            (
                "until",
                "The same, but of a day its end; now unless given.",
                {"type": "string", "examples": ["1d", "2026-01-31"]},
            ),
            (
                "keys",
                "The id, the name or the display prefix of a key; once for each key. All keys "
                "unless given.",
                {"type": "array", "items": {"type": "string"}},
            ),
            ("group", "The group whose present members are meant.", {"type": "string"}),
            ("format", "What the file is.", {"enum": ["csv", "jsonl"], "default": "csv"}),
            (
                "compare",
                "Whether the span before is wanted, too.",
                {"enum": ["true", "false"], "default": "false"},
            ),
            ("by", "What the series is of.", {"enum": list(REPORTS), "default": "day"}),
            (
                "key",
                "The id, the name or the display prefix of the one key to report on.",
                {"type": "string"},
            ),
            ("group", "The name of a group: its keys alone.", {"type": "string"}),
            ("name", "The name of the one group to list.", {"type": "string"}),
        )
    },
}
