"""A YAML file → its data, with the line of every key and item."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mailtagger.errors import ConfigError

EXAMPLE = "config.example.yaml shows every key."

PLACES = 100_000  # aliases of aliases of aliases grow without bounds; a real file has some hundred keys

Location = tuple[str | int, ...]


class Document(NamedTuple):
    """Keys without a value are left out of `data`; `twice`: the place of a repeated key, its line, the first's line."""

    data: dict[Any, Any]
    lines: dict[Location, int]
    twice: list[tuple[Location, int, int]]

    def line(self, location: Location) -> int:
        """The line of this place, or of the nearest one around it that is in the file."""
        while location not in self.lines:
            location = location[:-1]
        return self.lines[location]


def read(path: Path) -> Document:
    """The document; ConfigError when there is no file, no YAML or no mapping in it."""
    data, places = _parse(path, _text(path))
    if data is None:
        raise ConfigError(f"{path} is empty.", EXAMPLE)
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must be lines of `key: value`.", EXAMPLE)
    lines: dict[Location, int] = {(): 1}
    twice: list[tuple[Location, int, int]] = []
    for location, line in places:
        if location in lines and not any(location[:len(other)] == other for other, *_ in twice):
            twice.append((location, line, lines[location]))
        lines[location] = line
    return Document(_without_nothing(data), lines, twice)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.", f"Write it, or give --config FILE. {EXAMPLE}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", "Let this user read it.") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path} is not UTF-8.", "Save it as UTF-8.", [f"{path}:{line}: not UTF-8"]) from None


def _parse(path: Path, text: str) -> tuple[Any, list[tuple[Location, int]]]:
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        places = list(itertools.islice(_walk(root, ()), PLACES)) if root else []
        if len(places) == PLACES:
            raise RecursionError
        data = loader.construct_document(root) if root else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # What stands in quotes in PyYAML's sentence is from the file: it may be a password without its quotes.
        said = re.sub(r" '[^']{2,}'", "", error.problem or "not YAML")
        raise _unreadable(path, mark.line + 1 if mark else 1, said) from None
    except yaml.reader.ReaderError as error:
        raise _unreadable(path, text.count("\n", 0, error.position) + 1, "a control character") from None
    except (ValueError, RecursionError):
        raise _unreadable(path, 1, "a value that is no number or date, or nesting without bounds") from None
    return data, places


def _unreadable(path: Path, line: int, said: str) -> ConfigError:
    return ConfigError(
        f"{path} is not YAML that can be read.",
        "Indent with spaces, and put values that begin with @ ` % & * ! or hold `: ` or ` #` in quotes.",
        [f"{path}:{line}: {said}"],
    )


def _walk(node: yaml.Node, location: Location) -> Iterator[tuple[Location, int]]:
    if len(location) > 20:
        raise RecursionError  # an alias within its own anchor has no end
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"  # so that the key `no:` is called no and not False
            yield (*location, str(key.value)), key.start_mark.line + 1
            yield from _walk(value, (*location, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield (*location, i), item.start_mark.line + 1
            yield from _walk(item, (*location, i))


def _without_nothing(data: Any) -> Any:
    """The same without keys that have no value: commenting out the last key below `log:` leaves the defaults."""
    if isinstance(data, dict):
        return {key: _without_nothing(value) for key, value in data.items() if value is not None}
    return [_without_nothing(item) for item in data] if isinstance(data, list) else data
