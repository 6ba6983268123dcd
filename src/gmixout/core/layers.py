"""How each layer kind reaches the masking process.

A module that owns masked weights gets a subclass of its own class, made on the spot, with

* a property for each masked weight, which returns Phi and routes the gradient to the masked
  values. This fallback is correct for every module, whatever it does with its weight, at the
  cost of one dense gradient that is gathered and freed on the spot;
* for the kinds in `FAST_PATHS`, a forward that runs the layer on Phi without tracing the weight and
  hands the layer's input and output to `collect`: only the masked part of the gradient is computed.

A new layer kind is one function and one line in `FAST_PATHS`.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmixout.core.process import MaskedWeight
from gmixout.errors import AttachError
from gmixout.kernels.products import ConvProduct, LayerProduct, LinearProduct, size


class _Collect(torch.autograd.Function):
    """The identity on a layer's output, whose backward computes the masked values' gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        input: Tensor,
        values: Tensor,
        index: Tensor,
        bias_values: Tensor | None,
        bias_index: Tensor | None,
        masked: MaskedWeight,
        bias: MaskedWeight | None,
        product: LayerProduct,
    ) -> Tensor:
        # A graph would hold on to the numbers of a band.
        compiled = torch.compiler.is_compiling()
        ctx.band = None if compiled else masked.band
        ctx.bias_band = None if compiled or bias is None else bias.band
        chosen = index if ctx.band is None else ctx.band
        kept = masked.structure.keep(product, input, chosen) if ctx.needs_input_grad[2] else None
        # The positions in any case: that they were redrawn before backward does not go unnoticed.
        ctx.save_for_backward(kept, index, bias_index)
        ctx.masked, ctx.bias, ctx.product, ctx.shape = masked, bias, product, masked.weight.shape
        # Not a view: one made here could not be modified in place later, for example by ReLU.
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # The layer ran on a weight that autograd does not know: terms would be missing.
            raise AttachError(
                f"The gradient of {ctx.masked.name!r} cannot be differentiated again "
                "(create_graph=True: Adahessian, penalties on gradients). "
                "attach(..., higher_order=True) makes that exact, with dense weight gradients."
            )
        kept, index, bias_index = ctx.saved_tensors
        index = index if ctx.band is None else ctx.band
        bias_index = bias_index if ctx.bias_band is None else ctx.bias_band
        masked, bias, product = ctx.masked, ctx.bias, ctx.product
        _, _, wanted, _, bias_wanted, *_ = ctx.needs_input_grad
        grad = product.lay_out(grad)
        gradient = bias_gradient = None
        if wanted and bias_wanted and bias.follows:
            gradient, bias_gradient = masked.structure.grad_with_bias(product, grad, kept, index)
        else:
            if wanted:
                gradient = masked.structure.grad(product, grad, kept, index, ctx.shape)
            if bias_wanted:
                outputs = product.outputs(grad, bias_index)
                bias_gradient = product.biases(outputs)[: size(bias_index)]
        if gradient is not None:
            gradient = _scaled(masked, gradient)
        if bias_gradient is not None:
            bias_gradient = _scaled(bias, bias_gradient)
        return grad, None, gradient, None, bias_gradient, None, None, None, None


class _Expose(torch.autograd.Function):
    """Phi as a function of the masked values, for whoever uses the weight directly."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, values: Tensor, index: Tensor, masked: MaskedWeight
    ) -> Tensor:
        ctx.save_for_backward(index)
        ctx.masked = masked
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        gradient = ctx.masked.structure.gather(grad, index)
        return None, _scaled(ctx.masked, gradient), None, None


def _scaled(masked: MaskedWeight, gradient: Tensor) -> Tensor:
    """Return d loss / d values = c * (d loss / d Phi)[M], in the values' dtype."""
    gradient = gradient.to(masked.values.dtype)
    c = masked.scale
    return gradient if c == 1 else gradient * c


def child_name(attribute: str) -> str:
    """Return the name of a `MaskedWeight` in the module that owns the weight."""
    return f"gmixout_{attribute}"


def _masked(module: nn.Module, attribute: str) -> MaskedWeight:
    masked = module._modules[child_name(attribute)]
    assert isinstance(masked, MaskedWeight)
    return masked


def _masked_bias(module: nn.Module, attribute: str) -> MaskedWeight | None:
    """Return the masked bias of a module, up to date; None for one that is dense.

    Also None for a bias that the user selected as a weight: its values are no vector, and the
    module's attribute has it.
    """
    bias = module._modules.get(child_name(attribute))
    if not isinstance(bias, MaskedWeight) or bias.values.dim() != 1:
        return None
    bias.agreement.settle()
    return bias


def collect(
    masked: MaskedWeight,
    output: Tensor,
    input: Tensor,
    product: LayerProduct,
    bias: MaskedWeight | None = None,
) -> Tensor:
    """Return the output; in backward, masked values get their gradients through `product`."""
    values = masked.values
    bias_values, bias_index = (None, None) if bias is None else (bias.values, bias.index)
    trained = values.requires_grad or (bias_values is not None and bias_values.requires_grad)
    if not (torch.is_grad_enabled() and trained):
        return output
    return _Collect.apply(
        output, input, values, masked.index, bias_values, bias_index, masked, bias, product
    )


def expose(masked: MaskedWeight) -> Tensor:
    """Return Phi, `[O, I, *k]`; backward gives `masked.values` its part of the dense gradient."""
    return _Expose.apply(masked.weight, masked.values, masked.index, masked)


def _as_run(input: Tensor) -> Tensor:
    """Cast the input as autocast would, so that the layer and `collect` share one copy."""
    kind = input.device.type
    if kind == "meta" or input.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return input
    return input.to(torch.get_autocast_dtype(kind))


def _linear(module: nn.Module, weight: str, bias: str, input: Tensor) -> Tensor:
    masked, shift = _masked(module, weight), _masked_bias(module, bias)
    masked.agreement.settle()
    input, added = _as_run(input), getattr(module, bias) if shift is None else shift.weight
    # As a matrix: of more dimensions some versions of torch give a view, and what is done to a
    # view in place (`mark_dirty`) costs backward some nine copies of the gradient.
    rows = input.reshape(math.prod(input.shape[:-1]), input.shape[-1])
    output = F.linear(rows, masked.weight, added)
    output = collect(masked, output, rows, LinearProduct(), shift)
    return output.view(*input.shape[:-1], output.shape[-1])


def _linear_forward(self: nn.Linear, input: Tensor) -> Tensor:
    return _linear(self, "weight", "bias", input)


def _conv_forward(self: nn.modules.conv._ConvNd, input: Tensor) -> Tensor:
    masked, shift, input = _masked(self, "weight"), _masked_bias(self, "bias"), _as_run(input)
    masked.agreement.settle()
    padding = self.padding
    if self.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        input = F.pad(input, self._reversed_padding_repeated_twice, mode)
        padding = (0,) * len(self.kernel_size)
    convolve: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[len(self.kernel_size) - 1]
    geometry = (self.stride, padding, self.dilation, self.groups)
    bias: Tensor | None = self.bias if shift is None else shift.weight
    if shift is not None and masked.whole and torch.is_grad_enabled():
        bias, shift = expose(shift), None  # torch's own gradient, to the last bit
    # For a bias' gradient alone torch computes the dense gradient of the weight, too.
    together = bias is None or masked.whole or not bias.requires_grad
    output = convolve(input, masked.weight, bias if together else None, *geometry)
    if bias is not None and not together:
        output += bias.to(output.dtype).reshape(-1, *[1] * len(self.kernel_size))
    product = ConvProduct(self.kernel_size, *geometry).of(input)
    return collect(masked, output, input, product, shift)


def _attention_forward(
    self: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Compute packed self-attention without returned weights; use the fallback for the rest."""
    masked_in = child_name("in_proj_weight") in self._modules
    alike = query is key and key is value and query.dim() == 3 and not query.is_nested
    rare = self.bias_k is not None or self.add_zero_attn or (is_causal and attn_mask is None)
    if need_weights or rare or not alike or not masked_in or not torch.is_grad_enabled():
        return nn.MultiheadAttention.forward(
            self,
            query,
            key,
            value,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
    q, k, v = _linear(self, "in_proj_weight", "in_proj_bias", query).chunk(3, dim=-1)
    if not self.batch_first:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    q, k, v = (x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in (q, k, v))
    mask = _attention_mask(q, attn_mask, key_padding_mask)
    dropout = self.dropout if self.training else 0.0
    mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
    mixed = mixed.transpose(1, 2).flatten(2)
    if not self.batch_first:
        mixed = mixed.transpose(0, 1)
    return self.out_proj(mixed), None


def _attention_mask(
    q: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None
) -> Tensor | None:
    """Merge both masks of `nn.MultiheadAttention` into one to add to the logits `[B, H, L, S]`."""
    mask = None
    if attn_mask is not None:
        mask = _additive(attn_mask, q.dtype)
        if mask.dim() == 3:
            mask = mask.unflatten(0, q.shape[:2])
    if key_padding_mask is not None:
        padding = _additive(key_padding_mask, q.dtype)[:, None, None, :]
        mask = padding if mask is None else mask + padding
    return mask


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a boolean mask (True: not allowed) as -inf and 0."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))


FAST_PATHS: dict[Callable[..., Any], tuple[Callable[..., Any], str, str]] = {
    nn.Linear.forward: (_linear_forward, "weight", "bias"),
    nn.Conv1d.forward: (_conv_forward, "weight", "bias"),
    nn.Conv2d.forward: (_conv_forward, "weight", "bias"),
    nn.Conv3d.forward: (_conv_forward, "weight", "bias"),
    nn.MultiheadAttention.forward: (_attention_forward, "in_proj_weight", "in_proj_bias"),
}
"""The forward of a class -> ours, its weight and its bias; the class must have that very function.

Only a layer whose weight is masked has it."""


def has_fast_path(module: nn.Module, attribute: str) -> bool:
    """Return whether the gradient of a module's masked parameter is computed for its mask alone."""
    path = FAST_PATHS.get(_plain_class(type(module)).forward)
    return path is not None and attribute in path[1:] and child_name(path[1]) in module._modules


def _plain_class(cls: type[nn.Module]) -> type[nn.Module]:
    return getattr(cls, "_gmixout_plain", cls)


@cache
def _masked_class(cls: type[nn.Module], attributes: frozenset[str], fast: bool) -> type[nn.Module]:
    """Return a subclass that goes by its parent's name, the same object for the same arguments."""
    namespace: dict[str, Any] = {attribute: _weight_property(attribute) for attribute in attributes}
    namespace |= {"_gmixout_plain": cls, "__module__": cls.__module__, "__doc__": cls.__doc__}
    namespace["__reduce_ex__"] = _reduce
    namespace["_gmixout_fast"] = fast
    path = FAST_PATHS.get(cls.forward) if fast else None
    if path is not None and path[1] in attributes:
        namespace["forward"] = path[0]
    return type(cls.__name__, (cls,), namespace)


def _reduce(module: nn.Module, protocol: int) -> tuple[Any, ...]:
    """Pickle and copy a module whose class is not an attribute of any Python module."""
    del protocol
    cls = type(module)
    attributes = frozenset(name for name in vars(cls) if child_name(name) in module._modules)
    arguments = _plain_class(cls), attributes, cls._gmixout_fast  # type: ignore[attr-defined]
    return _empty, arguments, module.__getstate__()


def _empty(cls: type[nn.Module], attributes: frozenset[str], fast: bool) -> nn.Module:
    masked = _masked_class(cls, attributes, fast)  # type: ignore[arg-type]
    return masked.__new__(masked)


def _weight_property(attribute: str) -> property:
    def weight(self: nn.Module) -> Tensor | None:
        masked = _masked(self, attribute)
        masked.agreement.settle()
        if has_fast_path(self, attribute):
            # the caller may change it; the layer itself does not call this
            masked.agreement.hand_out()
        return expose(masked) if torch.is_grad_enabled() else self._parameters[attribute]

    return property(weight)


def mask_module(module: nn.Module, weights: dict[str, MaskedWeight], fast: bool) -> None:
    """Put masked weights into the module that owns them, by the weight's attribute name.

    Args:
        module: The owner.
        weights: Its masked weights.
        fast: Compute the masked part of gradients alone, where `FAST_PATHS` says how.
    """
    plain = _plain_class(type(module))
    module.__class__ = _masked_class(plain, frozenset(weights), fast)  # type: ignore[arg-type]
    for attribute, masked in weights.items():
        module.add_module(child_name(attribute), masked)


def unmask_module(module: nn.Module) -> None:
    """Give a module its own class back and remove the masked weights from it."""
    module.__class__ = _plain_class(type(module))
    for name, child in list(module._modules.items()):
        if isinstance(child, MaskedWeight):
            del module._modules[name]
