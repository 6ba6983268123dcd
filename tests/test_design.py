"""`docs/design.md` and CONTRIBUTING name files and tables that are there, and recipes that work."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from small_run import run

import gmixout
from gmixout.data import SOURCES
from gmixout.losses import LOSSES
from gmixout.methods import METHODS, Method, get_method
from gmixout.regularizers import REGULARIZERS, Regularizer

PACKAGE = Path(gmixout.__file__).parent
ROOT = Path(__file__).parents[1]
DESIGN, CONTRIBUTING = (ROOT / "docs" / "design.md"), (ROOT / "CONTRIBUTING.md")

needs_checkout = pytest.mark.skipif(not DESIGN.exists(), reason="the documents are not installed")


@needs_checkout
def test_files_that_the_documents_name_are_there():
    for text in (DESIGN.read_text(), CONTRIBUTING.read_text()):
        named = {n for n in re.findall(r"[\w/*]+\.py\b", text) if not n.startswith("NAME")}
        named = {n for n in named if "NAME" not in n}
        assert len(named) > 10
        missing = [n for n in named if not any([*PACKAGE.glob(f"**/{n}"), *ROOT.glob(n)])]
        assert missing == []


@needs_checkout
def test_tables_that_the_documents_name_are_where_they_say():
    rows = re.findall(r"`(\w+)` in `([\w/]+\.py)`", DESIGN.read_text())
    assert len(rows) >= 5
    for table, file in rows:
        names = {
            node.id
            for node in ast.walk(ast.parse((PACKAGE / file).read_text()))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        assert table in names, f"{file} has no {table}"


def recipes():
    """The Python blocks of CONTRIBUTING, by the class that each of them makes."""
    blocks = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(), re.DOTALL)
    return {re.search(r"class (\w+)", block)[1]: block for block in blocks}


@needs_checkout
def test_recipes_are_code_that_trains(monkeypatch):
    """As a reader would: the file is executed, its class goes into a table, and it trains."""
    for name, block in recipes().items():
        place: dict[str, Any] = {"__name__": f"recipe_{name}"}
        exec(compile(block, name, "exec"), place)
        kind = place[name]
        table = METHODS if issubclass(kind, Method) else REGULARIZERS
        assert issubclass(kind, Method | Regularizer)
        monkeypatch.setitem(table, name, kind)
        text = name if issubclass(kind, Method) else f"full+{name}"
        assert get_method(text).name == text
        assert run(text).losses != run("full").losses
    assert len(recipes()) >= 2


def test_a_name_stands_in_one_table():
    """`a+b` and the command line tell a method from a regularizer by its name."""
    tables = (METHODS, REGULARIZERS, LOSSES)
    names = [name for table in tables for name in table]
    assert len(names) == len(set(names))
    assert set(names).isdisjoint(SOURCES)
