"""Run folders on disk: locking and checks; `RunFolder` has the names of their files."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from gmixout.bench.code_version import git_commit, versions
from gmixout.bench.progress import say
from gmixout.bench.task import Task
from gmixout.bench.yaml_text import load_yaml
from gmixout.data import Benchmark, Source
from gmixout.data.split_table import split_table
from gmixout.errors import ConfigError, StateError
from gmixout.files import write_text
from gmixout.losses import Loss
from gmixout.methods import Method
from gmixout.named import completed, defaults_of, plain
from gmixout.plain import bounded, printable, read_json
from gmixout.regularizers import Regularizer
from gmixout.results import RunFolder
from gmixout.results.model_file import load_model
from gmixout.training import TrainingArguments, refuse_several_processes
from gmixout.training import checkpoint as checkpoints
from gmixout.training.optimizers import Optimizer

_MARK = "# A gmixout run: what was run, with every setting.\n"
"""First line of a run's config.yaml, which identifies a run folder."""
MADE_BY = "made_by"
"""Keys in `RunFolder.identity`: version and commit of the gmixout that last worked on the run."""
_ABSENT = "absent"
_LARGEST_NOTE = 2**24
"""Most bytes of a config or identity."""


@contextmanager
def run_folder(
    folder: Path,
    config: dict[str, Any],
    resume: bool,
    overwrite: bool,
    may_change: tuple[str, ...] = (),
    task: Task | None = None,
    comments: Sequence[str] = (),
    shared: bool = False,
) -> Iterator[None]:
    """Hold a folder for a run, ready for writing, with its config in it.

    Args:
        folder: The output folder.
        config: Plain values by name, for `config.yaml`.
        resume: Continue the run in the folder; start it if there is none.
        overwrite: Delete the run in the folder first (and no other files).
        may_change: Names in `config` that a resumed run may change.
        task: Benchmark and model, whose values in `config` may differ as long as `Task.identity` is
            the same: files may have moved.
        comments: Lines for the head of `config.yaml`: how its values were chosen.
        shared: Whether processes of a launcher may share the run, which this one leads.

    Raises:
        ConfigError: Both `resume` and `overwrite`, or this is one of several processes.
        StateError: The folder holds a run and neither is given, or other files; its run has another
            config, other data or other weights, or cannot be read; another process works in the
            folder; it cannot be written. Then nothing is changed.
    """
    if not shared:
        refuse_several_processes()
    _check(folder, config, resume, overwrite, may_change, task)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"cannot write {folder}: {error.strerror or error}") from error
    with at_work(folder):
        # again: another process may have been working until now
        _check(folder, config, resume, overwrite, may_change, task)
        if overwrite:
            _delete_run(folder)
        own = RunFolder(folder)
        if resume and not own.config.exists():
            say(f"{folder} holds no run to resume: starting a new one there.")
        head = "".join(f"# {printable(line)}\n" for line in comments)
        write_text(own.config, _MARK + head + yaml.safe_dump(config, sort_keys=False))
        if task is not None:
            if own.identity.exists():
                _tell_of_another_version(own)
            about = {**task.identity(), MADE_BY: _this_version()}
            write_text(own.identity, json.dumps(about, indent=1) + "\n")
            if isinstance(task.benchmark, Source) and task.benchmark.own:
                images: Benchmark[Any] = task.load().benchmark
                write_text(own.split, split_table(images, task.benchmark.root))
        yield


def _check(
    folder: Path,
    config: dict[str, Any],
    resume: bool,
    overwrite: bool,
    may_change: tuple[str, ...],
    task: Task | None,
) -> None:
    if resume and overwrite:
        raise ConfigError("--resume continues a run and --overwrite deletes it: choose one")
    if folder.exists() and not folder.is_dir():
        raise StateError(f"out={folder} is a file, not a folder; give another --out")
    present = [file for file in _files_of(folder) if file.exists()]
    if present and not _is_run(folder):
        raise StateError(
            f"{folder} holds files that are not a run of gmixout "
            f"({', '.join(file.name for file in present)}), which a run "
            "would replace; give another --out"
        )
    if present and not resume and not overwrite:
        raise StateError(
            f"{folder} already holds a run: --resume continues it, --overwrite deletes it, "
            "or give another --out"
        )
    if odd := [file for file in present if not file.is_file()]:
        raise StateError(f"{odd[0]} is not a file: move it away, or give another --out")
    if resume and present:
        _check_same_run(folder, config, may_change, task)
        RunFolder(folder).log.read()  # better to find a damaged line before hours of work


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Lock a run folder while it is written to; the system unlocks it when the process ends.

    Raises:
        StateError: Another process holds it.
    """
    lock = FileLock(RunFolder(folder).lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StateError(
            f"another gmixout process is working in {folder}; wait for it, or give another --out"
        ) from None
    except OSError as error:
        raise StateError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def is_trained(folder: Path) -> bool:
    """Return whether a run's folder holds its final model, intact, and no checkpoint.

    A damaged model is reported on stderr.
    """
    own = RunFolder(folder)
    if not own.model.exists() or checkpoints.is_there(own.checkpoint):
        return False
    try:
        load_model(folder)
    except StateError as error:
        say(f"{error} Its run is trained again.")
        return False
    return True


def read_run_config(folder: Path) -> dict[str, Any]:
    """Return the settings of the run in a folder, from its config.yaml.

    Raises:
        StateError: It cannot be read.
    """
    return _read(RunFolder(folder).config, load_yaml)


def _is_run(folder: Path) -> bool:
    try:
        return RunFolder(folder).config.read_text(encoding="utf-8").startswith(_MARK)
    except (OSError, UnicodeDecodeError):
        return False


def _check_same_run(
    folder: Path, config: dict[str, Any], may_change: tuple[str, ...], task: Task | None
) -> None:
    before = read_run_config(folder)
    differing: list[str] = []
    if task is not None:
        file = RunFolder(folder).identity
        held = _read(file, read_json) if file.exists() else {}
        now = bounded(task.identity())
        if held.get("schema") != now["schema"]:
            raise StateError(
                f"{folder} was made by a version of gmixout that identifies runs differently "
                f"(schema {held.get('schema', 1)}, now {now['schema']}): it can be evaluated and "
                "reported, but only that version can resume it. Give another --out"
            )
        differing = _differences(held, now, (MADE_BY,))
        may_change = (*may_change, *task.plain())
    differing += _differences(_completed(before), bounded(_completed(config)), may_change)
    if differing:
        raise StateError(
            f"{folder} holds another run: {'; '.join(differing)}. Resume with the same data, model "
            "and settings, or give another --out, or start over with --overwrite"
        )


def _completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings, with defaults for those that a file lacks."""
    values = {**plain(defaults_of(TrainingArguments)), **config}
    return values | {
        "method": completed(config.get("method"), Method),
        "regularizers": completed(values["regularizers"], Regularizer),
        "loss": completed(values["loss"], Loss),
        "optimizer": completed(values["optimizer"], Optimizer),
    }


def _this_version() -> dict[str, str | None]:
    return {"gmixout": versions()["gmixout"], "git": git_commit()}


def _tell_of_another_version(folder: RunFolder) -> None:
    """Print a note if other code started the run, because later values may differ."""
    before, now = _read(folder.identity, read_json).get(MADE_BY), _this_version()
    if before != now:
        old, new = (
            f"{made.get('gmixout')} at commit {made.get('git') or 'unknown'}"
            for made in (before if isinstance(before, dict) else {}, now)
        )
        say(f"note: the run in {folder.path} was made by gmixout {old}, and continues with {new}.")


def _read(file: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LARGEST_NOTE:
            raise ValueError(f"it has more than {_LARGEST_NOTE} bytes")
        found = bounded(parse(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        text = printable(str(error))[:300]
        raise StateError(f"{file} cannot be read ({text}); start over with --overwrite") from error
    if not isinstance(found, dict):
        raise StateError(f"{file} does not describe a run; start over with --overwrite")
    return found


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], but: tuple[str, ...] = ()
) -> list[str]:
    """List the values that differ, nested ones by their paths."""
    old, new = (
        _flat({name: value for name, value in values.items() if name not in but})
        for values in (before, now)
    )
    return [
        f"{name} ({old.get(name, _ABSENT)!s:.80} there, {new.get(name, _ABSENT)!s:.80} now)"
        for name in dict.fromkeys((*old, *new))
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten `{"a": {"b": 1}}` to `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {}
        flat |= inner or {prefix + key: value}
    return flat


def _delete_run(folder: Path) -> None:
    own = RunFolder(folder)
    try:
        for file in _files_of(folder):
            file.unlink(missing_ok=True)
        for inner in (own.diagnosis.path, own.trackers, *(run.path for run in own.runs)):
            if inner.is_dir():
                shutil.rmtree(inner)
    except OSError as error:
        raise StateError(f"cannot delete the run in {folder}: {error}") from error


def _files_of(folder: Path) -> list[Path]:
    """Return the files that a run may leave in its folder, the config first."""
    own = RunFolder(folder)
    checkpoint = (checkpoints.previous(own.checkpoint), own.checkpoint)
    files = [own.config, own.identity, own.split, own.log.path, own.model, own.calibration]
    files += [own.predictions, own.other_classes, own.tracking, own.run_page]
    return [*files, *checkpoint, *own.report]
