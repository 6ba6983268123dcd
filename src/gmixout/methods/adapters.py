"""Adapters of the peft library: trained beside frozen weights, merged into them at the end."""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from gmixout.core.selection import within
from gmixout.errors import ConfigError, needs
from gmixout.methods.base import DenseFinetuning, Finetuning, Method
from gmixout.methods.style import PINK, Style
from gmixout.models.pretrained import Pretrained
from gmixout.settings import refuse, require
from gmixout.weightspace import State

LINEAR = (nn.Linear,)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

_SMALL_RANK = 64
"""A rank that is always allowed: more than a small layer needs, and cheap."""

_NAME = "default"  # peft's own name for the only adapter of a model


class _Adapted(DenseFinetuning):
    """Train what a peft tuner adds to a model, and the head; the rest is frozen.

    Args:
        model: The model with the tuner's layers in it.
        heads: Names of the classifier's modules.
        frozen: Parameters of the plain model that were trainable.
        tuner: The tuner.
    """

    def __init__(
        self, model: nn.Module, heads: tuple[str, ...], frozen: list[nn.Parameter], tuner: Any
    ) -> None:
        self.model, self.heads, self.frozen, self._tuner = model, heads, frozen, tuner
        self._layers: dict[str, Any] = {
            name: model.get_submodule(name) for name in tuner.targeted_module_names
        }

    @torch.no_grad()
    def snapshot(self) -> State:
        """Return the plain model's state with the adapters merged into copies of the weights."""
        merged = {}
        for name, layer in self._layers.items():
            base = layer.get_base_layer()
            before = base.weight.detach().clone()
            layer.merge()
            merged[f"{name}.weight"] = base.weight.detach().clone()
            layer.unmerge()
            base.weight.copy_(before)  # peft subtracts what it added, which rounds
        state = {}
        for key, value in self.model.state_dict().items():
            plain = key.replace(".base_layer.", ".")
            if plain != key or not within(key, self._layers):
                state[plain] = merged.get(plain, value)
        return state

    def detach(self) -> nn.Module:
        """Return the model with the adapters merged and gone."""
        self._tuner.merge_and_unload()
        return super().detach()


class _Adapter(Method):
    """A method of peft; subclasses say what it adapts and how."""

    lr_multiplier = 30.0  # of the CLIP configs of this package

    rank: int
    kinds: ClassVar[tuple[type[nn.Module], ...]] = LINEAR + CONVOLUTIONS
    adapts: ClassVar[str] = "linear and ungrouped convolutional layers"

    def __post_init__(self) -> None:
        """Refuse ranks below 1."""
        super().__post_init__()
        require(self, "rank", self.rank >= 1, "1 or more")

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Put adapters on the model.

        Raises:
            ConfigError: The model has nothing that can be adapted, or peft is not installed.
        """
        model, heads = pretrained.model, pretrained.heads
        targets = dict(self._targets(model, heads))
        if not targets:
            raise ConfigError(
                f"method {self.name} adapts {self.adapts}, and outside of its head this model has "
                "none that can be trained; choose another method, for example full or gmixout"
            )
        self.check(targets)
        trainable = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]
        devices = {p.device for _, p in trainable if p.device.type == "cuda"}
        with torch.random.fork_rng(list(devices)):
            torch.manual_seed(seed)
            tuner = self.tune(_peft(self.name), model, targets, seed)
        for name, parameter in trainable:
            parameter.requires_grad_(within(name, heads))
        return _Adapted(model, heads, [parameter for _, parameter in trainable], tuner)

    def check(self, targets: dict[str, nn.Module]) -> None:
        """Raise a `ConfigError` if a layer cannot be adapted with these options."""

    @abstractmethod
    def tune(self, peft: Any, model: nn.Module, targets: dict[str, nn.Module], seed: int) -> Any:
        """Return a peft tuner on the model; torch's generator is seeded meanwhile."""

    def _targets(self, model: nn.Module, heads: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
        # nn.MultiheadAttention reads its layers' weights and never calls them; peft's own layer for
        # it adds the adapter to the frozen weights and subtracts it again in each forward pass
        attention = [n for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]
        for name, module in model.named_modules():
            if (
                name
                and isinstance(module, self.kinds)
                # peft's change is one of nn.Conv2d, not of a convolution that standardizes its
                # weight or pads its input (timm's ResNetV2)
                and any(type(module).forward is kind.forward for kind in self.kinds)
                and module.weight.requires_grad
                and getattr(module, "groups", 1) == 1  # peft cannot merge others
                and not within(f"{name}.", (*heads, *attention))
            ):
                yield name, module


@dataclass(frozen=True)
class lora(_Adapter):
    """LoRA (Hu et al., ICLR 2022, arXiv 2106.09685), through peft: low-rank changes of weights.

    Adapts every linear and ungrouped convolutional layer except the head, which is trained
    densely. It does not adapt layers inside of `nn.MultiheadAttention`, which never calls them, nor
    subclasses with a forward of their own, such as timm's convolutions with standardized weights,
    which peft's change does not fit.

    Args:
        rank: Rank r of the change of each weight.
        lora_alpha: The change is multiplied by `lora_alpha / rank`.
    """

    style = Style("LoRA", PINK, "s", main=True)

    rank: int = 8
    lora_alpha: int = 8

    def __post_init__(self) -> None:
        """Refuse ranks and factors below 1."""
        super().__post_init__()
        require(self, "lora_alpha", self.lora_alpha >= 1, "1 or more")

    def check(self, targets: dict[str, nn.Module]) -> None:
        """Raise a `ConfigError` if the rank is above that of every weight."""
        widest = max(min(layer.weight.flatten(1).shape) for layer in targets.values())  # type: ignore[operator]
        if self.rank > max(widest, _SMALL_RANK):
            refuse(self, "rank", f"{max(widest, _SMALL_RANK)} or less: no weight here has more")

    def tune(self, peft: Any, model: nn.Module, targets: dict[str, nn.Module], seed: int) -> Any:
        """Return a LoRA tuner."""
        del seed
        return peft.LoraModel(model, self._config(peft, targets), _NAME)

    def _config(self, peft: Any, targets: dict[str, nn.Module], **more: Any) -> Any:
        return peft.LoraConfig(
            r=self.rank, lora_alpha=self.lora_alpha, target_modules=_exactly(targets), **more
        )


@dataclass(frozen=True)
class dora(lora):
    """DoRA (Liu et al., ICML 2024, arXiv 2402.09353), through peft: LoRA and a trained magnitude.

    Adapts the same layers as LoRA.

    Args:
        rank: Rank r of the change of each weight.
        lora_alpha: The change is multiplied by `lora_alpha / rank`.
    """

    style = Style("DoRA", PINK, "<", "dash")

    def _config(self, peft: Any, targets: dict[str, nn.Module], **more: Any) -> Any:
        return super()._config(peft, targets, use_dora=True, **more)


@dataclass(frozen=True)
class shira(_Adapter):
    """SHiRA (Bhardwaj et al., NeurIPS 2024, arXiv 2406.13175), through peft: a sparse change.

    Adapts every linear layer except the head, which is trained densely. Each layer has its own
    random mask; with peft's seeding all layers of one shape would share one.

    Args:
        rank: A layer with m inputs and n outputs gets `rank * (m + n)` trained entries, as many as
            LoRA of that rank has.
    """

    style = Style("SHiRA", PINK, "P", "dot")

    rank: int = 8

    kinds: ClassVar[tuple[type[nn.Module], ...]] = LINEAR
    adapts: ClassVar[str] = "linear layers"

    def check(self, targets: dict[str, nn.Module]) -> None:
        """Raise a `ConfigError` if a weight has fewer entries than would be trained of it."""
        for name, layer in targets.items():
            rows, columns = layer.weight.shape  # type: ignore[misc]
            if self.rank * (rows + columns) > rows * columns:
                raise ConfigError(
                    f"shira(rank={self.rank}) trains rank * (m + n) entries of a layer, and "
                    f"{name!r} of {rows} x {columns} has fewer: choose a rank of "
                    f"{rows * columns // (rows + columns)} or less"
                )

    def tune(self, peft: Any, model: nn.Module, targets: dict[str, nn.Module], seed: int) -> Any:
        """Return a SHiRA tuner."""
        checks: Any = torch.sparse.check_sparse_tensor_invariants
        if not checks.is_enabled():
            checks.disable()  # unless set, torch warns about peft's sparse tensors
        random_mask = peft.tuners.shira.mask_functions.random_mask
        names = {layer: name for name, layer in targets.items()}

        def mask(layer: nn.Module, rank: int, **_: Any) -> torch.Tensor:
            digest = hashlib.sha256(f"{seed}/{names[layer]}".encode()).digest()
            drawn: torch.Tensor = random_mask(
                layer, rank, random_seed=int.from_bytes(digest[:7], "little")
            )
            return drawn

        config = peft.ShiraConfig(r=self.rank, target_modules=_exactly(targets))
        config.mask_fn = mask
        return peft.ShiraModel(model, config, _NAME)


def _exactly(targets: dict[str, nn.Module]) -> str:
    """Return a pattern of exactly these names; peft matches listed names as suffixes."""
    return "|".join(map(re.escape, targets))


def _peft(method: str) -> Any:
    with needs("peft", "lora", f"method {method}"):
        import peft
        import peft.tuners.shira.mask_functions
    return peft
