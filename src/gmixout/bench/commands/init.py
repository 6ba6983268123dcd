"""`gmixout init`: a config file for a user's data and model."""

import shlex
from pathlib import Path

import yaml

from gmixout.bench.choices import ChosenSettings, choose_settings
from gmixout.bench.commands.finetune import finetune
from gmixout.bench.config_file import config_text
from gmixout.bench.progress import print_lines, say
from gmixout.bench.task import Task
from gmixout.bench.yaml_text import load_yaml
from gmixout.data import Inventory, Source
from gmixout.errors import ConfigError, StateError
from gmixout.files import write_text
from gmixout.methods import DEFAULT_METHOD, Method, get_method


def init(
    benchmark: Source | str = "digits",
    model: str | None = None,
    method: Method | None = None,
    out: Path = Path("gmixout.yaml"),
    overwrite: bool = False,
) -> None:
    """Write a commented config file for your images and model, for `gmixout finetune --config`.

    It says what was understood of the data, the settings that suit model and data with their
    sources, and all other options at their defaults. Any line can be removed or changed.

    Args:
        benchmark: `gmixout init DIR`, a folder or table of your own, which is recognized; or
            digits, your own `module:function`, or a data set, as in `gmixout finetune`.
        model: Pretrained model for a data set, as in `gmixout finetune`. Without it, settings are
            chosen when a run starts.
        method: The finetuning method, by default gmixout, or your own `module:Class`; its options
            follow as `--method.NAME VALUE`.
        out: The file to write.
        overwrite: Replace the file if it exists.

    Raises:
        GmixoutError: The data or the model cannot be loaded, or the file exists.
    """
    if out.exists() and not overwrite:
        raise StateError(f"{out} exists: --overwrite replaces it, or give another --out")
    method = method or get_method(DEFAULT_METHOD)
    if method.several_runs:
        raise ConfigError(
            f"method {method.name} makes one model from several runs, and finetune trains one: "
            "leave out --method, or choose another"
        )
    task = Task(benchmark, model)
    chosen, inventory = _understood(task, method)
    content = [inventory.title, *inventory.table(grouped=True)] if inventory else []
    content += [f"  note: {note}" for note in inventory.notes] if inventory else []
    use = f"gmixout finetune --config {shlex.quote(str(out))}"
    head = (
        f"Settings for a run: {use}, where options of the command line win.",
        "Without a line its setting is chosen when the run starts, as it was chosen here. Options "
        "at their defaults are commented out: remove the # to change one.",
    )
    text = config_text(finetune, head, task, method, chosen, content)
    try:
        load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"a config file cannot hold these settings: {error!s:.300}") from error
    print_lines(content)
    write_text(out, text)
    needed = "" if model or not isinstance(benchmark, Source) else " --model NAME"
    say(f"Written to {out}. Next: {use}{needed}")


def _understood(task: Task, method: Method) -> tuple[ChosenSettings | None, Inventory | None]:
    """Return the settings for a task, as far as they can be known, and its content."""
    if not isinstance(task.benchmark, Source):
        return choose_settings(task, {}, method), None
    if task.model is None:
        return None, task.benchmark.check()
    return choose_settings(task, {}, method), task.load().inventory
