"""A soup of a run's own models: the mean of its last ones."""

from collections.abc import Callable, Mapping
from typing import Any

from gmixout.errors import StateError
from gmixout.training.arguments import TrainingArguments
from gmixout.training.checkpoint import check_form
from gmixout.weightspace import State, greedy_members, uniform_soup


class RunSoup:
    """Keep the last models of a run, and average them at its end.

    Running statistics are averaged with the weights; `check_training_settings` sees to it that
    they are those of the pretrained model in all of them.

    Args:
        arguments: Which models, and which of them are in the mean.
        validate: Returns the official metric of weights on in-domain validation data.
    """

    is_settled = False
    """True never: a soup does not end a run early."""

    def __init__(self, arguments: TrainingArguments, validate: Callable[[State], float]) -> None:
        self._arguments, self._validate = arguments, validate
        self._states: dict[int, State] = {}  # by step, on the CPU

    def is_due(self, step: int) -> bool:
        """Return whether the model after a step is kept."""
        return step in self._arguments.validate_at or step == self._arguments.steps

    def consider(self, step: int, state: State) -> None:
        """Keep a copy of the weights after a step."""
        self._states[step] = {n: each.detach().to("cpu", copy=True) for n, each in state.items()}

    def made(self) -> tuple[State, tuple[int, ...]]:
        """Return the mean, and the steps of the models in it, in the order in which they joined."""
        steps, states = [*self._states], [*self._states.values()]
        members = list(range(len(states)))
        if self._arguments.soup == "greedy":
            members = greedy_members(states, self._validate)
        mean = uniform_soup([states[member] for member in members])
        return mean, tuple(steps[member] for member in members)

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs."""
        return {"steps": [*self._states], "models": [*self._states.values()]}

    def load_state_dict(self, saved: Mapping[str, Any], form: State, done: int) -> None:
        """Load what `state_dict` returned.

        Args:
            saved: The state in a checkpoint.
            form: Weights of the run's model, for their names and shapes.
            done: Steps that the run has done.

        Raises:
            StateError: It is inconsistent.
        """
        every = (*self._arguments.validate_at, self._arguments.steps)
        due = [step for step in every if step <= done]
        check_form(saved, {"steps": due, "models": [form] * len(due)}, "soup")
        if saved["steps"] != due:
            raise StateError(
                f"the checkpoint holds models of the steps {saved['steps']!s:.80} for a soup, and "
                f"this run has those of {due!s:.80}. Start over with --overwrite."
            )
        self._states = dict(zip(due, saved["models"], strict=True))
