"""Imports run one way, downward, and importing the package stays light."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import gmixout
from gmixout.data import SOURCES
from gmixout.methods import METHODS
from gmixout.results import RunFolder

PACKAGE = Path(gmixout.__file__).parent

FLOORS = [
    {"__main__"},
    {"cli"},
    {"bench"},
    {"use"},
    {"training", "reports"},
    {"results"},
    {"methods", "evaluation"},
    {"models"},
    {"regularizers"},
    {"losses"},
    {"data"},
    {"tasks"},
    {"gmixout"},
    {"core", "weightspace"},
    {"kernels", "cost_model"},
    {"draws", "files", "named", "loading", "ranks", "settings"},
    {"plain", "allowed"},
    {"errors"},
]
"""Packages and modules from the top down: each imports only from lower floors, and from itself.

The package's own names ("gmixout") stand above the modules that they come from.
"""

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

HEAVY = (
    "timm", "torchvision", "peft", "open_clip", "transformers", "triton", "accelerate", "sklearn",
    "matplotlib", "plotly", "torchmetrics", "jsonargparse", "lightning", "torch._dynamo",
)  # fmt: skip


def room_of(module: str) -> str:
    """The room of a dotted module name: its part below the package, or the package itself."""
    part = module.split(".")[1:2]
    return part[0] if part and part[0] in FLOOR else "gmixout"


def imports_of(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each module of the package that a file imports, anywhere in it."""
    here = ("gmixout", *path.relative_to(package).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*here[: -node.level], *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "gmixout":
                yield node.lineno, name


def violations(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        room = place.parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue  # the top, which shows the others' names
        if room not in FLOOR:
            found.append(f"{place}: the room {room!r} has no floor in this test")
            continue
        for line, name in imports_of(path, package):
            target = room_of(name)
            if target != room and FLOOR[target] <= FLOOR[room]:
                found.append(f"{place}:{line} imports {name}, which is not below {room!r}")
    return found


def test_imports_run_downward():
    assert violations(PACKAGE) == []


PLANTED = {
    "upward": ("core/masks.py", "from gmixout.methods import base\n"),
    "sideways": ("methods/full.py", "import gmixout.evaluation.metrics\n"),
    "data that knows a model": ("data/digits.py", "from gmixout.models import digits_vit\n"),
    "inside a function": ("kernels/products.py", "def f():\n    from gmixout.core import masks\n"),
    "relative": ("kernels/products.py", "from ..core import masks\n"),
    "relative package": ("data/base.py", "from .. import training\n"),
    "whole package": ("core/layers.py", "import gmixout\n"),
    "the package's names": ("core/layers.py", "from gmixout import attach\n"),
    "behind a type check": ("errors.py", "if False:\n    from gmixout.core import masks\n"),
    "a new room": ("attic.py", "import torch\n"),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_wrong_import_is_found(plant, tmp_path):
    file, text = PLANTED[plant]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    original = PACKAGE / file
    (tmp_path / file).write_text((original.read_text() if original.exists() else "") + text)
    assert len(violations(tmp_path)) == 1


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each string in a file that is not documentation."""
    tree = ast.parse(path.read_text(), str(path))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in documentation:
            yield node.lineno, node.value


METHODLESS = ("reports", "results", "evaluation", "training", "losses", "core", "data")
"""The rooms that work for any method; what is known of a data set is in `data` alone."""
OWN = {
    *((file, "gmixout") for file in ("core/binding.py", "results/model_file.py")),
    ("core/attach.py", "mixout"),
}
"""The package's name, and a function of core's own."""
ENGLISH = {"gmixout", "full", "csv"}
"""Names that are words of their own in a text, beside others."""


def names_known(package: Path) -> list[str]:
    """Places that know a method or a data set by name: a text, in some rooms a word in one."""
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        room = place.split("/")[0]
        names = {*METHODS} if room in METHODLESS else set()
        names |= {*SOURCES} if room != "data" else set()
        for line, text in texts_of(path):
            words = {*re.findall(r"\w+", text)} - ENGLISH if room in METHODLESS else set()
            known = names & {*words, text}
            found += [f"{place}:{line} knows {n}" for n in sorted(known) if (place, n) not in OWN]
    return found


def test_what_is_known_of_a_method_or_a_data_set_is_beside_it():
    assert names_known(PACKAGE) == []


NAMED = {
    "a method": ("reports/rows.py", 'BASE = "full"\n'),
    "the default method": ("results/curves.py", 'def f(reference="gmixout"): pass\n'),
    "a method in a table": ("evaluation/metrics.py", 'def f():\n    return {"lora": 1}["lora"]\n'),
    "a method in a message": (
        "training/loop.py",
        'raise ValueError(f"{1} is for wise_ft alone")\n',
    ),
    "a data set": ("reports/names.py", 'SOURCES = ("pacs", "mine")\n'),
    "a method in data": ("data/base.py", 'if str() == "lora": pass\n'),
    "a data set in core": ("core/layers.py", 'KIND = "imagenet"\n'),
    "a data set in bench": ("bench/task.py", 'if str() == "csv": pass\n'),
}


@pytest.mark.parametrize("plant", NAMED)
def test_a_name_that_a_room_must_not_know_is_found(plant, tmp_path):
    file, text = NAMED[plant]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text((PACKAGE / file).read_text() + text)
    assert names_known(tmp_path)


FILE_NAMES = {
    file.name
    for folder in [RunFolder(Path())]
    for file in (
        folder.config, folder.identity, folder.log.path, folder.model, folder.checkpoint,
        folder.error, *folder.report, folder.diagnosis.found, folder.run_page,
        folder.predictions, folder.other_classes, folder.tracking,
    )
}  # fmt: skip


def file_names_known(package: Path) -> list[str]:
    """Names of files of a run folder in texts outside of it; `models` has files of hubs."""
    return [
        f"{path.relative_to(package)}:{line} knows {name}"
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] != "models"
        and path.relative_to(package).as_posix() != "results/folder.py"
        for line, text in texts_of(path)
        for name in FILE_NAMES
        if name in text
    ]


def test_the_files_of_a_run_folder_are_named_in_one_place():
    assert file_names_known(PACKAGE) == []
    assert "records.jsonl" in FILE_NAMES


@pytest.mark.parametrize("text", ['X = "config.yaml"\n', 'def f(x): return f"{x}/records.jsonl"\n'])
def test_a_file_of_a_run_folder_that_is_named_elsewhere_is_found(text, tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "grid.py").write_text((PACKAGE / "bench" / "grid.py").read_text() + text)
    assert len(file_names_known(tmp_path)) == 1


def models_in_data(package: Path) -> list[str]:
    """Places in data/ that know torch's modules; `torch.nn.functional` is arithmetic on images."""
    found = []
    for path in sorted((package / "data").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            imported = [
                alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")
            ]
            module = getattr(node, "module", None)
            knows = (module == "torch" and "nn" in imported) or (
                module == "torch.nn" and imported != ["functional"]
            )
            if knows or (isinstance(node, (ast.Attribute, ast.Name)) and _name(node) == "Module"):
                found.append(f"{path.relative_to(package)}:{node.lineno}")
    return found


def _name(node: ast.Attribute | ast.Name) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id


@pytest.mark.parametrize(
    "text", ["from torch import nn\n", "import torch\nx: torch.nn.Module\n", "x = Module()\n"]
)
def test_data_knows_no_model(text, tmp_path):
    assert models_in_data(PACKAGE) == []
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "planted.py").write_text(text)
    assert len(models_in_data(tmp_path)) == 1


SHARED = {
    *("dropconnect", "greedy_soup", "high_rate_mixout", "mixout", "random_mask", "uniform_soup"),
    *("evaluate", "interpolate", "predict"),  # a command and the function that it runs
    *("load", "load_whole", "rebuild"),  # of each model library
    *("main", "write"),  # the entry point; of each form of an export
}
"""Public names that stand in two modules: what a user types is a function of the library, too."""


def public_names(package: Path) -> Counter[str]:
    """How many modules define each public name at their top level."""
    found: Counter[str] = Counter()
    for path in sorted(package.rglob("*.py")):
        names = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                names.add(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(target.id for target in targets if isinstance(target, ast.Name))
        found.update(name for name in names if not name.startswith("_"))
    return found


def test_a_public_name_means_one_thing(tmp_path):
    twice = {name for name, modules in public_names(PACKAGE).items() if modules > 1}
    assert twice == SHARED
    (tmp_path / "one.py").write_text("class Row: ...\n")
    (tmp_path / "two.py").write_text("Row: int = 1\n")
    assert public_names(tmp_path)["Row"] == 2


def test_the_head_of_a_pretrained_model_is_named_and_not_guessed():
    """`find_head` is for models of others: `attach` on any model, and what libraries load."""
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in sorted(PACKAGE.rglob("*.py"))
        if "find_head" in path.read_text()
    }
    assert users == {"core", "models"}


def fresh_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_import_loads_torch_alone_and_touches_neither_cuda_nor_the_generators():
    """What `import torch` loads by itself does not count."""
    code = (
        "import random, sys, numpy, torch\n"
        "before = random.getstate(), torch.get_rng_state(), numpy.random.get_state()[1].tolist()\n"
        "modules = set(sys.modules)\n"
        "import gmixout\n"
        "gmixout.attach\n"
        "loaded = sorted(set(sys.modules) - modules)\n"
        "assert random.getstate() == before[0]\n"
        "assert torch.equal(torch.get_rng_state(), before[1])\n"
        "assert numpy.random.get_state()[1].tolist() == before[2]\n"
        "assert not torch.cuda.is_initialized()\n"
        "print(*loaded, sep='\\n')"
    )
    loaded = fresh_python(code).splitlines()
    assert "gmixout.core.attach" in loaded
    assert [name for name in loaded if name.startswith(HEAVY)] == []


def test_importing_the_package_alone_does_not_even_load_torch():
    """Help, and words that are wrong, come at once: torch takes most of a command's start."""
    loaded = fresh_python("import sys, gmixout, gmixout.cli; print(*sys.modules, sep='\\n')")
    assert not {"torch", "numpy", *HEAVY} & {*loaded.splitlines()}


@pytest.mark.parametrize("words", [["--help"], ["data", "-h"], ["--version"], ["compar"]])
def test_what_is_said_without_a_command_does_not_load_torch(words):
    code = (
        "import sys\nfrom gmixout.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    assert fresh_python(code).splitlines()[-1] == "False"


def test_the_command_line_starts_without_what_only_some_commands_need():
    needed = {"accelerate", "jsonargparse"}
    code = (
        "import sys\nfrom gmixout.cli import main\n"
        "try: main(['compare', '--print-config'])\nexcept SystemExit: pass\n"
        "print(*sys.modules, sep='\\n')"
    )
    loaded = fresh_python(code).splitlines()
    assert needed == {name for name in HEAVY if name in loaded}


def test_rooms_below_the_bench_import_without_their_optional_libraries():
    """A machine with torch alone can use the library: the rest is imported where it is used."""
    blocked = ", ".join(f"{name!r}: None" for name in HEAVY if not name.startswith("torch."))
    code = f"import sys; sys.modules.update({{{blocked}}}); import gmixout; print('fine')"
    assert fresh_python(code) == "fine"
