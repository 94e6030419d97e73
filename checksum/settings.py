"""Settings: a TOML file becomes frozen dataclasses, or one sentence that names file, key and value.

Enters: the path of a TOML file and, per table, a dataclass whose fields were made with `setting`. Leaves: instances of
these dataclasses. Every field carries its help text and its bounds, so that the documentation of a key, its check and
its default stand in one place.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Stamp = tuple[int, int, int]


class SettingsError(ValueError):
    """The settings can't be used; the message is one sentence for the person who wrote them."""


def setting(
    help: str,
    *,
    default: Any = dataclasses.MISSING,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A documented field of a settings dataclass. Without a default the key is required."""
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def read(path: Path) -> dict[str, Any]:
    """The TOML document at `path`.

    Raises:
        SettingsError: it can't be read or isn't TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: can't read the configuration: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def only_tables(document: Mapping[str, Any], known: tuple[str, ...], path: Path) -> None:
    """Raises SettingsError if the document has a top-level key that is none of the known tables."""
    for key in document:
        if key not in known:
            raise SettingsError(f"{path}: unknown table [{key}]; known are {', '.join(f'[{name}]' for name in known)}")


def table(values: Any, into: type[T], where: str) -> T:
    """One TOML table as an instance of the dataclass `into`; `where` names file and table in messages.

    Raises:
        SettingsError: an unknown or missing key, a wrong type or a value out of bounds.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"{where}: must be a table, not {_show(values)}")
    hints = typing.get_type_hints(into)
    fields = {field.name: field for field in dataclasses.fields(into)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise SettingsError(f"{where}: unknown key '{key}'; known are {', '.join(fields)}")
    taken = {}
    for name, field in fields.items():
        if name in values:
            taken[name] = _convert(values[name], hints[name], field.metadata, f"{where} {name}")
        elif field.default is dataclasses.MISSING:
            raise SettingsError(f"{where}: the key '{name}' is missing ({field.metadata['help']})")
    return into(**taken)


def stamp(path: Path) -> Stamp | None:
    """What changes when a file that the settings name does; None if it isn't there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _convert(value: Any, hint: Any, metadata: Mapping[str, Any], where: str) -> Any:
    if isinstance(hint, types.UnionType):  # `float | None`: None only ever comes from the default
        hint = _chosen(value, [part for part in typing.get_args(hint) if part is not types.NoneType])
    converted = _typed(value, hint, where)
    minimum, maximum, choices = metadata["minimum"], metadata["maximum"], metadata["choices"]
    # `not (a <= b)` instead of `a > b`, so that nan is refused as well
    if minimum is not None and not minimum <= converted:
        raise SettingsError(f"{where} = {_show(value)}: must be at least {minimum:g}")
    if maximum is not None and not converted <= maximum:
        raise SettingsError(f"{where} = {_show(value)}: must be at most {maximum:g}")
    if choices is not None and isinstance(converted, str) and converted not in choices:
        raise SettingsError(f"{where} = {_show(value)}: must be one of {', '.join(choices)}")
    return converted


def _chosen(value: Any, hints: list[Any]) -> Any:
    """Of a table or something else, as in `str | TableSettings`, what the value is."""
    return next((hint for hint in hints if dataclasses.is_dataclass(hint) == isinstance(value, Mapping)), hints[0])


def _typed(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return table(value, typing.cast(type, hint), where)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    if hint == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if typing.get_origin(hint) is tuple and dataclasses.is_dataclass(typing.get_args(hint)[0]):
        return _tables(value, typing.get_args(hint)[0], where)
    expected = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path"}
    raise SettingsError(f"{where} = {_show(value)}: must be {expected.get(hint, 'a list of strings')}")


def _tables(values: Any, into: type[T], where: str) -> tuple[T, ...]:
    if not isinstance(values, list):
        raise SettingsError(f"{where} = {_show(values)}: must be a list of tables")
    return tuple(table(value, into, f"{where} {number}") for number, value in enumerate(values, 1))


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def address(text: str, where: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as (host, port).

    Raises:
        SettingsError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise SettingsError(f"{where} = {_show(text)}: must be an address and a port, such as 127.0.0.1:9861")
    return host, int(port)
