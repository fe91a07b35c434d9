"""Reading YAML as plain values: nothing in it can execute, no key is lost silently, mistakes have line and column."""

import re
from pathlib import Path
from typing import Any

import yaml

from evitlab.problems import UserError, suggest


class YamlError(UserError):
    """A file that is not there, or is no YAML; the message says where."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # many times as fast where it is
    """PyYAML's safe loader, without its two surprises: 2e-3 is a number here, and a repeated key an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands here twice", key_node.start_mark)
            seen.add(key if isinstance(key, str | int | float) else None)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> Any:
    """The file's content as plain values."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        beside = [each.name for each in path.parent.glob("*.y*ml")]
        raise YamlError(f"cannot be read: {error.strerror}{suggest(path.name, beside)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"is no UTF-8 text ({error.reason})"
        raise YamlError(f"cannot be read: {reason}") from None
    return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """The text as plain values."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise YamlError(f"{place}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise YamlError(str(error).splitlines()[0]) from None
    except RecursionError:
        raise YamlError("is nested too deeply") from None
