"""A method with regularizers beside it, written `gmixout+regmixup+sam`."""

from dataclasses import dataclass, field, replace

from gmixout.errors import ConfigError
from gmixout.methods.base import Finetuning, Method
from gmixout.methods.full import full
from gmixout.models.pretrained import Pretrained
from gmixout.regularizers import Regularizer
from gmixout.settings import require


@dataclass(frozen=True)
class beside(Method):
    """A method with regularizers in its training runs.

    Args:
        of: The method that is trained.
        adds: The regularizers, in this order.
    """

    of: Method = field(default_factory=full)
    adds: tuple[Regularizer, ...] = ()

    def __post_init__(self) -> None:
        """Refuse untrained methods, an empty `adds`, and duplicates."""
        super().__post_init__()
        trained = "a method that is trained itself and has no regularizers yet"
        require(self, "of", self.of.trained == self.of and not self.of.regularizers, trained)
        names = [each.name for each in self.adds]
        require(self, "adds", bool(names), "one or more regularizers")
        require(self, "adds", len({*names}) == len(names), "regularizers that differ")

    @property
    def name(self) -> str:
        """The names of all parts, as a user types them."""
        return "+".join(each.name for each in (self.of, *self.adds))

    @property
    def regularizers(self) -> tuple[Regularizer, ...]:
        """Regularizers that act beside the method."""
        return self.adds

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Start the method."""
        return self.of.start(pretrained, seed)

    def __str__(self) -> str:
        """Return all parts with their non-default options."""
        return "+".join(map(str, (self.of, *self.adds)))


def with_beside(method: Method, adds: tuple[Regularizer, ...]) -> Method:
    """Return a method with regularizers in its training runs.

    For a derived method they act in the underlying runs: `wise_ft+sam` interpolates to full
    finetuning with SAM.

    Raises:
        ConfigError: The method trains nothing.
    """
    if not adds:
        return method
    trained = method.trained
    if trained is None:
        raise ConfigError(f"{method} trains nothing: {adds[0].name} cannot act beside it")
    if trained == method:
        return beside(method, adds)
    return replace(method, of=beside(trained, adds))  # type: ignore[type-var]
