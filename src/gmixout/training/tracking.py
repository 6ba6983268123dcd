"""Experiment trackers: losses, rates and scores of a run, by the trackers of Accelerate."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import yaml
from annotated_types import Ge
from typing_extensions import TypedDict

from gmixout.errors import ConfigError, StateError
from gmixout.files import write_text
from gmixout.plain import checked, printable, read_json

TRACKERS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
}
"""The trackers by the names that users type, and the package that each needs."""
PROJECT = __name__.partition(".")[0]
"""Project or experiment of the runs in trackers that have such."""


def check_trackers(names: Sequence[str]) -> None:
    """Check before training that trackers are installed.

    Raises:
        ConfigError: One is not.
    """
    for name in names:
        if find_spec(TRACKERS[name]) is None:
            raise ConfigError(
                f"tracker={name} needs the package {TRACKERS[name]}: pip install {TRACKERS[name]}"
            )


class _Place(TypedDict):
    """Where a run stands in its trackers."""

    id: str
    """Name of the run that no other run has, for trackers that let runs choose it."""
    logged: Annotated[int, Ge(-1)]
    """Last step whose values are in the trackers."""
    is_finished: bool
    """True if the final values are in the trackers."""
    mlflow: str
    """MLflow's own name of the run; empty: none."""


class Tracking:
    """Send what happens in a run to trackers; a resumed run goes on in the same place.

    A step is sent once: where a run that was killed repeats steps, their values, which are the
    same, are not sent again. A tracker that fails is left out with a note; training goes on.

    Args:
        names: Names in `TRACKERS`; empty: nothing is sent and nothing is written.
        file: Keeps where the run stands.
        folder: Where trackers write their own files.
        title: Name of the run for people.
        settings: Plain values by name, sent at the start.
        say: Prints a note.

    Raises:
        ConfigError: A tracker is not installed or cannot start.
        StateError: The file cannot be read.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        file: Path = Path(),
        folder: Path = Path(),
        title: str = "",
        settings: Mapping[str, Any] | None = None,
        say: Any = print,
    ) -> None:
        check_trackers(names)
        self._names = tuple(dict.fromkeys(names))
        self._file, self._folder, self._title, self._say = file, folder, title, say
        self._settings = dict(settings or {})
        self._place = _Place(id=uuid4().hex[:16], logged=-1, is_finished=False, mlflow="")
        self._trackers: dict[str, Any] = {}
        self._pending: dict[str, float] = {}

    def __enter__(self) -> "Tracking":
        """Start the trackers."""
        if self._names:
            is_new = not self._file.exists()
            if not is_new:
                self._place = _read(self._file)
            try:
                for name in self._names:
                    self._start(name, is_new)
            except ConfigError:
                self.__exit__()
                raise
            self._keep()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the trackers."""
        for name in [*self._trackers]:
            self._try(name, lambda tracker: tracker.finish())
        self._trackers.clear()

    def add(self, values: Mapping[str, float]) -> None:
        """Keep values to be sent with those of the present step."""
        if self._trackers:
            self._pending |= values

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values of a step, and what was added; nothing if they were sent before.

        Args:
            step: Number of steps done.
            values: Values by name.
        """
        values, self._pending = {**self._pending, **values}, {}
        if not self._trackers or not values or step <= self._place["logged"]:
            return
        self._send(step, values)
        self._place["logged"] = step
        self._keep()

    def finish(self, step: int, values: Mapping[str, float], table: str) -> None:
        """Send the final values and a table of them, once.

        Args:
            step: Number of steps done.
            values: Values by name.
            table: The same in Markdown, for trackers that show texts.
        """
        if not self._trackers or self._place["is_finished"]:
            return
        self._send(step, {f"final/{name}": value for name, value in values.items()})
        if "tensorboard" in self._trackers:
            self._try("tensorboard", lambda tracker: _log_text(tracker, "final", table, step))
        if "wandb" in self._trackers:
            rows = [[name, value] for name, value in values.items()]
            columns = ["value of", "value"]
            self._try(
                "wandb",
                lambda tracker: tracker.log_table("final table", columns=columns, data=rows),
            )
        self._place["is_finished"] = True
        self._keep()

    def _start(self, name: str, is_new: bool) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        logged, own = self._place["logged"], self._place["id"]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if name == "tensorboard":
                # what a killed process wrote after the last step that counts is not shown
                purge = {} if is_new else {"purge_step": logged + 1}
                tracker = kind(name, self._folder, **purge)
            elif name == "wandb":
                tracker = kind(
                    PROJECT, name=self._title, id=own, resume="allow", dir=str(self._folder)
                )
            elif name == "mlflow":
                run = {"run_id": self._place["mlflow"]} if self._place["mlflow"] else {}
                tracker = kind(PROJECT, run_name=self._title, **run)
            else:
                tracker = kind(PROJECT, name=f"{self._title} {own}", resume="allow")
            tracker.start()
            if name == "mlflow":
                self._place["mlflow"] = str(tracker.tracker.info.run_id)
            if is_new and name == "tensorboard":
                text = yaml.safe_dump(self._settings, sort_keys=False)
                _log_text(tracker, "config", f"```yaml\n{text}```", 0)
            elif is_new:
                tracker.store_init_configuration(_flat(self._settings))
        except Exception as error:  # of libraries and services of any kind
            said = printable(str(error) or type(error).__name__)[:300]
            offline = "; WANDB_MODE=offline needs no account" if name == "wandb" else ""
            raise ConfigError(f"tracker={name} cannot start: {said}{offline}") from error
        self._trackers[name] = tracker

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        for name in [*self._trackers]:
            self._try(name, lambda tracker: tracker.log(dict(values), step=step))
        if "tensorboard" in self._trackers:
            self._try("tensorboard", lambda tracker: tracker.writer.flush())

    def _try(self, name: str, act: Any) -> None:
        """Let a tracker act; leave it out if it fails, as training is worth more."""
        try:
            act(self._trackers[name])
        except Exception as error:
            del self._trackers[name]
            said = printable(str(error) or type(error).__name__)[:300]
            self._say(f"tracker {name} failed and is left out from here on: {said}")

    def _keep(self) -> None:
        write_text(self._file, json.dumps(self._place) + "\n")


def _read(file: Path) -> _Place:
    try:
        if file.stat().st_size > 2**16:
            raise ValueError("it is too large")
        place: _Place = checked(read_json(file.read_bytes()), _Place)
    except (OSError, ValueError) as error:
        said = printable(str(error))[:300]
        raise StateError(
            f"{file} cannot be read ({said}): delete it, and a new run begins in the trackers"
        ) from error
    return place


def _log_text(tracker: Any, name: str, text: str, step: int) -> None:
    tracker.writer.add_text(name, text, global_step=step)
    tracker.writer.flush()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values of all trackers' kinds by their path: "method.class_path"."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, (bool, int, float, str)):
            found[f"{prefix}{name}"] = "null" if value is None else value
        else:
            found[f"{prefix}{name}"] = json.dumps(value)
    return found
