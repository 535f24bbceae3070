"""Texts for people: made of an id and values, so that they can be shown in another language too.

A `Message` is its English text, so it is printed and logged like any other. It carries what a
translator needs: the id, which is the English with a {name} for each value, and the values. A value
can be a message itself. `locale/` holds the translations; `tenner.ui.translation` reads them.

Only the standard library is used here: the trainer's process imports this module.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self, TypeGuard, cast, overload


class Message(str):
    """A text with its id and values.

    `many` is the id for numbers other than one, and `number` the one that decides. A text without
    an id (`without_id`) is another program's.
    """

    msgid: str
    many: str
    number: int | None
    values: Mapping[str, str]

    def __new__(
        cls, msgid: str, values: Mapping[str, object], many: str = "", number: int | None = None
    ) -> Self:
        texts = {name: str(value) for name, value in values.items()}
        template = many if many and number != 1 else msgid
        self = super().__new__(cls, template.format(**texts))
        self.msgid, self.values, self.many, self.number = msgid, texts, many, number
        return self

    @classmethod
    def without_id(cls, text: str) -> Self:
        """Another program's words, for which no catalogue has a translation."""
        self = super().__new__(cls, text)
        self.msgid, self.values, self.many, self.number = "", {}, "", None
        return self

    def __str__(self) -> str:
        """Itself: so `str` of an error that was raised with a message gives the message."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.msgid:
            return type(self).without_id, (str.__str__(self),)
        return type(self), (self.msgid, dict(self.values), self.many, self.number)

    def with_values(self, change: Callable[[str], str]) -> "Message":
        """The same message with `change` made to each of its values, messages in them included; to
        the text itself where it has no id."""
        if not self.msgid:
            return Message.without_id(change(str.__str__(self)))
        values = {
            name: value.with_values(change) if isinstance(value, Message) else change(value)
            for name, value in self.values.items()
        }
        return Message(self.msgid, values, self.many, self.number)

    def to_json(self) -> dict[str, Any]:
        """Id and values as JSON takes them."""
        values = {
            name: value.to_json() if isinstance(value, Message) else value
            for name, value in self.values.items()
        }
        found: dict[str, Any] = {"msgid": self.msgid, "values": values}
        return found | ({"many": self.many, "number": self.number} if self.many else {})


NO_TEXT = Message.without_id("")


def msg(msgid: str, /, **values: object) -> Message:
    """The text `msgid` with its {names} filled; `pybabel extract` finds the calls by this name."""
    return Message(msgid, values)


def plural(one: str, many: str, number: int, /, **values: object) -> Message:
    """A text that depends on a number, which is its {n}: `{n} image`, `{n} images`."""
    return Message(one, {"n": f"{number:,}", **values}, many, number)


def joined(*texts: str, separator: str = "; ") -> Message:
    """Texts joined by `separator`, of which each stays a message; empty ones are left out."""
    filled = [text for text in texts if text]
    names = [f"part{number}" for number in range(1, len(filled) + 1)]
    if len(filled) < 2:
        return as_message(filled[0]) if filled else NO_TEXT
    template = separator.join(f"{{{name}}}" for name in names)
    return Message(template, dict(zip(names, filled, strict=True)))


def as_message(text: str) -> Message:
    """`text` itself where it is a message. Another program's words become one without an id, which
    is shown as it is in every language, and written without id and values."""
    return text if isinstance(text, Message) else Message.without_id(text)


def has_id(text: object) -> TypeGuard[Message]:
    """Whether `text` is a message with an id: one of tenner's own texts."""
    return isinstance(text, Message) and text.msgid != ""


def message_of(found: object, text: str) -> Message:
    """The message that `to_json` made, if it is one and its English is `text`; else `text`.

    So a log that was written by another version, or changed by hand, is shown as it stands there.
    """
    message = _read(found)
    return message if message is not None and message == text else as_message(text)


def _read(found: object) -> Message | None:
    """The message in its JSON form; None where the value is anything else, or ill-formed."""
    if not isinstance(found, dict):
        return None
    read = cast("dict[str, Any]", found)
    msgid, many, number = read.get("msgid"), read.get("many", ""), read.get("number")
    if not isinstance(msgid, str) or not isinstance(many, str):
        return None
    try:
        values = {name: _read(each) or str(each) for name, each in read["values"].items()}
        return Message(msgid, values, many, number)
    except (LookupError, ValueError, AttributeError, TypeError):
        return None


@overload
def redacted(text: Message, redact: Callable[[str], str]) -> Message: ...
@overload
def redacted(text: str, redact: Callable[[str], str]) -> str: ...
def redacted(text: str, redact: Callable[[str], str]) -> str:
    """`text` after `redact`, still a message with its id where only its values were changed."""
    clean = redact(text)
    if isinstance(text, Message):
        message = text.with_values(redact)
        return message if message == clean else as_message(clean)
    return clean
