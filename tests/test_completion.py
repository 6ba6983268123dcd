"""`gmixout completion`: what a shell completes is what the commands take."""

import re
import shutil
import subprocess
import sys

import pytest
from test_help_pages import TYPED

from gmixout.bench.configs import CONFIGS
from gmixout.bench.options import options_of
from gmixout.bench.values import known, spelled
from gmixout.cli import main
from gmixout.methods import METHODS
from gmixout.training.schedules import SCHEDULES

COMPLETE = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_shtab_gmixout
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    code = "from gmixout.cli import main; main(['completion', 'bash'])"
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    file = tmp_path_factory.mktemp("completion") / "gmixout.bash"
    file.write_text(printed)
    return file


def completed(script, *words):
    end = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", str(script), "gmixout", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    return end.stdout.split()


@pytest.mark.parametrize("title", TYPED)
def test_all_options_of_a_command_complete(title, script):
    words = title.split()[1:]
    assert words[-1] in completed(script, *words[:-1], words[-1][:2])
    offered = {*completed(script, *words, "--")}
    for name, option in options_of(TYPED[title].function).items():
        flag = f"--{spelled(name)}"
        assert flag in offered or (option.is_dict and f"{flag}.NAME" in offered)
        if option.named:
            assert {*completed(script, *words, flag, "")} == {*known(option.named)}
            assert f"{flag}.help" in offered


def test_words_that_an_option_lists_complete_and_files_do_elsewhere(script, tmp_path):
    (tmp_path / "runs").mkdir()
    assert completed(script, "finetune", "--schedule", "") == [*SCHEDULES]
    assert completed(script, "finetune", "--method.help", "gmixout_") == ["gmixout_wise_ft"]
    assert "--method.mask_rate" in completed(script, "finetune", "--method.m")
    for words in (["finetune"], ["finetune", "--out"], ["report"], ["data", "check"]):
        assert completed(script, *words, f"{tmp_path}/ru") == [f"{tmp_path}/runs"]
    assert {*completed(script, "finetune", "--config", "")} >= {*CONFIGS}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_with_all_commands(shell, capsys, tmp_path):
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    for word in {*" ".join(TYPED).split(), *METHODS}:
        assert re.search(rf"\b{word}\b", printed), word
    if shutil.which(shell):
        (tmp_path / "script").write_text(printed)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_it_takes_no_options_and_names_the_shells(capsys):
    assert main(["completion", "bash", "--out", "x"]) == 2
    assert "takes no options: '--out x'" in capsys.readouterr().err
    assert main(["completion", "fsh"]) == 2
    assert "did you mean fish?" in capsys.readouterr().err
    assert main(["completion"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err
