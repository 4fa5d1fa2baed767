"""Looks claims up in the libraries of the Python that runs it; started by scripts/compat.py, no use alone.

Reads {"claims", "libraries"} as JSON from standard input; the last line it prints is {"versions",
"verdicts"}. A verdict is "ok", "unknown" (it cannot be told from classes and annotations), "absent" (a class
lacks it), or what is wrong. See scripts/calls.py for claims. Only the libraries themselves are imported.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import sys
import types
import typing
from importlib import metadata
from typing import Any


class Unknown(Exception):
    """No annotation or class says what this is."""


class Absent(Exception):
    """A class has no such attribute; its objects may have it nevertheless."""


class Of:
    """Stands for some object of a class."""

    def __init__(self, cls: type) -> None:
        self.cls = cls


def find(what: list[Any]) -> list[Any]:
    """What an expression may be: things, or Of(class).

    Raises:
        LookupError: a name is not there.
        Unknown: it cannot be told.
        Absent: an attribute is not there.
    """
    kind = what[0]
    if kind == "name":
        return [_import(what[1])]
    if kind == "any":
        return [thing for one in what[1] for thing in find(one)]
    if kind == "instance":
        return [Of(cls) for cls in find(what[1])]
    if kind == "attribute":
        return _of_any(find(what[1]), what[2])
    return [thing for function in find(what[1]) for thing in _result(function)]


def _import(dotted: str) -> Any:
    """As `from package import thing` does: an attribute comes before a module of the same name."""
    first, *rest = dotted.split(".")
    try:
        thing, path = importlib.import_module(first), first
        for name in rest:
            path = f"{path}.{name}"
            thing = getattr(thing, name) if hasattr(thing, name) else importlib.import_module(path)
    except Exception as error:  # a library that breaks on import may raise anything
        raise LookupError(f"importing it fails: {error}") from error
    return thing


def _of_any(things: list[Any], name: str) -> list[Any]:
    """An attribute of each of the things that have it; one must."""
    found = []
    for thing in things:
        with contextlib.suppress(Absent):
            found.append(_attribute(thing, name))
    if not found:
        raise Absent
    return found


def _attribute(thing: Any, name: str) -> Any:
    owner = thing.cls if isinstance(thing, Of) else thing
    found = inspect.getattr_static(owner, name, None)
    if found is None:
        raise Absent  # or set in __init__: another environment may know
    if isinstance(thing, Of) and isinstance(found, property):
        return _only(_annotation(found.fget, thing.cls))
    bound = isinstance(thing, Of) and inspect.isfunction(found)
    return types.MethodType(found, thing) if bound else getattr(owner, name)


def _only(things: list[Any]) -> Any:
    if len(things) != 1:
        raise Unknown
    return things[0]


def _result(function: Any) -> list[Any]:
    if isinstance(function, Of):
        function = _attribute(function, "__call__")
    if inspect.isclass(function):
        return [Of(function)]
    owner = getattr(function, "__self__", None)  # of a method: Of(class), or for a class method the class
    owner = owner.cls if isinstance(owner, Of) else owner
    return _annotation(function, owner if inspect.isclass(owner) else None)


def _annotation(function: Any, owner: type | None) -> list[Any]:
    try:
        said = typing.get_type_hints(function).get("return")
    except Exception as error:  # names that are imported for type checkers only
        said = inspect.signature(function).return_annotation
        if owner is None or said != owner.__name__:
            raise Unknown from error
        said = owner
    if said is typing.Self and owner:
        said = owner
    options = typing.get_args(said) if typing.get_origin(said) in (typing.Union, types.UnionType) else (said,)
    classes = [one for one in options if inspect.isclass(one) and one is not type(None)]
    if not classes or len(classes) < len([one for one in options if one is not type(None)]):
        raise Unknown
    return [Of(cls) for cls in classes]


def call(function: Any, claim: dict[str, Any]) -> str:
    """Whether a call fits a signature: "ok", "unknown", or what is wrong."""
    if isinstance(function, Of):
        function = _attribute(function, "__call__")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "unknown"
    bind = signature.bind_partial if claim["more"] else signature.bind
    try:
        bind(*[None] * claim["count"], **dict.fromkeys(claim["keywords"]))
    except TypeError as error:
        return f"{error}; it takes {signature}"[:400]
    return "ok"


def verdict(claim: dict[str, Any]) -> str:
    """What this environment says to a claim."""
    try:
        things = find(claim["what"])
        if claim["kind"] == "call":
            verdicts = [call(thing, claim) for thing in things]
            return "ok" if "ok" in verdicts else verdicts[0]
        if claim["kind"] == "base":
            left = set(getattr(things[0], "__abstractmethods__", ())) - set(claim["own"])
            return (
                f"it does not define {', '.join(sorted(left))}, which its base leaves open" if left else "ok"
            )
    except Unknown:
        return "unknown"
    except Absent:
        return "absent"
    except LookupError as error:
        return str(error)
    return "ok"


def main() -> None:
    """Answer the claims on standard input."""
    asked = json.load(sys.stdin)
    print(json.dumps({
        "versions": {library: metadata.version(library) for library in asked["libraries"]},
        "verdicts": [verdict(claim) for claim in asked["claims"]],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
