"""Gradients in float64 of every structure on every layer kind: c times the dense one, gathered."""

import copy
import zlib

import pytest
import torch
import torch.nn.functional as F
from tiny import CUTS, STRUCTURES, UNPAIRED
from torch import Tensor, nn

import gmixout
from gmixout import GMixout
from gmixout.errors import AttachError


class Attention(nn.Module):
    """Calls `nn.MultiheadAttention` in one of its many ways and returns one tensor."""

    def __init__(self, cross: bool = False, mask: str = "", calls: dict | None = None, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, **options)
        # Its bias starts at zero, where a mistake in it would not show.
        for bias in (self.attention.out_proj.bias, self.attention.in_proj_bias):
            if bias is not None:
                nn.init.normal_(bias)
        self.cross, self.mask, self.calls = cross, mask, calls or {}

    def forward(self, *inputs: Tensor) -> Tensor:
        query, key, value = inputs if self.cross else inputs * 3
        first = self.attention.batch_first or query.dim() == 2
        length, source = (query.shape[-2], key.shape[-2]) if first else (len(query), len(key))
        masks = {}
        if "causal" in self.mask:
            masks["attn_mask"] = torch.ones(length, source, dtype=torch.bool).triu(1)
        if "heads" in self.mask:
            masks["attn_mask"] = torch.eye(source, dtype=torch.bool)[:length].repeat(4, 1, 1)
        if "padding" in self.mask:
            masks["key_padding_mask"] = torch.zeros(2, source, dtype=torch.bool)
            masks["key_padding_mask"][0, -1] = True
        if "float" in self.mask:
            logits = torch.linspace(-1, 1, length * source, dtype=query.dtype)
            masks["attn_mask"] = logits.view(length, source)
            masks["key_padding_mask"] = 2.0 * masks["key_padding_mask"].to(query.dtype)
        output, weights = self.attention(query, key, value, **masks, **self.calls)
        return output if weights is None else torch.cat([output.flatten(), weights.flatten()])


class Functional(nn.Module):
    """Uses its child's weight itself, its own weight twice, and the child too."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.child.weight) + self.child(x)
        return x @ self.weight + torch.tanh(x @ self.weight.T)


class Twice(nn.Module):
    """One layer, applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class InPlace(nn.Sequential):
    """An activation that overwrites the layer's output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer, nn.ReLU(inplace=True))


class Odd(nn.Module):
    """Parameters of any shape, one without a dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.scalar = nn.Parameter(torch.tensor(0.7))
        self.vector = nn.Parameter(torch.randn(4))
        self.cube = nn.Parameter(torch.randn(4, 2, 3))
        self.list = nn.ParameterList([torch.randn(4, 4), torch.randn(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        x = (x * self.scalar + self.vector) @ self.list[0] @ self.list[1]
        return torch.einsum("nc,cij->nij", x, self.cube)


def conv(dims, *args, **options):
    return lambda: (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](*args, **options)


def self_attention(**options):
    return lambda: Attention(**options)


NO_WEIGHTS = {"need_weights": False}
CASES = {
    # name: (module, shapes of its inputs)
    "linear 1-D": (lambda: nn.Linear(4, 6), [(4,)]),
    "linear 2-D": (lambda: nn.Linear(4, 6), [(3, 4)]),
    "linear 3-D": (lambda: nn.Linear(4, 6), [(2, 3, 4)]),
    "linear no bias": (lambda: nn.Linear(4, 6, bias=False), [(2, 3, 4)]),
    "linear in-place": (lambda: InPlace(nn.Linear(4, 6)), [(2, 3, 4)]),
    "linear twice": (Twice, [(3, 4)]),
    "bilinear": (lambda: nn.Bilinear(4, 3, 5), [(2, 4), (2, 3)]),
    "conv1d": (conv(1, 4, 6, 3), [(2, 4, 6)]),
    "conv1d unbatched": (conv(1, 4, 6, 3), [(4, 6)]),
    "conv1d circular": (conv(1, 4, 6, 3, padding=2, padding_mode="circular"), [(2, 4, 6)]),
    "conv1d same even": (conv(1, 4, 6, 4, padding="same"), [(2, 4, 6)]),
    "conv1d patch": (conv(1, 4, 6, 2, stride=2, bias=False), [(2, 4, 6)]),
    "conv2d": (conv(2, 4, 6, 3, padding=1), [(2, 4, 4, 5)]),
    "conv2d channels last": (
        lambda: nn.Conv2d(4, 6, 3, padding=1).to(memory_format=torch.channels_last),
        [(2, 4, 4, 5)],
    ),
    "conv2d groups channels last": (
        lambda: nn.Conv2d(4, 8, 3, groups=2).to(memory_format=torch.channels_last),
        [(2, 4, 4, 5)],
    ),
    "conv2d in-place": (lambda: InPlace(nn.Conv2d(4, 6, 3, padding=1)), [(2, 4, 4, 5)]),
    "conv2d unbatched": (conv(2, 4, 6, 3, padding=1), [(4, 4, 5)]),
    "conv2d uneven": (conv(2, 4, 6, (2, 3), (2, 1), (0, 2), (1, 2)), [(2, 4, 5, 5)]),
    "conv2d stride remainder": (conv(2, 4, 6, 3, stride=2), [(2, 4, 6, 6)]),
    "conv2d groups": (conv(2, 4, 6, 3, groups=2, padding=1), [(2, 4, 4, 4)]),
    "conv2d depthwise": (conv(2, 4, 4, 3, groups=4, padding=1), [(2, 4, 4, 4)]),
    "conv2d depthwise x2": (conv(2, 4, 8, 3, groups=4, stride=2), [(2, 4, 5, 5)]),
    "conv2d reflect": (conv(2, 4, 6, 3, padding=1, padding_mode="reflect"), [(2, 4, 4, 4)]),
    "conv2d replicate": (
        conv(2, 4, 6, 3, stride=2, padding=(1, 2), padding_mode="replicate"),
        [(2, 4, 4, 4)],
    ),
    "conv2d same even": (conv(2, 4, 6, (2, 4), padding="same", dilation=(1, 2)), [(2, 4, 4, 7)]),
    "conv2d same groups": (conv(2, 4, 4, 2, padding="same", groups=2), [(2, 4, 4, 4)]),
    "conv2d same circular": (
        conv(2, 4, 6, (2, 3), padding="same", padding_mode="circular"),
        [(2, 4, 4, 4)],
    ),
    "conv2d valid": (conv(2, 4, 6, 2, padding="valid"), [(2, 4, 3, 3)]),
    "conv3d": (conv(3, 4, 6, 2, padding=1, groups=2), [(1, 4, 2, 2, 3)]),
    "conv3d unbatched": (conv(3, 2, 4, (1, 2, 2), stride=(1, 2, 1)), [(2, 2, 4, 3)]),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
        [(2, 4, 3, 3)],
    ),
    "attention": (self_attention(calls=NO_WEIGHTS, batch_first=True), [(2, 3, 4)]),
    "attention sequence first": (self_attention(calls=NO_WEIGHTS), [(3, 2, 4)]),
    "attention no bias": (
        self_attention(calls=NO_WEIGHTS, batch_first=True, bias=False),
        [(2, 3, 4)],
    ),
    "attention weights": (self_attention(batch_first=True), [(2, 3, 4)]),
    "attention weights of heads": (
        self_attention(calls={"average_attn_weights": False}),
        [(3, 2, 4)],
    ),
    "attention causal": (
        self_attention(calls=NO_WEIGHTS, batch_first=True, mask="causal"),
        [(2, 3, 4)],
    ),
    "attention is_causal": (
        self_attention(
            calls={"need_weights": False, "is_causal": True}, batch_first=True, mask="causal"
        ),
        [(2, 3, 4)],
    ),
    "attention float mask, padding": (
        self_attention(calls=NO_WEIGHTS, mask="float padding"),
        [(3, 2, 4)],
    ),
    "attention mask of heads": (
        self_attention(calls=NO_WEIGHTS, batch_first=True, mask="heads padding"),
        [(2, 3, 4)],
    ),
    "attention padding, weights": (self_attention(mask="padding causal"), [(3, 2, 4)]),
    "attention unbatched": (self_attention(calls=NO_WEIGHTS), [(3, 4)]),
    "attention bias_k": (
        self_attention(calls=NO_WEIGHTS, batch_first=True, add_bias_kv=True, add_zero_attn=True),
        [(2, 3, 4)],
    ),
    "attention cross": (
        self_attention(calls=NO_WEIGHTS, batch_first=True, cross=True),
        [(2, 3, 4), (2, 2, 4), (2, 2, 4)],
    ),
    "attention kdim vdim": (
        self_attention(cross=True, batch_first=True, kdim=3, vdim=6),
        [(2, 3, 4), (2, 2, 3), (2, 2, 6)],
    ),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        [(2, 3, 4)],
    ),
    "functional": (Functional, [(3, 4)]),
    "odd parameters": (Odd, [(3, 4)]),
    "recurrent cell": (lambda: nn.GRUCell(4, 4), [(2, 4), (2, 4)]),
}


def each_structure(cases):
    """Cases with what may be drawn in them: only some have heads or hidden neurons."""
    paired = {case for case in cases if case.startswith("attention") or case == "encoder layer"}
    return [(c, s) for c in cases for s in (STRUCTURES if c in paired else UNPAIRED)]


def matrices(name, parameter):
    return name.endswith("weight") or "weight" in name.split(".")[-1] or name.startswith("list")


MODES = {
    "plain": {},
    "rescaled": {"rescale": True},
    "rescaled, biases": {"rescale": True, "biases": "masked"},
}


def build(case, structure, mode="plain", seed=0, **options):
    """The dense module, the masked one, its handle, and inputs that want gradients."""
    make, shapes = CASES[case]
    torch.manual_seed(zlib.crc32(case.encode()))
    dense = make().double()
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    config = GMixout(mask_rate=0.5, **CUTS[structure], block_size=2, seed=seed, **MODES[mode])
    module = nn.Sequential()
    module.add_module("it", copy.deepcopy(dense))
    select = (lambda n, p: True) if case == "odd parameters" else matrices
    masked = gmixout.attach(module, config, select=select, head=(), **options)
    return dense, module.it, masked, inputs


def gathered(masked, grads):
    """The dense gradients' entries that are masked, times c."""
    for name, weight in masked._weights.items():
        dense = grads[name.removeprefix("it.")]
        c = dense.numel() / weight.values.numel() if masked.config.rescale else 1
        yield c * weight.structure.gather(dense, weight.index)


# torch's own advice about a copy that an even kernel needs
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("case", "structure"), each_structure(CASES))
def test_gradients_are_the_dense_ones_gathered(case, structure, mode):
    dense, module, masked, inputs = build(case, structure, mode)
    expected, output = dense(*inputs), module(*inputs)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(expected)
    names = [name for name, _ in dense.named_parameters()]
    wanted = torch.autograd.grad(
        expected, [*inputs, *dense.parameters()], weight, allow_unused=True
    )
    (output * weight).sum().backward()
    for input, grad in zip(inputs, wanted, strict=False):
        torch.testing.assert_close(input.grad, grad, rtol=1e-10, atol=1e-10)
    grads = dict(zip(names, wanted[len(inputs) :], strict=True))
    for values, grad in zip(masked.parameters(), gathered(masked, grads), strict=True):
        assert values.grad.shape == values.shape
        torch.testing.assert_close(values.grad, grad, rtol=1e-10, atol=1e-10)
    rest = dict(module.named_parameters())
    for name, grad in grads.items():
        if rest[name].requires_grad and grad is not None:
            torch.testing.assert_close(rest[name].grad, grad, rtol=1e-10, atol=1e-10)
        else:
            assert rest[name].grad is None


GRADCHECK = [
    "linear 1-D",
    "linear 3-D",
    "linear twice",
    "conv1d same even",
    "conv2d uneven",
    "conv2d groups",
    "conv2d replicate",
    "conv3d",
    "transposed",
    "attention",
    "attention float mask, padding",
    "attention weights",
    "attention kdim vdim",
    "functional",
    "odd parameters",
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("case", "structure"), each_structure(GRADCHECK))
def test_finite_differences(case, structure, mode):
    """No dense layer to compare with: the weight is written for each value that is tried."""
    _, module, masked, inputs = build(case, structure, mode)
    leaves = [*inputs, *(p for p in module.parameters() if p.requires_grad)]
    output = module(*inputs)
    weight = torch.randn_like(output)
    (output * weight).sum().backward()
    direction = [torch.randn_like(leaf) for leaf in leaves]
    slope = sum((leaf.grad * d).sum() for leaf, d in zip(leaves, direction, strict=True))

    def moved(distance):
        with torch.no_grad():
            for leaf, d in zip(leaves, direction, strict=True):
                leaf.add_(d, alpha=distance)
            masked._write()
            return (module(*inputs) * weight).sum()

    step = 1e-5
    above = moved(step)
    below = moved(-2 * step)
    torch.testing.assert_close((above - below) / (2 * step), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("structure", UNPAIRED)
def test_embedding(structure):
    dense = nn.Embedding(10, 4, padding_idx=0).double()
    module = nn.Sequential(copy.deepcopy(dense))
    masked = gmixout.attach(
        module, GMixout(mask_rate=0.5, **CUTS[structure], block_size=2), select=matrices
    )
    tokens = torch.tensor([[0, 3, 3], [9, 5, 1]])
    assert torch.equal(dense(tokens), module(tokens))
    dense(tokens).pow(2).sum().backward()
    module(tokens).pow(2).sum().backward()
    weight = masked._weights["0.weight"]
    expected = weight.structure.gather(dense.weight.grad, weight.index)
    torch.testing.assert_close(masked.parameters()[0].grad, expected)


@pytest.mark.parametrize("case", ["linear 3-D", "conv2d", "conv2d groups", "functional"])
def test_second_order_gradients_are_right_or_refused(case):
    """A gradient penalty must never be silently wrong."""

    def penalty(layer, inputs):
        (grad,) = torch.autograd.grad(layer(*inputs).pow(3).sum(), inputs, create_graph=True)
        return grad.pow(2).sum()

    _, module, _, inputs = build(case, "row")
    with pytest.raises(AttachError, match="higher_order=True"):
        penalty(module, inputs)
    dense, module, masked, inputs = build(case, "row", higher_order=True)
    for layer in (dense, module):
        penalty(layer, inputs).backward()
    grads = {name: p.grad for name, p in dense.named_parameters()}
    for values, grad in zip(masked.parameters(), gathered(masked, grads), strict=True):
        torch.testing.assert_close(values.grad, grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("structure", UNPAIRED)
def test_frozen_input_needs_no_gradient(structure):
    """The first layer of a model: nothing flows below it, its values get theirs."""
    _, module, masked, (x,) = build("conv2d groups", structure)
    module(x.detach()).sum().backward()
    assert all(values.grad.abs().sum() > 0 for values in masked.parameters())


def test_the_same_masked_layer_in_no_grad_and_inference_mode():
    dense, module, masked, (x,) = build("attention", "row", "rescaled")
    del masked
    for mode in (torch.no_grad, torch.inference_mode):
        for train in (True, False):
            with mode():
                output, expected = module.train(train)(x), dense.train(train)(x)
            torch.testing.assert_close(output, expected)
            assert not output.requires_grad


@pytest.mark.parametrize("batch_first", [False, True])
def test_attention_draws_the_dropout_that_torch_draws(batch_first):
    dense = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=batch_first)
    module = nn.Sequential(copy.deepcopy(dense))
    gmixout.attach(module, GMixout(mask_rate=0.5), head=())
    x = torch.randn(3, 5, 8)
    outputs = []
    for layer in (dense, module[0]):
        torch.manual_seed(1)
        outputs.append(layer(x, x, x, need_weights=False)[0])
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("structure", UNPAIRED)
def test_a_batch_of_nothing(structure):
    module = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(32, 4))
    masked = gmixout.attach(
        module, GMixout(mask_rate=0.5, **CUTS[structure], block_size=2), head=()
    )
    module(torch.randn(0, 4, 4, 4)).sum().backward()
    assert all((values.grad == 0).all() for values in masked.parameters())
