"""Whatever a file names, a command that reads it imports and calls nothing of it."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from toy_benchmark import install

import gmixout
from gmixout.allowed import NotAllowedError, allowing
from gmixout.bench import task as task_module
from gmixout.bench.commands.diagnose import find_run
from gmixout.cli import main
from gmixout.data import Source
from gmixout.errors import ConfigError
from gmixout.methods import Method
from gmixout.named import from_spec

PLANTED = """
open({mark!r}, "a").write("imported")
from dataclasses import dataclass
from gmixout.methods import DenseFinetuning, Method
from gmixout.data import Source
@dataclass(frozen=True)
class Right(Method):
    def __post_init__(self): open({mark!r}, "a").write("made")
    def start(self, pretrained, seed): return DenseFinetuning(pretrained)
class Wrong:
    def __init__(self, *args, **options): open({mark!r}, "a").write("made")
def go(*args, **options): open({mark!r}, "a").write("called")
"""

MARK = "MARK"
"""Stands for the path of the file that code which runs would leave."""


def spec(path, **options):
    return {"class_path": path, "init_args": options}


NAMES = {
    "right base": "planted.Right",
    "right base, colon": "planted:Right",
    "wrong base": "planted.Wrong",
    "beside": "full+planted.Right",
    "with options": "planted.Right(x=1)",
    "function": "planted.go",
    "package": "planted_package.module.Right",
    "nested class": "planted:Wrong.Inner",
    "command": spec("subprocess.Popen", args=["touch", MARK]),
    "loaded function": spec("os.system", command=f"touch {MARK}"),
    "builtin": spec("builtins.open", file=MARK, mode="w"),
    "through a module of ours": spec("gmixout.files.os.system", command=f"touch {MARK}"),
    "through the table's file": spec("gmixout.methods.masking.partial", func="planted.go"),
    "import": spec("importlib.import_module", name="planted"),
    "reader": spec("pathlib.Path", MARK=1),
    "nested": spec("wise_ft", of=spec("planted.Right")),
    "nested twice": spec("wise_ft", of=spec("wise_ft", of=spec("subprocess.Popen", args=["x"]))),
    "nested among data": spec("imagefolder", root=".", on_broken=spec("os.system", command="x")),
    "nested in a list": spec("wise_ft", alphas=[spec("subprocess.Popen", args=["touch", MARK])]),
    "no name": spec(["planted", "Right"]),
    "number": spec(3),
    "empty": spec(""),
    "dots": spec("..planted.Right"),
    "path": spec("../planted.Right"),
    "dunder": spec("planted.Right.__init__.__globals__"),
}
CORE = ["right base", "command", "nested"]
"""Those that are tried in every place; all are tried in one place of each kind."""
SMALL = ["--steps", "2", "--batch-size", "8"]
FUNCTIONS = {
    "own": "planted:go",
    "package": "planted_package.module:go",
    "standard library": "ctypes.util:test",
    "attribute of a module": "os:getcwd",
    "through a module": "planted:sys.exit",
    "spaces": " planted:go",
}


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """The file that code leaves which lies in the working directory and runs."""
    install(monkeypatch)
    mark = tmp_path / "mark"
    (tmp_path / "planted_package").mkdir()
    for name in ("planted", "planted_package/__init__", "planted_package/module", "requests"):
        (tmp_path / f"{name}.py").write_text(PLANTED.format(mark=str(mark)))
    monkeypatch.chdir(tmp_path)
    yield mark
    for name in ("planted", "planted_package", "planted_package.module", "mine"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        patch.setattr(
            import_module("gmixout.bench.commands.report"), "write_report", lambda *_, **__: []
        )
        out = tmp_path_factory.mktemp("run") / "run"
        words = ["--method", "wise_ft", "--steps", "2", "--batch-size", "8", "--out", str(out)]
        assert main(["finetune", "--benchmark", "toy", *words]) == 0
    task_module._load.cache_clear()
    return out


def filled(value, mark):
    return json.loads(json.dumps(value).replace(MARK, str(mark)))


def refused(mark, capsys, *words):
    """Runs a command and checks that it ends in a plain error, without any code of a file."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as end:
        code = end.code
    told = capsys.readouterr().err
    assert code == 2, told
    assert told.startswith("gmixout: ")
    assert "Traceback" not in told
    untouched(mark)
    return told


def untouched(mark):
    assert not mark.exists(), mark.read_text()
    assert not {"planted", "planted_package", "requests"} & sys.modules.keys()
    assert os.getcwd() not in sys.path


def in_config(folder, **values):
    """Changes the settings in the config of a run."""
    file = folder / "config.yaml"
    first, _, rest = file.read_text().partition("\n")
    file.write_text(f"{first}\n{yaml.safe_dump({**yaml.safe_load(rest), **values})}")


def in_model(folder, **values):
    """Changes what the model file of a run says of itself."""
    file = folder / "model.safetensors"
    with safe_open(file, "pt") as opened:
        about = json.loads(opened.metadata()["gmixout"])
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file(state, file, metadata={"gmixout": json.dumps({**about, **values})})


CONFIGS = {
    "finetune method": lambda value: (["finetune"], {"method": value}),
    "finetune benchmark": lambda value: (["finetune"], {"benchmark": value}),
    "compare": lambda value: (["compare"], {"methods": ["full", value]}),
    "compare one": lambda value: (["compare"], {"methods": value}),
    "sweep": lambda value: (["sweep"], {"method": value}),
    "loss": lambda value: (["finetune"], {"loss": value}),
    "regularizers": lambda value: (["compare"], {"regularizers": ["sam", value]}),
    "optimizer": lambda value: (["finetune"], {"optimizer": value}),
    "optimizer in its part": lambda value: (["compare"], {"optimization": {"optimizer": value}}),
    "sweep over": lambda value: (["sweep"], {"over": {"mask_rate": [value]}}),
    "evaluate": lambda value: (["evaluate", "RUN"], {"benchmark": value}),
    "data check": lambda value: (["data", "check"], {"source": value}),
    "soup": lambda value: (["soup"], {"models": [value]}),
    "report": lambda value: (["report", "RUN"], {"reference": value}),
}


@pytest.mark.parametrize(
    ("place", "name"),
    [(p, n) for p in CONFIGS for n in NAMES if n in CORE or p == "compare"],
)
def test_a_config_file_runs_nothing(place, name, mark, run_folder, capsys):
    words, config = CONFIGS[place](filled(NAMES[name], mark))
    Path("c.yaml").write_text(yaml.safe_dump(config))
    words = [str(run_folder) if word == "RUN" else word for word in words]
    refused(mark, capsys, *words, "--config", "c.yaml")


@pytest.mark.parametrize("name", [*CORE, "right base, colon", "nested class", "loaded function"])
def test_a_file_as_the_value_of_an_option_runs_nothing(name, mark, capsys):
    Path("planted.yaml").write_text(yaml.safe_dump(filled(NAMES[name], mark)))
    Path("c.yaml").write_text("method: planted.yaml\n")
    Path("d.yaml").write_text("config: c.yaml\n")
    refused(mark, capsys, "finetune", "--benchmark", "planted.yaml")
    refused(mark, capsys, "finetune", "--config", "c.yaml")
    if name in CORE:
        refused(mark, capsys, "finetune", "--method", "planted.yaml")
        refused(mark, capsys, "data", "check", "planted.yaml")
        refused(mark, capsys, "finetune", "--config", "d.yaml", "--print_config")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_a_file_names_is_not_called(name, mark, run_folder, tmp_path, capsys):
    function = FUNCTIONS[name]
    Path("c.yaml").write_text(yaml.safe_dump({"benchmark": function}))
    refused(mark, capsys, "finetune", "--config", "c.yaml")
    refused(mark, capsys, "compare", "--config", "c.yaml")
    copy = shutil.copytree(run_folder, tmp_path / "copy")
    in_config(copy, benchmark=function)
    refused(mark, capsys, "diagnose", copy)
    in_model(copy, task={"benchmark": function, "model": None})
    for words in (["evaluate", copy], ["soup", copy], ["interpolate", "--a", copy, "--b", copy]):
        refused(mark, capsys, *words)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_file_runs_nothing(name, mark, run_folder, tmp_path, capsys):
    value = filled(NAMES[name], mark)
    copy = shutil.copytree(run_folder, tmp_path / "copy")
    for task in ({"benchmark": value}, {"benchmark": spec("imagefolder", root=value)}, [value]):
        in_model(copy, task=task)
        refused(mark, capsys, "evaluate", copy)
        refused(mark, capsys, "calibrate", copy)
        refused(mark, capsys, "export", copy, "--to", "onnx", "--out", "x.onnx")
        if name in CORE:
            refused(mark, capsys, "evaluate", copy / "model.safetensors")
            refused(mark, capsys, "soup", copy, copy)
            refused(mark, capsys, "interpolate", "--a", copy, "--b", copy)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_folder_runs_nothing(name, mark, run_folder, tmp_path, capsys):
    value = filled(NAMES[name], mark)
    places = [{"benchmark": value}, {"methods": [value, "full"]}, {"method": value}]
    for where in places if name in CORE else places[:2]:
        copy = shutil.copytree(run_folder, tmp_path / "copy")
        in_config(copy, **where)
        if "benchmark" not in where:  # so that no method fits
            in_model(copy, run="0" * 12, method="planted.Right", options={"args": ["x"]})
        refused(mark, capsys, "diagnose", copy)
        if "method" in where and name in CORE:
            own = ["--benchmark", "toy", "--method", "wise_ft", *SMALL, "--out", copy]
            refused(mark, capsys, "finetune", *own, "--resume")
            refused(mark, capsys, "finetune", "--config", copy / "config.yaml")
        shutil.rmtree(copy)


@pytest.mark.parametrize("place", CONFIGS)
def test_even_what_could_be_imported_is_not(place, mark, run_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "site").mkdir()
    for name in ("planted.py", "planted_package"):
        (tmp_path / name).rename(tmp_path / "site" / name)
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in ("right base", "nested", "package"):
        words, config = CONFIGS[place](NAMES[name])
        Path("c.yaml").write_text(yaml.safe_dump(config))
        words = [str(run_folder) if word == "RUN" else word for word in words]
        refused(mark, capsys, *words, "--config", "c.yaml")


def test_every_command_that_reads_a_config_is_tried():
    from gmixout.cli import COMMANDS

    tried = {tuple(w for w in make("x")[0] if w != "RUN") for make in CONFIGS.values()}
    # have no option with a class
    no_code = {
        (name,)
        for name in (
            "init",
            "interpolate",
            "diagnose",
            "doctor",
            "predict",
            "calibrate",
            "export",
        )
    } | {("completion", "bash", "zsh", "fish")}
    commands = {(name,) if callable(each) else (name, *each) for name, each in COMMANDS.items()}
    assert commands == tried | no_code


def test_the_working_directory_is_not_on_the_path_of_python_m(mark):
    """One process; what is planted is what libraries try to import, and their own modules."""
    names = ("requests", "torch", "numpy", "onnx", "pandas", "IPython", "tabulate", "brotli")
    for name in names:
        Path(f"{name}.py").write_text(
            f"open({str(mark)!r}, 'a').write({name!r})\nraise ImportError"
        )
    words = ["data", "check", "imagefolder", "--root", "."]
    done = subprocess.run(
        [sys.executable, "-m", "gmixout", *words],
        env={**os.environ, "PYTHONPATH": str(Path(gmixout.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("gmixout: imagefolder at ."), done.stderr
    assert not mark.exists(), mark.read_text()


OWN = """
from dataclasses import dataclass
from functools import partial
import helper
from gmixout.methods import DenseFinetuning, Method
from toy_benchmark import toy_task
@dataclass(frozen=True)
class bias_only(Method):
    share: float = 1.0
    def start(self, pretrained, seed):
        return DenseFinetuning(pretrained, select=lambda name: "bias" in name)
class Inner:
    @dataclass(frozen=True)
    class deeper(bias_only):
        pass
def make():
    return toy_task()
OWN = 3
small = partial(toy_task)
def number() -> int:
    raise AssertionError("called")
def needing(size):
    raise AssertionError("called")
"""


@pytest.fixture
def own(mark, tmp_path, monkeypatch):
    """A module of the user's own in the working directory."""
    monkeypatch.setattr(
        import_module("gmixout.bench.commands.report"), "write_report", lambda *_, **__: []
    )
    Path("mine.py").write_text(OWN)
    Path("helper.py").touch()
    yield
    for name in ("mine", "helper"):
        sys.modules.pop(name, None)
    assert os.getcwd() not in sys.path
    assert not mark.exists()


def run(*words):
    sys.modules.pop("mine", None)
    sys.modules.pop("helper", None)
    task_module._load.cache_clear()
    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return end.code


TYPED = {
    "class": ["--benchmark", "toy", "--method", "mine:bias_only", "--method.share", "0.5"],
    "dotted": ["--benchmark", "toy", "--method", "mine.bias_only"],
    "function": ["--benchmark", "mine:make", "--method", "full"],
    "nested option": ["--benchmark", "toy", "--method", "wise_ft", "--method.of", "mine:bias_only"],
    "nested JSON": [
        *("--benchmark", "toy", "--method", "wise_ft"),
        *("--method.of", '{"class_path": "mine.bias_only"}'),
    ],
    "partial": ["--benchmark", "mine:small", "--method", "full"],
    "JSON": ["--benchmark", "toy", "--method", '{"class_path": "mine.bias_only"}'],
}


@pytest.mark.parametrize("typed", TYPED)
@pytest.mark.usefixtures("own")
def test_what_is_typed_is_trusted_and_what_a_file_names_is_once_it_is_allowed(typed, capsys):
    assert run("finetune", *TYPED[typed], *SMALL, "--out", "out") == 0
    again = ["finetune", "--config", "out/config.yaml", "--out", "again"]
    assert run(*again) == 2
    assert "mine" not in sys.modules
    assert "--allow mine" in capsys.readouterr().err
    assert run(*again, "--allow", "other_module") == 2
    assert run(*again, "--allow", "mine:small" if typed == "partial" else "mine") == 0
    assert run("diagnose", "out", "--members", "1", "--repeats", "1") == 2
    assert "--allow mine" in capsys.readouterr().err
    assert "mine" not in sys.modules
    if typed == "function":
        assert run("evaluate", "out") == 2
        assert run("evaluate", "out", "--allow=mine:make") == 0
    if typed == "class":
        assert run("finetune", *TYPED[typed], *SMALL, "--out", "out", "--resume") == 0
        with allowing(["mine"]):
            assert str(find_run(Path("out")).method) == "bias_only(share=0.5)"
        capsys.readouterr()
        assert run("finetune", "--method.help", "mine:bias_only") == 0
        assert "--method.share" in capsys.readouterr().out


WRONG = {
    "finetune --method mine:make": "mine:make is not a class derived from gmixout.methods",
    "finetune --method mine:Inner": "is not a class derived from",
    "finetune --method os:getcwd": "is not a class derived from",
    "compare --methods full,mine:Inner": "is not a class derived from",
    "data check mine:bias_only": "is not a class derived from gmixout.data",
    "finetune --method mine:nothing": "mine:nothing cannot be imported",
    "finetune --method nowhere:nothing": "nowhere:nothing cannot be imported",
    "finetune --allow": "--allow takes your own modules",
    "finetune --allow nowhere": "nowhere cannot be imported",
    "finetune --allow ../mine.py": "neither a module nor module:Name",
    "finetune --config int.yaml --allow mine": "return <class 'int'>, not a Benchmark",
    "finetune --config args.yaml --allow mine": "not a function without arguments",
    "finetune --config taken.yaml --allow mine": "--allow mine:helper.os",
    "finetune --config other.yaml --allow mine:make": "--allow mine",
}


@pytest.mark.parametrize("words", WRONG)
@pytest.mark.usefixtures("own")
def test_own_code_is_checked_before_it_is_called(words, capsys):
    Path("helper.py").write_text("import os")
    for name, benchmark in (
        ("int", "mine:number"),
        ("args", "mine:needing"),
        ("taken", "mine:helper.os.getcwd"),
        ("other", "mine:number"),
    ):
        Path(f"{name}.yaml").write_text(f"benchmark: {benchmark}\n")
    assert run(*words.split()) == 2
    assert WRONG[words] in capsys.readouterr().err


@pytest.mark.usefixtures("own")
def test_a_nested_class_and_a_submodule_are_allowed_with_their_module(tmp_path):
    (tmp_path / "lib" / "deep").mkdir(parents=True)
    (tmp_path / "lib" / "deep" / "er.py").write_text(OWN)
    with allowing(["lib", "mine:Inner.deeper"]):
        deeper = from_spec("mine:Inner.deeper", Method)
        assert from_spec("lib.deep.er.bias_only", Method).name == "bias_only"
        with pytest.raises(NotAllowedError, match="--allow mine"):
            from_spec("mine:bias_only", Method)
        with pytest.raises(ConfigError, match=r"not a class derived from gmixout\.data"):
            from_spec("mine:Inner.deeper", Source)
        for other in ("make", "number", "OWN", "Inner", "dataclass"):
            with pytest.raises(ConfigError, match=r"not a class|comes from dataclasses"):
                from_spec(f"lib.deep.er:{other}", Method)
        with pytest.raises(NotAllowedError, match="--allow libs"):
            from_spec("libs.bias_only", Method)
    with pytest.raises(NotAllowedError, match="--allow mine"):
        from_spec("mine:Inner.deeper", Method)
    content = pickle.dumps(deeper)
    sys.modules.pop("mine")
    assert str(pickle.loads(content)) == str(deeper)  # as a worker process does it
    for name in [name for name in sys.modules if name.split(".")[0] == "lib"]:
        del sys.modules[name]
