"""Layer-wise decay of the learning rate: the further below the head, the smaller."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from gmixout.errors import ConfigError
from gmixout.models.layers import layer_numbers


class LayerDecay:
    """Multiply a parameter's learning rate by `decay` for each layer between it and the head.

    Source: Clark et al. (ELECTRA, ICLR 2020, arXiv 2003.10555); layers are those of
    `models.layers.layer_numbers`, timm's own where it has some.

    Args:
        model: The plain model, before a method is put on it.
        decay: The factor of a layer, in (0, 1].
        heads: Names of the modules that score the classes.

    Raises:
        ConfigError: The order of the model's layers is not known, or timm is not installed.
    """

    def __init__(self, model: nn.Module, decay: float, heads: Sequence[str]) -> None:
        try:
            layers = layer_numbers(model, heads)
        except ConfigError as error:
            raise ConfigError(
                f"layer_decay={decay}: the layers of {type(model).__name__} are not known: {error}."
                " Use layer_decay=1"
            ) from error
        top = max(layers.values())
        self._scale = {name: decay ** (top - layer) for name, layer in layers.items()}
        # a method's own parameters (masked values, adapters) lie in or beside those of a module
        modules = {name for name, _ in model.named_modules() if name}
        for name, scale in list(self._scale.items()):
            if (module := name.rpartition(".")[0]) in modules:
                self._scale[module] = scale

    def apply(self, groups: Iterable[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
        """Split parameter groups by layer.

        Args:
            groups: A method's groups; parameters in no known layer keep their learning rate.
            model: The model with the method on it.
        """
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        split = []
        for group in groups:
            by_scale: dict[float, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                scale = self._scale_of(names.get(id(parameter), ""))
                by_scale.setdefault(scale, []).append(parameter)
            split += [
                {**group, "params": parameters, "lr": group["lr"] * scale}
                for scale, parameters in by_scale.items()
            ]
        return split

    def _scale_of(self, name: str) -> float:
        while name and name not in self._scale:
            name = name.rpartition(".")[0]
        return self._scale.get(name, 1.0)
