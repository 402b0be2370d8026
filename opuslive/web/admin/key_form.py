"""The form in which an administrator describes a key: its fields, and the errors in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import TypeVar

from markupsafe import Markup

from opuslive.administration.keys import (
    MAX_ENTRIES,
    KeyChanges,
    checked_globs,
    checked_name,
    expiry_at,
)
from opuslive.errors import UsageError
from opuslive.keys import Key
from opuslive.limits.grammar import Limit, parse_limit, parse_limits
from opuslive.quantities import format_when
from opuslive.web.pages import words

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FormField:
    """How the form shows a field of ``Typed``.

    ``rows`` is the height of a field with several lines; 0 makes it a field with one line.
    ``words`` says that the field holds a name, else it holds code, in which browsers must change
    nothing. ``explained`` says that the page shows what each line means, as limits are explained.
    ``choices`` are texts that the browser offers; with None it offers none.
    """

    name: str
    label: str
    hint: Markup
    rows: int = 0
    words: bool = False
    required: bool = False
    explained: bool = False
    choices: Sequence[str] | None = None


def form_fields(groups: Sequence[str]) -> Sequence[FormField]:
    """The fields in their order on the page. ``groups`` are the names of groups to offer."""
    known = Markup(": {}").format(", ".join(groups)) if groups else Markup("")
    return (
        FormField(
            "name",
            "Name",
            Markup(
                "Whose key it is, or what for. Names are kept until the key is deleted; its holder "
                "sees this one."
            ),
            words=True,
            required=True,
        ),
        FormField(
            "limits",
            "Limits, one a line",
            Markup(
                "<code>60 requests/1m</code>, <code>2M tokens/5h</code>, "
                "<code>100k output_tokens/1m</code>, <code>20 usd/month</code>, "
                "<code>500M tokens/total</code> or <code>8 concurrent</code>. Without any, only "
                "the limits of its group and of the gateway hold."
            ),
            rows=5,
            explained=True,
        ),
        FormField(
            "models",
            "Models, one a line",
            Markup(
                "Names in which <code>*</code> stands for anything, such as "
                "<code>claude-opus-*</code>. Without any, all models."
            ),
            rows=2,
        ),
        FormField(
            "expires",
            "Expires",
            Markup(
                "A span from now (<code>30d</code>), a day (<code>2026-12-31</code>: its end, UTC) "
                "or a time (<code>2026-12-31T12:00:00Z</code>). Empty: never."
            ),
        ),
        FormField(
            "group",
            "Group",
            Markup(
                "Keys of a group share the limits that the configuration gives it{}. Empty: none."
            ).format(known),
            words=True,
            choices=groups,
        ),
    )


@dataclass(frozen=True, slots=True)
class Typed:
    """The content of the form's fields. ``limits`` and ``models`` have one a line."""

    name: str = ""
    limits: str = ""
    models: str = ""
    expires: str = ""
    group: str = ""

    @classmethod
    def of_form(cls, form: Mapping[str, str]) -> Typed:
        return cls(**{field.name: form.get(field.name, "") for field in fields(cls)})

    @classmethod
    def of_key(cls, key: Key) -> Typed:
        """What would have to be typed for the key as it is."""
        return cls(
            name=key.name,
            limits="\n".join(key.limits),
            models="\n".join(key.models),
            expires="" if key.expires_at is None else format_when(key.expires_at),
            group=key.group or "",
        )

    def changes(
        self, shown: Mapping[str, str], now_ms: int
    ) -> tuple[KeyChanges, Mapping[str, str]]:
        """The changes to make to a key; and field → the error in it.

        ``shown`` is what the fields were filled with at first (``shown_of``). A field that still
        says the same changes nothing: somebody else may have changed the key meanwhile, and the
        expiry in the form has no milliseconds.
        """
        errors: dict[str, str] = {}

        def touched(field: str) -> bool:
            return field not in shown or lines(shown[field]) != lines(getattr(self, field))

        def checked(field: str, check: Callable[[], T]) -> T | None:
            if not touched(field):
                return None
            try:
                return check()
            except UsageError as error:
                errors[field] = sentence(error.message)
                return None

        expires, group = self.expires.strip(), self.group.strip()
        changes = KeyChanges(
            name=checked("name", lambda: checked_name(self.name.strip(), "key")),
            limits=self._limits(errors) if touched("limits") else None,
            models=checked("models", lambda: checked_globs(lines(self.models))),
            set_expiry=touched("expires"),
            set_group=touched("group"),
            group=checked("group", lambda: checked_name(group, "group")) if group else None,
        )
        if changes.set_expiry and expires:
            at = checked("expires", lambda: expiry_at(expires, now_ms))
            changes = replace(changes, expires_at=at)
        return changes, errors

    def _limits(self, errors: dict[str, str]) -> tuple[str, ...]:
        explained = explain_limits(self.limits)
        wrong = next((line for line in explained if line.error is not None), None)
        if wrong is not None:
            errors["limits"] = f"Line {wrong.number}: {wrong.error}"
        return tuple(line.text for line in explained)


#: Field of the form → the hidden field that holds what it was filled with at first.
_SHOWN: Mapping[str, str] = MappingProxyType(
    {field.name: f"shown_{field.name}" for field in fields(Typed)}
)
#: Every field that the form may have.
FIELDS = (*_SHOWN, *_SHOWN.values())


def shown_of(form: Mapping[str, str]) -> Mapping[str, str]:
    """What the fields of a form were filled with at first, as its hidden fields have it."""
    return {name: form[hidden] for name, hidden in _SHOWN.items() if hidden in form}


@dataclass(frozen=True, slots=True)
class Explained:
    """A line of limits: its canonical text and what it means, or else the ``error`` in it."""

    number: int
    text: str
    meaning: str | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, str | int | None]:
        """The members that the script of the pages knows."""
        return {
            "line": self.number,
            "text": self.text,
            "meaning": self.meaning,
            "error": self.error,
        }


def explain_limits(text: str) -> Sequence[Explained]:
    """Each line that says something, up to one more than a key may have."""
    explained: list[Explained] = []
    known: list[Limit] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if len(explained) == MAX_ENTRIES:
            too_many = f"A key may have at most {MAX_ENTRIES} limits."
            return [*explained, Explained(number, line.strip(), error=too_many)]
        try:
            limit = parse_limit(line)
            twin = next((other for other in known if other.same_kind(limit)), None)
            if twin is not None:
                parse_limits([str(twin), line])
            known.append(limit)
            explained.append(Explained(number, str(limit), words.meaning(limit)))
        except UsageError as error:
            explained.append(Explained(number, line.strip(), error=sentence(error.message)))
    return explained


def lines(text: str) -> tuple[str, ...]:
    """The lines that say something."""
    return tuple(filter(None, (line.strip() for line in text.splitlines())))


def sentence(message: str) -> str:
    """A message as a sentence of its own: some are written to follow a colon."""
    message = message[:1].upper() + message[1:]
    return message if message.endswith((".", "?", "!")) else message + "."
