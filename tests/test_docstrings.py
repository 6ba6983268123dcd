"""Examples in docstrings are run."""

import doctest
import importlib
import pkgutil

import pytest

import gmixout

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(gmixout.__path__, "gmixout.")
    if not name.endswith("__main__")
]
FINDER, FLAGS = doctest.DocTestFinder(exclude_empty=True), doctest.ELLIPSIS
SHOWN = {
    "gmixout.bench.options.Fields",
    *("gmixout.use.loaded.load", "gmixout.use.classifier.Classifier"),  # docs/tutorial.md runs them
}
"""Examples that show a form, or need a run of the user's own."""


def examples():
    for name in MODULES:
        for each in FINDER.find(importlib.import_module(name), globs=None):
            if each.examples and each.name not in SHOWN:
                yield pytest.param(each, id=each.name)


EXAMPLES = list(examples())


def test_examples_are_found():
    assert len(EXAMPLES) > 15
    names = {param.values[0].name for param in EXAMPLES}
    assert "gmixout.methods.get_method" in names
    public = {"gmixout.core.attach.attach", "gmixout.weightspace.interpolate"}
    assert public <= names


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_prints_what_it_says(example):
    example.globs.update({"gmixout": gmixout, "torch": importlib.import_module("torch")})
    lines: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(example, out=lines.append)
    assert not lines, "".join(lines)
