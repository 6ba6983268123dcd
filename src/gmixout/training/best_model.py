"""The best model of a run on in-domain validation, and early stopping."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from gmixout.errors import StateError
from gmixout.training.arguments import TrainingArguments
from gmixout.training.checkpoint import check_form
from gmixout.weightspace import State


class BestModel:
    """Keep the best model of a run. Of equal ones the first counts.

    Args:
        arguments: When to validate, and when to stop.
        validate: Returns the official metric of weights on in-domain validation data.
    """

    def __init__(self, arguments: TrainingArguments, validate: Callable[[State], float]) -> None:
        self._arguments, self._validate = arguments, validate
        self.step = 0
        """Step whose model is kept; 0: none yet."""
        self.state: State = {}
        """Its weights, on the CPU."""
        self.latest = 0.0
        """The metric of the last validation."""
        self._value = 0.0
        self._worse_since = 0  # validations since the best one

    def is_due(self, step: int) -> bool:
        """Return whether the model is to be validated after a step."""
        return step in self._arguments.validate_at or step == self._arguments.steps

    @property
    def is_settled(self) -> bool:
        """True if patience is exhausted: training ends."""
        patience = self._arguments.patience
        return patience is not None and self._worse_since >= patience

    def consider(self, step: int, state: State) -> None:
        """Validate the weights after a step, and keep a copy if they are the best."""
        value = self.latest = self._validate(state)
        if self.step and not value > self._value:
            self._worse_since += 1
            return
        self.step, self._value, self._worse_since = step, value, 0
        self.state = {name: each.detach().to("cpu", copy=True) for name, each in state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs."""
        return {
            "step": self.step,
            "value": self._value,
            "worse_since": self._worse_since,
            "model": self.state,
        }

    def load_state_dict(self, saved: Mapping[str, Any], form: State, done: int) -> None:
        """Load what `state_dict` returned.

        Args:
            saved: The state in a checkpoint.
            form: Weights of the run's model, for their names and shapes.
            done: Steps that the run has done.

        Raises:
            StateError: It is inconsistent.
        """
        check_form(saved, {"step": 0, "value": 0.0, "worse_since": 0, "model": {}} | {
            "model": form if saved.get("step") else {}
        }, "best model")  # fmt: skip
        step, value, since = (saved[name] for name in ("step", "value", "worse_since"))
        counts = (step, since)
        fits = all(isinstance(each, int) and 0 <= each <= done for each in counts)
        if not (fits and math.isfinite(value)):
            raise StateError(
                f"the checkpoint says that the best model is of step {step!s:.20}, {since!s:.20} "
                f"validations ago, and {done} steps are done. Start over with --overwrite."
            )
        self.step, self._value, self._worse_since = step, value, since
        self.state = dict(saved["model"])
