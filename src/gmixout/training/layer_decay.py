"""Layer-wise decay of the learning rate: the further below the head, the smaller."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from gmixout.errors import ConfigError, needs


class LayerDecay:
    """Multiply a parameter's learning rate by `decay` for each layer between it and the head.

    Source: Clark et al. (ELECTRA, ICLR 2020, arXiv 2003.10555); layers are timm's
    (`model.group_matcher`), as in its own `layer_decay`.

    Args:
        model: The plain model, before a method is put on it.
        decay: The factor of a layer, in (0, 1].

    Raises:
        ConfigError: The model does not define its layers, or timm is not installed.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        matcher = getattr(model, "group_matcher", None)
        if not callable(matcher):
            raise ConfigError(
                f"layer_decay={decay} needs a model that defines its layers, as timm's do "
                f"with group_matcher(); {type(model).__name__} does not. Use layer_decay=1"
            )
        with needs("timm", "vision", f"layer_decay={decay}"):
            from timm.models import group_parameters
        layers: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
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
