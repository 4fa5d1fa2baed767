"""Which parts of the libraries the notebooks and mmhelpers use, read from their code.

Each use is a claim: a dictionary with `where` (file and line or cell), `text` (the code in short), `what` (an
expression that says how to get at the thing, see below) and for a call its arguments. scripts/probe.py puts
the claims to an environment.

Expressions are lists: ["name", "package.module.thing"], ["attribute", expression, "name"], ["result",
expression] (of calling it), ["instance", expression] (an object of that class), ["any", expressions].
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

LIBRARIES = ("sentence_transformers", "transformers", "datasets", "huggingface_hub")
Expression = list[Any]


def collect(root: Path) -> list[dict[str, Any]]:
    """The claims of all notebooks and modules of a checkout, each once per file and line."""
    package = Package(root / "mmhelpers")
    claims = []
    for path, tree, module in package.modules():
        claims += Reader(path.relative_to(root).as_posix(), package, module).read(tree)
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        reader = Reader(path.name, package, "")
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "code":
                source = TransformerManager().transform_cell(cell.source)
                claims += reader.read(ast.parse(source), f"cell {number}, ")
    return claims


class Package:
    """What the modules of a package import, and what their functions return, as far as it says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trees = {
            ".".join(path.relative_to(folder.parent).with_suffix("").parts): (
                path,
                ast.parse(path.read_text()),
            )
            for path in sorted(folder.rglob("*.py"))
        }
        self.names = {module: imported(tree) for module, (_, tree) in self.trees.items()}

    def modules(self) -> Iterator[tuple[Path, ast.Module, str]]:
        """Path, tree and dotted name of each module."""
        for module, (path, tree) in self.trees.items():
            yield path, tree, module

    def definition(self, dotted: str) -> tuple[str, ast.AST] | None:
        """The module and the definition of mmhelpers.module.thing, or of mmhelpers.module.Class.method."""
        parts = dotted.split(".")
        for length in range(len(parts) - 1, 0, -1):
            if (module := ".".join(parts[:length])) in self.trees:
                node: ast.AST | None = self.trees[module][1]
                for name in parts[length:]:
                    node = next(
                        (one for one in getattr(node, "body", ()) if getattr(one, "name", "") == name), None
                    )
                return (module, node) if node else None
        return None


def imported(tree: ast.AST) -> dict[str, str]:
    """What imports anywhere in a tree bind: name to dotted path."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


class Reader(ast.NodeVisitor):
    """Reads the code of one file, top to bottom, and keeps what it learns for the cells that follow."""

    def __init__(self, file: str, package: Package, module: str) -> None:
        self.file, self.package, self.module, self.place = file, package, module, ""
        self.names: dict[str, str] = {}
        self.scopes: list[dict[str, Expression]] = [{}]
        self.dictionaries: dict[str, list[str]] = {}
        self.classes: list[ast.ClassDef] = []
        self.claims: list[dict[str, Any]] = []

    def read(self, tree: ast.Module, place: str = "") -> list[dict[str, Any]]:
        """The claims of a module or cell."""
        self.claims, self.place = [], place
        self.names |= imported(tree)
        self.visit(tree)
        return self.claims

    # What an expression is ------------------------------------------------------------------------------

    def expression(self, node: ast.AST | None) -> Expression | None:
        """An expression of the libraries for a node, or None where it is not theirs or not known."""
        if isinstance(node, ast.Name):
            for scope in reversed(self.scopes):
                if node.id in scope:
                    return scope[node.id]
            return ["name", self.names[node.id]] if node.id in self.names else self._own(node.id)
        if isinstance(node, ast.Attribute):
            base = self.expression(node.value)
            if base and base[0] == "name":
                return ["name", f"{base[1]}.{node.attr}"]
            return ["attribute", base, node.attr] if base else None
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "super" and self.classes:
                bases = [self.expression(base) for base in self.classes[-1].bases]
                return ["instance", bases[0]] if bases and bases[0] else None
            function = self.expression(node.func)
            return self._result(function) if function else None
        return None

    def _own(self, name: str) -> Expression | None:
        return ["name", f"{self.module}.{name}"] if self.package.definition(f"{self.module}.{name}") else None

    def _result(self, function: Expression) -> Expression | None:
        """What a call gives; for a function of mmhelpers, what its annotation says."""
        if function[0] != "name" or not function[1].startswith("mmhelpers"):
            return ["result", function]
        if not (found := self.package.definition(function[1])):
            return None
        module, node = found
        if isinstance(node, ast.ClassDef):  # one of ours: as far as it is one of theirs, too
            reader = Reader("", self.package, module)
            reader.names = self.package.names[module]
            bases = [base for base in map(reader.expression, node.bases) if base]
            return ["instance", bases[0]] if bases else None
        return annotated(getattr(node, "returns", None), self.package.names[module])

    # What is claimed ------------------------------------------------------------------------------------

    def claim(self, kind: str, node: ast.AST, what: Expression, text: str, **more: Any) -> None:
        """Keep a claim, if it is about the libraries."""
        if _library(what):
            where = f"{self.file}, {self.place}line {node.lineno}"
            self.claims.append({"kind": kind, "where": where, "text": text, "what": what, **more})

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.claim("there", node, ["name", f"{node.module}.{alias.name}"], f"import {alias.name}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        what = self.expression(node)
        if what and what[0] == "name":
            self.claim("there", node, what, ast.unparse(node))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if what := self.expression(node.func):
            keywords = [keyword.arg for keyword in node.keywords if keyword.arg]
            opened = [keyword.value for keyword in node.keywords if not keyword.arg]
            known = [self._keys(value) for value in opened]
            more = any(isinstance(argument, ast.Starred) for argument in node.args) or None in known
            keywords += [key for keys in known for key in keys or ()]
            text = f"{ast.unparse(node.func)}({', '.join(keywords)})"
            self.claim("call", node, what, text, count=len(node.args), keywords=keywords, more=more)
        self.generic_visit(node)

    def _keys(self, node: ast.AST) -> list[str] | None:
        """The keys of a dictionary that a call opens with **, where they can be read."""
        if isinstance(node, ast.Name):
            return self.dictionaries.get(node.id)
        if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
            return [key.value for key in node.keys]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
            return [word.arg for word in node.keywords] if all(word.arg for word in node.keywords) else None
        return None

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A class of ours that stands on one of theirs: what it overrides must be there to override."""
        own = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        for base in filter(None, map(self.expression, node.bases)):
            self.claim("base", node, base, f"class {node.name}", own=[one.name for one in own])
            for one in own:
                if not one.name.startswith("_"):
                    overridden = ["attribute", base, one.name]
                    self.claim("there", one, overridden, f"{node.name} overrides {one.name}")
        self.classes.append(node)
        self.generic_visit(node)
        self.classes.pop()

    # What names mean ------------------------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        names = self.names | (self.package.names.get(self.module) or {})
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        scope = {one.arg: annotated(one.annotation, names) for one in arguments}
        self.scopes.append(scope)
        self.generic_visit(node)
        self.scopes.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.scopes[-1][target.id] = self.expression(node.value)
                if (keys := self._keys(node.value)) is not None and not isinstance(node.value, ast.Name):
                    self.dictionaries[target.id] = keys
            elif isinstance(target, ast.Tuple):
                self.scopes[-1] |= {one.id: None for one in target.elts if isinstance(one, ast.Name)}


def annotated(node: ast.AST | None, names: dict[str, str]) -> Expression | None:
    """An object of the class, or of one of the classes, that an annotation names."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = [annotated(side, names) for side in (node.left, node.right)]
        sides = [side for side in sides if side]
        return ["any", sides] if len(sides) > 1 else sides[0] if sides else None
    dotted = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
    first, _, rest = dotted.partition(".")
    if first in names:
        return ["instance", ["name", f"{names[first]}.{rest}" if rest else names[first]]]
    return None


def _library(what: Expression) -> bool:
    """Whether an expression is about one of the libraries."""
    if what[0] == "name":
        return what[1].split(".")[0] in LIBRARIES
    if what[0] == "any":
        return any(map(_library, what[1]))
    return _library(what[1])
