"""The one door by which YAML enters: files and overrides become checked dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from generation.errors import CrossviewError
from generation.locations import location
from generation.plain import Plain, merge

T = TypeVar("T")

MANIFESTS = Path(__file__).resolve().parent.parent / "data_manifests"


class ConfigError(CrossviewError):
    """A configuration that cannot be used: names the file, the dotted key and what is expected."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, to which a key given twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name = str(key.value)
            if name in lines:
                problem = f"key '{name}' is given twice, first on line {lines[name]}"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            lines[name] = key.start_mark.line + 1
        return node  # type: ignore[no-any-return]


def _parse(text: str | bytes, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-01
        raise ConfigError(f"{source}: not valid YAML: {error}") from error


def load_named(
    cls: type[T], folder: Path, name: str, overrides: Mapping[str, Any], *, what: str
) -> T:
    """Build what a YAML file describes, by its path, or by the name of one of ours in a folder.

    Raises ConfigError, or CrossviewError with the names there are.
    """
    path = Path(name)
    if not path.suffix:
        path = folder / f"{name}.yaml"
        if not path.exists():
            ours = ", ".join(sorted(each.stem for each in folder.glob("*.yaml")))
            raise CrossviewError(f"{what} {name!r}: expected a YAML file or one of ours: {ours}")
    return build(cls, merge(load_yaml(path), overrides), source=path)


def load_yaml(path: str | Path) -> Plain:
    """Read a YAML file that holds a mapping. Raises ConfigError naming the file and the line."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{path}: cannot read this configuration: {reason}") from error
    values = _parse(content, str(path))
    if not isinstance(values, dict):
        found = "an empty file" if values is None else _show(values)
        raise ConfigError(f"{path}, line 1: expected a mapping of keys to values, got {found}")
    return values


def dump_yaml(value: Any, *, inline: bool = False) -> str:
    """Return plain values as YAML, in their order: a block, or one line without its end."""
    text: str = yaml.safe_dump(
        value, sort_keys=False, default_flow_style=inline, width=math.inf if inline else 80
    )
    return text.removesuffix("...\n").rstrip("\n") if inline else text


def parse_overrides(assignments: Iterable[str]) -> Plain:
    """Turn ["optim.lr=1.0e-4", ...] into nested dicts; values are YAML, the last of a key wins."""
    values: Plain = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        names = key.strip().split(".")
        if not equals or not all(names):
            raise ConfigError(f"override {assignment!r}: expected KEY.KEY=VALUE")
        value = _parse(text, f"override {assignment!r}")
        for name in reversed(names):
            value = {name: value}
        values = merge(values, value)
    return values


def build(
    cls: type[T], values: Mapping[str, Any], *, source: str | Path, besides: tuple[str, ...] = ()
) -> T:
    """Make a dataclass, and those in it, of nested values; source is named in every complaint.

    besides: keys that might have been meant and are not fields, taken out of values before.

    Fields may be int, float, str, bool, Path, Literal, tuple, dict[str, X], dataclasses, and unions
    of these. Whole numbers pass for floats, text for a dataclass that has a `parse`; nothing else
    is converted. Raises ConfigError.
    """
    try:
        made: T = _build(cls, values, "", besides)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return made


def _build(cls: Any, values: Any, key: str, besides: tuple[str, ...] = ()) -> Any:
    if not isinstance(values, Mapping):
        raise _mistyped(cls, values, key)
    fields = {field.name: field for field in _fields(cls)}
    for name in values:
        if name not in fields:
            known = [*besides, *fields]
            near = _nearest(name, known)
            raise ConfigError(
                f"{_below(key, name)}: unknown key (given {_show(values[name])}){near}; "
                f"expected one of {', '.join(known)}"
            )
    kinds = get_type_hints(cls)
    arguments = {}
    for name, field in fields.items():
        if name in values:
            arguments[name] = _convert(kinds[name], values[name], _below(key, name))
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{_below(key, name)}: missing; expected {_describe(kinds[name])}")
    try:
        return cls(**arguments)
    except CrossviewError as error:
        # Where the class Optim says "lr = -1: expected ...", the key is optim.lr, not optim.
        named = re.match(r"\w+", str(error))
        of_a_field = named is not None and named[0] in fields
        message = _below(key, error) if of_a_field else f"{key}: {error}" if key else str(error)
        raise ConfigError(message) from error


def _fields(cls: Any) -> list[dataclasses.Field[Any]]:
    """Return the fields of a dataclass that are given."""
    return [field for field in dataclasses.fields(cls) if field.init]


def _convert(kind: Any, value: Any, key: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    is_list = isinstance(value, (list, tuple))
    if kind is Any:
        return value
    if isinstance(value, str) and hasattr(kind, "parse"):
        return _parse_text(kind, value, key)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, key)
    if origin in (Union, UnionType):
        return _convert_union(kind, value, key)
    if origin is Literal and any(value == each and type(value) is type(each) for each in inner):
        return value
    if origin is tuple and is_list and (inner[-1] is Ellipsis or len(inner) == len(value)):
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        items = enumerate(zip(kinds, value))
        return tuple(_convert(each, item, f"{key}[{i}]") for i, (each, item) in items)
    if origin is dict and isinstance(value, Mapping) and all(isinstance(n, str) for n in value):
        return {n: _convert(inner[1], item, _below(key, n)) for n, item in value.items()}
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)  # neither infinite nor NaN
    if kind is Path and isinstance(value, (str, Path)) and str(value):
        return location(os.path.expanduser(value))
    if kind in (int, str, bool, NoneType) and type(value) is kind:
        return value
    assert origin in (Literal, tuple, dict) or kind in _NAMES, f"{key}: no field can be {kind}"
    raise _mistyped(kind, value, key)


def _parse_text(kind: Any, text: str, key: str) -> Any:
    names = _named_texts(kind)
    try:
        return kind.parse(names.get(text, text))
    except CrossviewError as error:
        own_name = key.rpartition(".")[2]
        hint = f"; or a name: {', '.join(names)}" if names else ""
        raise ConfigError(f"{key}: {str(error).removeprefix(f'{own_name}: ')}{hint}") from error


def _named_texts(kind: Any) -> dict[str, str]:
    """Return name -> text of the manifest that a dataclass with a `parse` names, if it does."""
    manifest = getattr(kind, "manifest", None)
    return load_yaml(MANIFESTS / manifest) if manifest else {}


def _convert_union(kind: Any, value: Any, key: str) -> Any:
    errors = []
    for member in sorted(get_args(kind), key=lambda member: type(value) is not member):
        try:
            return _convert(member, value, key)
        except ConfigError as error:
            if isinstance(value, Mapping) and dataclasses.is_dataclass(member):
                fields = {field.name for field in dataclasses.fields(member)}
                errors.append((len(fields & value.keys()), error))
    # Of a mapping, the complaint of the class most like it says more than the whole union.
    raise max(errors, key=lambda pair: pair[0])[1] if errors else _mistyped(kind, value, key)


def _below(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _mistyped(kind: Any, value: Any, key: str) -> ConfigError:
    complaint = f"expected {_describe(kind)}, got {_show(value)}{_hint(kind, value)}"
    return ConfigError(f"{key}: {complaint}" if key else complaint)


def _hint(kind: Any, value: Any) -> str:
    """Return how the value may have been meant."""
    members = get_args(kind) or (kind,)
    # YAML 1.1 reads an exponent without a point or a sign as text.
    parts = re.fullmatch(r"([-+]?\d+)(?:\.(\d*))?[eE]([-+]?)(\d+)", str(value))
    if parts and isinstance(value, str) and {int, float} & set(members):
        if float not in members and float(value).is_integer():
            return f"; write {float(value):.0f}"
        whole, fraction, sign, exponent = parts.groups()
        return f"; write {whole}.{fraction or '0'}e{sign or '+'}{exponent}"
    if int in members and isinstance(value, float) and value.is_integer():
        return f"; write {value:.0f}"
    if str in members and not isinstance(value, (Mapping, list, NoneType)):
        return "; put it in quotes"
    return ""


def _nearest(name: object, known: Iterable[object]) -> str:
    near = difflib.get_close_matches(str(name), [str(each) for each in known], n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _show(value: Any) -> str:
    text = json.dumps(value, default=str, skipkeys=True)
    return text if len(text) <= 80 else text[:77] + "..."


_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    NoneType: "null",
}


def _describe(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(map(_describe, inner))
    if origin is tuple and inner[-1] is Ellipsis:
        return f"a list, each {_describe(inner[0])}"
    if origin is tuple:
        return f"a list of {len(inner)} ({', '.join(map(_describe, inner))})"
    if dataclasses.is_dataclass(kind):
        return f"a mapping of {', '.join(field.name for field in _fields(kind))}"
    return _NAMES.get(kind, "a mapping")
