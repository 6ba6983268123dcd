"""Methods that are built on the finished runs of another one."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gmixout.methods.base import Finetuning, Method
from gmixout.methods.full import full
from gmixout.models.pretrained import Pretrained
from gmixout.settings import require
from gmixout.weightspace import State

TRAINED = "a method that is trained itself, for example full, lora or gmixout"
"""What a method may be built on, for errors."""


@dataclass(frozen=True)
class Built(Method):
    """A method that trains nothing itself: it makes models of the runs of another method.

    Args:
        of: The method whose runs are used; they are shared with it.
    """

    of: Method = field(default_factory=full)

    def __post_init__(self) -> None:
        """Refuses what has no runs of its own."""
        super().__post_init__()
        require(self, "of", self.of.trained == self.of, TRAINED)

    @property
    def trained(self) -> Method:
        """The method whose runs are used."""
        return self.of

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Starts the method whose runs are used."""
        return self.of.start(pretrained, seed)

    @abstractmethod
    def variants(
        self, pretrained: State, finetuned: State
    ) -> Iterator[tuple[dict[str, Any], State]]:
        """Yields the models that are built; their options are `told` and what tells them apart."""

    @property
    def told(self) -> dict[str, Any]:
        """What records say of the method underneath: nothing if it is the usual one."""
        usual: Any = type(self)()
        return {} if self.of == usual.of else {"of": str(self.of)}
