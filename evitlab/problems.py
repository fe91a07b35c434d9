"""What is wrong with plain data from a file, in sentences that name field, value and what is allowed."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import ValidationError

_WORDS = {"Input should be": "must be", "a valid array": "a list", "an object": "a mapping"}
"""pydantic's words and YAML's."""


class UserError(ValueError):
    """A mistake in what a person gave; the command line prints the message alone and exits with 2."""


def explain(error: ValidationError, owner: type) -> list[str]:
    """One sentence for each wrong field of data that was read as the dataclass `owner`."""
    sentences = []
    for detail in error.errors(include_url=False):
        path = [part for part in detail["loc"] if not _is_type_tag(part)]
        place = ".".join(str(part) for part in path) or "the whole"
        if detail["type"] == "unexpected_keyword_argument":
            allowed = _field_names(owner, path[:-1])
            sentences.append(f"{place}: unknown{suggest(str(path[-1]), allowed)} (allowed: {', '.join(allowed)})")
        elif detail["type"] == "value_error":
            sentences.append(f"{place}: {detail['msg'].removeprefix('Value error, ').replace('self.', '')}")
        elif "missing" in detail["type"]:
            sentences.append(f"{place}: required, but missing")
        else:
            rule = detail["msg"]
            for theirs, ours in _WORDS.items():
                rule = rule.replace(theirs, ours)
            sentences.append(f"{place}: {rule}, but got {shorten(detail['input'])}")
    return sentences


def suggest(name: str, allowed: Iterable[str]) -> str:
    """`; did you mean ...?` where an allowed name is near, else nothing."""
    nearest = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def shorten(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_type_tag(part: Any) -> bool:
    """pydantic names the dataclass it tried beside the field."""
    return isinstance(part, str) and part[:1].isupper()


def _field_names(owner: Any, path: Sequence[Any]) -> list[str]:
    """Fields of the dataclass that lies at `path` below `owner`."""
    found = [owner]
    for part in path:
        hints = [get_type_hints(each).get(str(part)) for each in found]
        inner = [each for hint in hints for each in _flatten(hint) if is_dataclass(each)]
        tagged = [each for each in found if getattr(each, "type", None) == part]  # a union names its choice by `type`
        found = tagged or inner or found
    return [field.name for field in fields(found[0])]


def _flatten(hint: Any) -> list[Any]:
    """A type hint and everything in its brackets."""
    return [hint, *(inner for argument in get_args(hint) for inner in _flatten(argument))]
