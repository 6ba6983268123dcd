import ast
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_benchmark import install

import gmixout
from gmixout import __version__
from gmixout.allowed import own_object
from gmixout.bench.options import options_of, subject_of
from gmixout.bench.usage import config_of
from gmixout.bench.words import Reading, split
from gmixout.cli import COMMANDS, main
from gmixout.data import SOURCES
from gmixout.errors import ConfigError, StateError
from gmixout.losses import LOSSES
from gmixout.methods import METHODS, Method, get_method
from gmixout.named import spec_of
from gmixout.regularizers import REGULARIZERS
from gmixout.results import RecordLog
from gmixout.training.optimizers import OPTIMIZERS, Optimizer
from gmixout.training.schedules import SCHEDULES, LrSchedule

SOURCE = Path(gmixout.__file__).parents[1]
"""Where this very package lies, which need not be the one that is installed."""
TOY = ["finetune", "--benchmark", "toy", "--batch_size", "8", "--log_every_steps", "2"]


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    install(monkeypatch)


def run(*words: object) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.usefixtures("_no_report")
def test_the_command_of_the_readme(tmp_path):
    words = ["--method", "gmixout", "--seed", "3", "--steps", "4", "--method.mask_rate", "0.75"]
    assert run(*TOY, *words, "--out", tmp_path / "run") == 0
    (record,) = RecordLog(tmp_path / "run" / "records.jsonl").read()
    assert (record.method.name, record.seed, record.steps) == ("gmixout", 3, 4)
    assert record.method.options["mask_rate"] == 0.75
    assert record.method.options["anchor_decay"] == 0.7


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if not kind.several_runs])
def test_every_method_by_its_short_name(name, tmp_path):
    # their defaults are for larger layers and longer runs
    small = {"shira": ["--method.rank", 1], "lp_ft": ["--method.probe_steps", 1]}.get(name, [])
    assert run(*TOY, "--method", name, *small, "--steps", 2, "--out", tmp_path) == 0
    assert {r.method.name for r in RecordLog(tmp_path / "records.jsonl").read()} == {name}


@pytest.mark.usefixtures("_no_report")
def test_a_run_repeats_from_its_own_config_file(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["--method", "mixout", "--method.mask_rate", "0.5", "--steps", "4", "--lr", "3e-3"]
    assert run(*TOY, *words, "--out", first) == 0
    assert run("finetune", "--config", first / "config.yaml", "--out", second) == 0
    assert (first / "config.yaml").read_text() == (second / "config.yaml").read_text()
    models = [folder / "model.safetensors" for folder in (first, second)]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_settings_of_a_config_may_stand_below_their_parts(tmp_path, capsys):
    flat = {"benchmark": "toy", "steps": 50, "lr": 0.5, "flip": True, "optimizer": "sgd"}
    nested = {
        "benchmark": "toy",
        "steps": 50,
        "optimization": {"lr": 0.5, "optimizer": {"class_path": "sgd"}},
        "augmentation": {"flip": True},
    }
    found = []
    for config in (flat, nested):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        found.append(parsed(capsys, "finetune", "--config", tmp_path / "c.yaml"))
        assert (found[-1]["lr"], found[-1]["flip"]) == (0.5, True)
    assert found[0] == found[1] | {"optimizer": "sgd"}
    for wrong in (
        {"optimization": {"flip": True}},
        {"optimization": {"lr": 1.0}, "lr": 1.0},
        {"conduct": 3},
        {"optimization": {"stepz": 3}},
    ):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(wrong))
        assert run("finetune", "--config", tmp_path / "c.yaml", "--print-config") == 2
        assert "c.yaml: " in capsys.readouterr().err


@pytest.mark.usefixtures("_no_report")
def test_an_optimizer_of_the_users_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_optimizers.py").write_text(
        "import torch\n"
        "class Signs(torch.optim.SGD):\n"
        "    def __init__(self, params, lr, share=1.0):\n"
        "        super().__init__(params, lr * share)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["--benchmark", "toy", "--batch-size", 8, "--steps", 2, "--optimizer.share", 0.5]
    words += ["--optimizer", "my_optimizers:Signs", "--workers", 1]
    words += ["--methods", "full,gmixout", "--lrs", "1e-2"]
    assert run("compare", *words, "--out", "out") == 0, capsys.readouterr().err
    found = RecordLog(tmp_path / "out" / "records.jsonl").read()
    assert len(found) == 2
    assert run("compare", *words, "--out", "out", "--resume") == 0
    sent = pickle.dumps(Optimizer.adopted(own_object("my_optimizers:Signs"))(share=0.5))
    sys.modules.pop("my_optimizers")
    assert pickle.loads(sent).share == 0.5  # as a worker process does it
    again = ["compare", "--config", "out/config.yaml", "--out", "again", "--workers", 1]
    sys.modules.pop("my_optimizers", None)
    assert run(*again) == 2
    assert "--allow my_optimizers" in capsys.readouterr().err
    assert "my_optimizers" not in sys.modules
    assert run(*again, "--allow", "my_optimizers") == 0
    capsys.readouterr()
    assert run("finetune", "--optimizer.help", "my_optimizers:Signs") == 0
    assert "--optimizer.share" in capsys.readouterr().out


@pytest.mark.usefixtures("_no_report")
def test_words_win_over_the_config_file(tmp_path):
    config = {"benchmark": "toy", "method": "gmixout", "steps": 50, "batch_size": 4}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    words = ["finetune", "--config", tmp_path / "my.yaml", "--steps", 3, "--out", tmp_path / "run"]
    assert run(*words) == 0
    (record,) = RecordLog(tmp_path / "run" / "records.jsonl").read()
    assert (record.method.name, record.steps, record.training.batch_size) == ("gmixout", 3, 4)


def test_compare_evaluate_report(tmp_path, capsys):
    words = ["--benchmark", "toy", "--steps", "3", "--batch_size", "8"]
    words += ["--methods", "full,gmixout", "--lrs", "1e-2", "--workers", "1"]
    assert run("compare", *words, "--out", tmp_path) == 0
    found = RecordLog(tmp_path / "records.jsonl").read()
    assert [record.method.name for record in found] == ["full", "gmixout"]
    assert run("evaluate", tmp_path / "runs" / found[1].run) == 0
    assert "Equal to the recorded values" in capsys.readouterr().out
    assert run("report", tmp_path, "--reference", "gmixout(lr=1)") == 2
    assert "toy: full; gmixout" in capsys.readouterr().err
    assert run("report", tmp_path, "--reference", "gmixout") == 0
    assert run("compare", *words, "--out", tmp_path) == 2
    assert run("compare", *words, "--out", tmp_path, "--resume") == 0
    assert RecordLog(tmp_path / "records.jsonl").read() == found


@pytest.mark.usefixtures("_no_report")
def test_a_method_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_methods.py").write_text(
        "from dataclasses import dataclass\n"
        "from gmixout.methods import DenseFinetuning, Method\n"
        "@dataclass(frozen=True)\n"
        "class bias_only(Method):\n"
        "    share: float = 1.0\n"
        "    def start(self, pretrained, seed):\n"
        "        for name, parameter in pretrained.model.named_parameters():\n"
        "            parameter.requires_grad_('bias' in name)\n"
        "        return DenseFinetuning(pretrained)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "run"
    words = ["--method", "my_methods:bias_only", "--method.share", 0.5, "--steps", 2]
    assert run(*TOY, *words, "--out", out) == 0
    (record,) = RecordLog(out / "records.jsonl").read()
    assert (record.method.name, record.method.options, record.training.trainable) == (
        "bias_only",
        {"share": 0.5},
        16,
    )
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["method"]["class_path"] == "my_methods.bias_only"


WRONG = {
    "--method gmixxout": ["gmixxout", "gmixout", "wise_ft"],
    "--method gmixout --method.rate 0.5": ["rate"],
    "--method gmixout --method.mask_rate 1.5": ["mask_rate=1.5"],
    "--method gmixout --method.structure cell": ["structure", "row"],
    "--benchmark imagenot": ["imagenot", "digits"],
    "--benchmark imagenet": ["needs its folder", "--data-root"],
    "--benchmark pacss --data-root there": ["--data-root goes with", "'pacss' is none", "pacs,"],
    "--seeds 0": ["unknown option --seeds 0; did you mean --seed"],
    "--counts any": ["--counts any", "options of a data set go with its name"],
    "--stepz 3": ["--stepz 3", "did you mean --steps"],
    "--batchsize 3": ["did you mean --batch-size"],
    "--train-domian photo": ["did you mean --train-domain"],
    "--mask-rate 0.5": ["options of a method are written --method.mask_rate", "gmixout"],
    "--steps 3 4": ["--steps takes one value", "'3 4' are 2"],
    "--steps": ["--steps needs a value"],
    "--flip maybe": ["--flip 'maybe' must be True or False"],
    "--method.of.mask_rate 0.5": ["gmixout has no option of", "mask_rate"],
    "--method wise_ft --method.of mixxout": ["did you mean mixout?"],
    "--method mixout,full": ["unknown method 'mixout,full'"],
    "--benchmark imagenet --data-root D --imbalance 9": ["imagenet has none", "cifar10, cifar100"],
    "--benchmark pacs --data-root D --train-domain 3": ["train_domain", "'3'", "photo"],
    '--method {"class_path":"mixout","args":{}}': ["does not name a method and its options"],
    '--method {"class_path":"mixout","init_args":{"rate":1}}': ["mixout has no option rate"],
    "--optimizer adam": ["unknown optimizer 'adam'; did you mean adamw?"],
    "--optimizer sgd --optimizer.betas 1,2": ["sgd has no option betas", "momentum"],
    "--optimizer torch.optim.Adamm": ["torch.optim:Adamm cannot be imported"],
    "--optimizer os:getcwd": ["os:getcwd is not a class derived from"],
    "--optimizer.betas 2,3": ["optimizer adamw(betas=(2.0, 3.0)) cannot be made", "Invalid beta"],
    "--method.mask_rate": ["--method.mask_rate needs a value"],
    "--method.mask_rate many": ["--method.mask_rate 'many' must be a finite number"],
    "--resume stray": ["stray", "--resume"],
    "--steps many": ["steps", "many"],
    "--steps 0": ["steps=0", "at least 1"],
    "--lr -1": ["lr=-1.0", "0 or more"],
    "--lr nan": ["lr", "nan"],
    "--lr .nan": ["lr=nan", "finite"],
    "--batch_size 1000": ["batch_size=1000", "24"],
    "--resume --overwrite": ["choose one"],
    "--config missing.yaml": ["missing.yaml"],
    "--schedule lineer": ["unknown schedule 'lineer'; did you mean linear?"],
    "--schedule wsd --schedule.decay 2": ["wsd(decay=2.0)", "in (0, 1]"],
    "--schedule torch.optim.lr_scheduler.ReduceLROnPlateau": ["by the number of steps alone"],
    "--optimizer timm.lamp": ["timm.lamp is not available", "did you mean timm.lamb"],
    "--soup greedy --select id_validation": ["select='id_validation'", "last with --soup"],
    "--tune 1": ["--tune 1", "from 2 to 25"],
    "--tnue": ["did you mean --tune"],
    "--method lora --method.rank 0": ["lora(rank=0)", "1 or more"],
    "--benchmark toy_benchmark:net": [
        "toy_benchmark:net",
        "a Net, not a Benchmark and a Pretrained",
    ],
    "--benchmark toy_benchmark:toy": [
        "gives a Benchmark, not a Benchmark and a Pretrained: end the"
    ],
    "--benchmark nowhere:toy": ["nowhere:toy", "cannot be imported"],
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words_end_with_code_2_and_a_message(words, tmp_path, capsys):
    assert run(*TOY, "--out", tmp_path / "run", *words.split()) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in WRONG[words]), message
    assert "Traceback" not in message


def test_the_command_line_is_read_without_regular_expressions():
    package = Path(gmixout.__file__).parent
    for file in (
        "cli.py",
        *(f"bench/{name}.py" for name in ("words", "values", "options", "usage")),
    ):
        tree = ast.parse((package / file).read_text())
        names = {
            alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names
        }
        assert "re" not in names | {
            n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)
        }


def test_no_option_of_a_data_set_has_the_name_of_a_commands():
    """They are typed without a prefix, and win where a data set is named."""
    for name, command in COMMANDS.items():
        if isinstance(command, dict) or "benchmark" not in options_of(command.function):
            continue
        for source, kind in SOURCES.items():
            both = options_of(kind).keys() & options_of(command.function).keys()
            assert not both, (name, source)


def test_a_command_that_is_misspelt_or_missing(capsys):
    for words, said in {
        "compar --lr 1": "'compar' is not a command; did you mean compare?",
        "data chek pacs": "'chek' is not a command; did you mean check?",
        "data": "name a command: check",
        "--lr 1": "'--lr' is not a command: init, finetune,",
        "interpolate --a x": "--b is required",
        "evaluate": "--model is required",
        "data check pacs": "--data-root DIR",
    }.items():
        assert run(*words.split()) == 2
        told = capsys.readouterr().err
        assert said in told, words
        assert "For all options: gmixout" in told


def test_a_data_set_that_is_not_named_is_asked_for(capsys):
    assert run("data", "check") == 2
    assert "name a data set; known data sets: imagenet," in capsys.readouterr().err
    assert run("compare", "--data-root", "there") == 2
    assert "and --benchmark names none of: imagenet," in capsys.readouterr().err


def test_wrong_folders_end_with_code_2(tmp_path, capsys):
    (tmp_path / "file").touch()
    for words in (
        [*TOY, "--out", tmp_path / "file"],
        [*TOY, "--out", "/proc/gmixout"],  # nobody can write there
        ["evaluate", "--model", tmp_path],
        ["evaluate"],
        ["evaluate", "--data_root", tmp_path],
        ["report", tmp_path],
        ["interpolate", "--a", tmp_path, "--b", tmp_path],
        ["soup", "--models", f"[{tmp_path}]"],
        ["nonsense"],
    ):
        assert run(*words) == 2, words
        message = capsys.readouterr().err
        assert message.startswith("gmixout: ")
        assert "Traceback" not in message


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_end_any_command_with_their_code(number, code, monkeypatch, capsys, tmp_path):
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)]

    def stopped(*_):
        signal.raise_signal(number)

    monkeypatch.setattr(import_module("gmixout.bench.commands.evaluate"), "load_model", stopped)
    assert run("evaluate", tmp_path) == code
    assert capsys.readouterr().err == "gmixout: stopped.\n"
    monkeypatch.setattr(import_module("gmixout.bench.commands.finetune"), "print_notes", stopped)
    assert run(*TOY, "--out", tmp_path / "run") == code
    said = capsys.readouterr().err
    assert said == "gmixout: stopped; the same command with --resume continues.\n"
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == handlers


def test_what_nobody_can_mend_keeps_its_traceback_and_the_rest_has_none(
    tmp_path, monkeypatch, capsys
):
    finetune = import_module("gmixout.bench.commands.finetune")

    def fail(error):
        def print_notes(*_):
            raise error

        monkeypatch.setattr(finetune, "print_notes", print_notes)
        return run(*TOY, "--out", tmp_path / "run")

    for error in (
        OSError(28, "No space left on device"),
        MemoryError(),
        RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."),
        StateError("[/x] \x1b[31m[bold"),
    ):
        assert fail(error) == 2
        said = capsys.readouterr().err
        assert said.startswith("gmixout: ")
        assert "\x1b" not in said
    assert "[/x] \\x1b[31m[bold" in said
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError("a mistake of ours"))


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(StateError):
        run("--debug", "report", tmp_path)
    with pytest.raises(StateError):
        run("report", tmp_path, "--debug")


def test_help_and_version(capsys):
    assert run("--version") == 0
    assert __version__ in capsys.readouterr().out
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)
    assert "check: Check a data set" in " ".join(printed.split())
    for command in COMMANDS:
        assert run(command, "--help") == 0
        capsys.readouterr()
    assert run("data", "check", "--help") == 0
    printed = capsys.readouterr().out
    assert "pacs" in printed
    assert not re.search("Cifar|DomainFolders", printed)  # no data sets, but what some share
    assert run("finetune", "--method.help", "gmixout") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "--method.mask_rate" in printed
    assert "stays at the anchor" in printed
    assert "--method.seed" not in printed
    assert run("compare", "--regularizers.help", "sam") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert '--regularizers "sam(OPTION=VALUE, ...)"' in printed
    assert "rho FLOAT Size of the step away" in printed
    assert run("finetune", "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("optimization:", "augmentation:", "conduct:", "of every command:"):
        assert part in printed
    assert "--batch-size INT Images per optimizer step. (default: 32)" in printed
    assert "--flip, --no-flip Flip" in printed


def test_data_check_says_what_is_there_and_what_is_not(tmp_path, capsys):
    for part, count in (("train", 3), ("val", 2), ("shift_fog", 1)):
        for label in ("cat", "dog"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                image = np.full((8, 8, 3), 40 * number, dtype=np.uint8)
                Image.fromarray(image).save(folder / f"{number}.png")
    words = ["data", "check", "imagefolder", "--root", tmp_path]
    assert run(*words) == 0
    printed = capsys.readouterr().out
    assert re.search(r"train +6", printed)
    assert re.search(r"fog +2", printed)
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"torn")
    assert run(*words, "--decode") == 2
    assert "0.png" in capsys.readouterr().err
    assert run(*words, "--on_broken", "skip", "--decode") == 0
    assert "0.png" in capsys.readouterr().out
    assert run("data", "check", "imagefolder", "--root", tmp_path / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
    assert run("data", "check", "imagnet", "--root", tmp_path) == 2
    assert "imagenet_lt" in capsys.readouterr().err
    assert run("data") == 2
    capsys.readouterr()


def test_help_names_methods_as_people_type_them(capsys):
    for command in ("finetune", "compare", "sweep"):
        assert run(command, "--help") == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert not re.search(r"gmixout\.(methods|data)\.", printed)
        assert all(name in printed.partition("there are:")[2] for name in METHODS)
    assert run("report", "--help") == 0
    assert "gmixout report FOLDER" in capsys.readouterr().out


def values(line: str) -> dict[str, object]:
    """What a command is called with."""
    command, *words = line.split()
    function = COMMANDS[command].function
    options = options_of(function)
    with ExitStack() as trust:
        return Reading(options, trust).read(split(words, subject_of(options)))


FULL, MIXOUT = get_method("full"), get_method("mixout")
TYPED = {
    "report a b --out c": {"folders": [Path("a"), Path("b")], "out": Path("c")},
    "report a,b": {"folders": [Path("a"), Path("b")]},
    "report [a,b]": {"folders": [Path("a"), Path("b")]},
    'report ["a,b"]': {"folders": [Path("a,b")]},
    "report a:b {c ]": {"folders": [Path("a:b"), Path("{c"), Path("]")]},
    "compare --seeds=0,1 --methods all --resume": {
        "seeds": (0, 1),
        "methods": "all",
        "resume": True,
    },
    "compare --seeds 0 1, 2 --batch-size 8": {"seeds": (0, 1, 2), "batch_size": 8},
    "compare --seeds -1": {"seeds": (-1,)},
    "compare --seed 3 --lr 1e-3 --method full": {
        "seeds": (3,),
        "lrs": (1e-3,),
        "methods": [FULL],
    },
    "compare --lrs [1e-3]": {"lrs": (1e-3,)},
    "compare --methods full mixout": {"methods": [FULL, MIXOUT]},
    'compare --methods [{"class_path":"mixout","init_args":{"mask_rate":0.5}},full]': {
        "methods": [get_method("mixout", mask_rate=0.5), FULL]
    },
    "compare --methods gmixout(mask_rate=0.5,structure='column')+sam,full": {
        "methods": [get_method("gmixout(mask_rate=0.5,structure='column')+sam"), FULL]
    },
    "finetune --method gmixout+sam --regularizers mixup(concentration=0.3),sam": {
        "method": get_method("gmixout+sam"),
        "regularizers": (REGULARIZERS["mixup"](concentration=0.3), REGULARIZERS["sam"]()),
    },
    "finetune --method mixout+sam --method.mask_rate 0.5 --method.of.rescale false": {
        "method": get_method("mixout(mask_rate=0.5, rescale=False)+sam")
    },
    "finetune --loss cross_entropy --method.of.mask_rate 0.5 --method mixout+sam": {
        "loss": LOSSES["cross_entropy"](),
        "method": get_method("mixout(mask_rate=0.5)+sam"),
    },
    "finetune --optimizer sgd": {"optimizer": "sgd"},
    "finetune --optimizer muon --tune": {"optimizer": "muon", "tune": True},
    "finetune --optimizer timm.lamb(eps=1e-3) --tune 3 --fit": {
        "optimizer": OPTIMIZERS["timm.lamb"](eps=1e-3),
        "tune": 3,
        "fit": True,
    },
    "finetune --optimizer.betas 0.9,0.95 --optimizer lion --schedule wsd": {
        "optimizer": OPTIMIZERS["lion"](betas=(0.9, 0.95)),
        "schedule": "wsd",
    },
    "compare --schedule.final 0.1 --soup greedy --soup-of 3": {
        "schedule": SCHEDULES["cosine"](final=0.1),
        "soup": "greedy",
        "soup_of": 3,
    },
    "compare --schedule step(at=(0.5,),factor=0.2)": {
        "schedule": SCHEDULES["step"](at=(0.5,), factor=0.2)
    },
    "finetune --schedule torch.optim.lr_scheduler.ExponentialLR --schedule.gamma 0.9": {
        "schedule": LrSchedule.adopted(torch.optim.lr_scheduler.ExponentialLR)(gamma=0.9)
    },
    "finetune --optimizer.betas 0.9,0.95": {"optimizer": OPTIMIZERS["adamw"](betas=(0.9, 0.95))},
    "compare --optimizer.momentum 0 --optimizer sgd": {"optimizer": OPTIMIZERS["sgd"](momentum=0)},
    "finetune --optimizer torch.optim.NAdam --optimizer.betas 0.8 0.9": {
        "optimizer": Optimizer.adopted(torch.optim.NAdam)(betas=(0.8, 0.9))
    },
    "finetune --optimizer torch.optim:RMSprop --optimizer.centered": {
        "optimizer": Optimizer.adopted(torch.optim.RMSprop)(centered=True)
    },
    "compare --lrs-of.lora 3e-4,1e-3 --lrs_of.shira 1": {
        "lrs_of": {"lora": [3e-4, 1e-3], "shira": [1.0]}
    },
    "compare --lrs-of null --methods null": {"lrs_of": None, "methods": None},
    "sweep --over.mask_rate 0.5,0.9 --over.structure row": {
        "over": {"mask_rate": [0.5, 0.9], "structure": ["row"]}
    },
    'sweep --over {"mask_rate":[0.5]}': {"over": {"mask_rate": [0.5]}},
    "sweep --over.alphas [[0.5],[0.9]]": {"over": {"alphas": [[0.5], [0.9]]}},
    "finetune --out x:y --head random --model 12": {
        "out": Path("x:y"),
        "head": "random",
        "model": "12",
    },
    "finetune --model efficientnet_lite0 --image-size 128": {
        "model": "efficientnet_lite0",
        "image_size": 128,
    },
    "finetune --image-size null": {"image_size": None},
    "finetune --flip --no-freeze-batch-norm --head-lr null": {
        "flip": True,
        "freeze_batch_norm": False,
        "head_lr": None,
    },
    "finetune --model null --head null --mixed-precision no --schedule constant": {
        "model": None,
        "head": None,
        "mixed_precision": "no",
        "schedule": "constant",
    },
    "finetune --flip false": {"flip": False},
    "finetune --lr 1 --method wise_ft --method.of.mask_rate 0.5 --method.of gmixout": {
        "lr": 1.0,
        "method": get_method("wise_ft", of=get_method("gmixout", mask_rate=0.5)),
    },
    "finetune --method.of.mask-rate 0.5 --method gmixout_wise_ft --method.alphas 0.2 0.4": {
        "method": get_method(
            "gmixout_wise_ft", of=get_method("gmixout", mask_rate=0.5), alphas=(0.2, 0.4)
        )
    },
    "finetune --data-root D --benchmark cifar10 --shifts [] --imbalance 100": {
        "benchmark": SOURCES["cifar10"](Path("D"), shifts=(), imbalance=100.0)
    },
    "finetune --benchmark cifar10 --shift 10.1 --benchmark.root D": {
        "benchmark": SOURCES["cifar10"](Path("D"), shifts=("10.1",))
    },
    "evaluate RUN --data-root null": {"model": Path("RUN"), "data_root": None},
    "evaluate RUN --data-root D": {"model": Path("RUN"), "data_root": Path("D")},
    "evaluate RUN --data-root D --benchmark imagenet": {
        "model": Path("RUN"),
        "benchmark": SOURCES["imagenet"](Path("D")),
    },
}


@pytest.mark.parametrize("line", TYPED)
def test_what_people_type_is_what_the_command_gets(line):
    found = values(line)
    assert found == TYPED[line]
    assert [*map(type, found.values())] == [type(TYPED[line][name]) for name in found]


_NAMES = [
    "method",
    "methods",
    "benchmark",
    "benchmark.root",
    "data-root",
    "method.of",
    "lrs",
    "seed",
    "method.mask_rate",
    "flip",
    "optimizer",
    "optimizer.betas",
    "regularizers",
    "loss",
    "over",
    "over.a",
    "lrs-of.full",
    "no-flip",
    "no-steps",
    "head",
    "out",
    "config",
    "train-domain",
    "x.y",
    "method.of.of.mask_rate",
    "models",
    "folders",
    "decode",
    ".",
    "method.",
    "a+b",
]
_VALUES = [
    "gmixout",
    "gmixout+sam",
    "gmixout(mask_rate=0.5)",
    "(",
    "+",
    "a+",
    "full,",
    ",",
    "[",
    "]",
    "[]",
    "[[1]]",
    "{",
    "{}",
    "{a:1}",
    "null",
    ":",
    "all",
    "os:getcwd",
    "os.path:",
    "gmixout.x",
    "pacs",
    "1e400",
    "0x1",
    "nan",
    "-1",
    "*a",
    "&a",
    "!!python/name:os.system",
    "=",
    "domainnet_clip",
    "torch.optim.NAdam",
    "sgd",
    '{"class_path":3}',
    '{"class_path":"full"}',
    '{"class_path":"wise_ft","init_args":{"of":{"class_path":"swa","init_args":3}}}',
]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from([name for name, each in COMMANDS.items() if not isinstance(each, dict)]),
    st.lists(
        st.one_of(
            st.sampled_from([f"--{name}" for name in _NAMES]),
            st.sampled_from(_VALUES),
            st.text(alphabet="-=.,:[]{}()+'\"& *!%#@0aé\0\ud800", max_size=8),
        ),
        max_size=6,
    ),
)
def test_whatever_is_typed_is_read_or_refused(command, words):
    options = options_of(COMMANDS[command].function)
    with ExitStack() as trust, suppress(ConfigError):
        found = Reading(options, trust).read(split(words, subject_of(options)))
        assert found.keys() <= options.keys()
        assert config_of(options, found)


def test_names_of_files_keep_their_commas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "c, d: [e]"):
        (tmp_path / name).mkdir()
    function = COMMANDS["report"].function
    with ExitStack() as trust:
        given = split(["a,b", "c, d: [e]", "x,y"], "folders")
        found = Reading(options_of(function), trust).read(given)
    assert found == {"folders": [Path("a,b"), Path("c, d: [e]"), Path("x"), Path("y")]}


def parsed(capsys, *words: object) -> dict[str, object]:
    assert run(*words, "--print_config") == 0
    return yaml.safe_load(capsys.readouterr().out)


def method_of(config: dict[str, object]) -> Method:
    """The method that a printed config stands for."""

    def made(value):
        if isinstance(value, dict):
            options = {name: made(each) for name, each in value.get("init_args", {}).items()}
            return METHODS[value["class_path"].rpartition(".")[2]](**options)
        return tuple(value) if isinstance(value, list) else value

    return made(config["method"])


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_its_own_defaults_whatever_stood_there_before(name, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    before = get_method("gmixout", mask_rate=0.25, structure="column", resample_every=3)
    config.write_text(yaml.safe_dump({"method": spec_of(before)}))
    named = tmp_path / "named.yaml"
    named.write_text(yaml.safe_dump({"method": name}))
    for words in (["--method", name], ["--config", config, "--method", name], ["--config", named]):
        assert method_of(parsed(capsys, "finetune", *words)) == get_method(name), words
    assert method_of(parsed(capsys, "sweep", "--method", name)) == get_method(name)


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("name", ["flip", "freeze-batch-norm"])
def test_booleans_are_switched_on_and_off(name, value, capsys):
    with pytest.raises(SystemExit) as end:
        main(["finetune", f"--{name}" if value else f"--no-{name}", "--print_config"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f"{name.replace('-', '_')}: {str(value).lower()}\n" in printed


def test_options_of_methods_reach_them(capsys):
    cases = {
        "--method.mask_rate 0.25": get_method("gmixout", mask_rate=0.25),
        "--method mixout --method.mask_rate 0.25": get_method("mixout", mask_rate=0.25),
        "--method wise_ft --method.alphas 0.5": get_method("wise_ft", alphas=(0.5,)),
        "--method=wise_ft --method.of mixout": get_method("wise_ft", of=get_method("mixout")),
        "--method gmixout_wise_ft --method.of random_mask --method.of.mask_rate 0.5": get_method(
            "gmixout_wise_ft", of=get_method("random_mask", mask_rate=0.5)
        ),
    }
    for words, method in cases.items():
        assert method_of(parsed(capsys, "finetune", *words.split())) == method, words


@pytest.mark.usefixtures("_no_report")
def test_sweep_over_options_on_the_command_line(tmp_path):
    words = ["--benchmark", "toy", "--steps", 2, "--batch_size", 8, "--lrs", "1e-2"]
    words += ["--over.mask_rate", "0.5,0.75", "--over.structure", "row,element", "--workers", 1]
    assert run("sweep", *words, "--out", tmp_path) == 0
    found = RecordLog(tmp_path / "records.jsonl").read()
    assert [(r.method.options["mask_rate"], r.method.options["structure"]) for r in found] == [
        *((rate, structure) for rate in (0.5, 0.75) for structure in ("row", "element"))
    ]


def start(*words: object, seconds_an_image: float) -> subprocess.Popen[bytes]:
    code = "import sys, toy_benchmark; toy_benchmark.register(); from gmixout.cli import main; "
    return subprocess.Popen(
        [sys.executable, "-c", f"{code} sys.exit(main())", *map(str, words)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parent, SOURCE))),
            "TOY_SECONDS_AN_IMAGE": str(seconds_an_image),
        },
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # whoever runs the tests in the background lets them ignore Ctrl-C, which is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300  # a process with all its imports may have a small part of a core
    while not condition():
        if time.monotonic() > end:
            process.kill()
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(sign, tmp_path):
    words = [*TOY, "--method", "gmixout", "--steps", 100, "--checkpoint_every_steps", 10]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    process = start(*words, "--out", stopped, seconds_an_image=0.005)
    wait_for((stopped / "checkpoint.pt").exists, process)
    process.send_signal(sign)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == (-9 if sign is signal.SIGKILL else 130)
    if sign is signal.SIGINT:
        assert b"--resume" in stderr
        assert b"Traceback" not in stderr
    assert not (stopped / "model.safetensors").exists()
    assert run("evaluate", "--model", stopped) == 2
    assert run(*words, "--out", stopped) == 2
    assert run(*words, "--out", stopped, "--resume") == 0
    assert run(*words, "--out", whole) == 0
    models = [folder / "model.safetensors" for folder in (stopped, whole)]
    assert models[0].read_bytes() == models[1].read_bytes()


def figures(folder: Path) -> list[tuple[object, ...]]:
    """What a comparison found, whatever the order and the clock."""
    found = RecordLog(folder / "records.jsonl").read()
    return sorted((*map(str, record.model), str(record.of("accuracy"))) for record in found)


@pytest.mark.long
@pytest.mark.usefixtures("_no_report")
def test_a_comparison_in_two_processes_stopped_twice_ends_with_the_same_records(tmp_path):
    words = [
        "compare",
        "--benchmark",
        "toy_benchmark:toy_task",
        "--methods",
        "full,gmixout,uniform_soup",
    ]
    words += ["--lrs", "1e-3,1e-2", "--seeds", "0,1", "--steps", 20, "--batch_size", 8]
    words += ["--checkpoint_every_steps", 4, "--log_every_steps", 2]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    log = RecordLog(stopped / "records.jsonl")
    before, resume = [], []
    for sign in (signal.SIGINT, signal.SIGKILL):
        process = start(*words, "--workers", 2, "--out", stopped, *resume, seconds_an_image=0.002)
        wait_for(lambda known=before: len(log.read()) > len(known), process)
        process.send_signal(sign)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == (-9 if sign is signal.SIGKILL else 130), stderr
        assert sign is signal.SIGKILL or b"--resume continues" in stderr
        assert b"Traceback" not in stderr
        found, resume = log.read(), ["--resume"]
        assert found[: len(before)] == before
        before = found
    assert run(*words, "--workers", 1, "--out", stopped, "--resume") == 0
    assert log.read()[: len(before)] == before
    assert run(*words, "--workers", 1, "--out", whole) == 0
    assert figures(stopped) == figures(whole)
    assert len(figures(whole)) == 2 * (2 + 2 + 1)


@pytest.mark.parametrize("flags", [[], ["--overwrite"], ["--resume"]])
def test_files_of_somebody_else_stay(flags, tmp_path, capsys):
    theirs = {"config.yaml": "a: 1\n", "model.safetensors": "weights", "notes.txt": "mine"}
    for name, text in theirs.items():
        (tmp_path / name).write_text(text)
    assert run(*TOY, "--steps", 2, "--out", tmp_path, *flags) == 2
    assert "not a run of gmixout" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == theirs


@pytest.mark.usefixtures("_no_report")
def test_a_run_that_cannot_be_leaves_the_one_it_would_overwrite(tmp_path, capsys):
    assert run(*TOY, "--steps", 2, "--out", tmp_path) == 0
    before = (tmp_path / "model.safetensors").read_bytes()
    assert run(*TOY, "--batch_size", 10**6, "--out", tmp_path, "--overwrite") == 2
    assert "batch_size" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert run(*TOY, "--steps", 3, "--out", tmp_path, "--overwrite") == 0


@pytest.mark.parametrize("missing", ["yaml", "jsonargparse", "accelerate", "docstring_parser"])
def test_without_its_libraries_the_command_says_what_to_install(missing, tmp_path):
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError(name={missing!r})")
    own = ["finetune", "--optimizer.help", "torch.optim.NAdam"]  # its help is not stored
    words = own if missing == "docstring_parser" else ["doctor"]
    end = subprocess.run(
        [sys.executable, "-m", "gmixout", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, SOURCE)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert end.returncode == 2
    assert f"{missing}; pip install 'gmixout[all]'" in end.stderr
    assert "Traceback" not in end.stderr
