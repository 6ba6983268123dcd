"""Every structure's partial gradient is a gather of the dense one, and scatter undoes gather."""

import math

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch.utils.flop_counter import FlopCounterMode

from gmixout.core.masks import count_units, draw
from gmixout.kernels import products
from gmixout.kernels.products import ConvProduct, LinearProduct, PixelProduct
from gmixout.kernels.structures import Blocks, Columns, Elements, Rows

STRUCTURES = (Elements(), Rows(), Columns(), Blocks(size=1), Blocks(size=4), Blocks(size=16))
structures = st.sampled_from(STRUCTURES)
shapes = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple)
rates = st.floats(0, 0.99)


def index_of(structure, shape, rate, seed=0):
    count = count_units(structure, shape, rate)
    return draw(structure, shape, count, seed=seed, name="w", period=0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv(input, weight, product):
    function = (F.conv1d, F.conv2d, F.conv3d)[len(product.kernel_size) - 1]
    geometry = (product.stride, product.padding, product.dilation, product.groups)
    return function(input, weight, None, *geometry)


def check(structure, product, layer, input, weight, index):
    """`structure.grad` against autograd through the dense layer."""
    weight.requires_grad_()
    output = layer(input, weight)
    grad = normal(*output.shape, seed=1)
    (dense,) = torch.autograd.grad(output, weight, grad)
    kept = structure.keep(product, input, index)
    partial = structure.grad(product, grad, kept, index, weight.shape)
    torch.testing.assert_close(partial, structure.gather(dense, index), rtol=1e-10, atol=1e-10)


@given(structure=structures, shape=shapes, rate=rates)
@settings(deadline=None, max_examples=60)
def test_scatter_writes_what_gather_reads_and_nothing_else(structure, shape, rate):
    index = index_of(structure, shape, rate)
    weight, other = normal(*shape), normal(*shape, seed=1)
    before = weight.clone()
    structure.scatter_(weight, index, structure.gather(other, index))
    assert torch.equal(structure.gather(weight, index), structure.gather(other, index))
    changed = weight != before
    assert changed.sum() == structure.gather(weight, index).numel()
    assert torch.equal(weight[changed], other[changed])


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_channels_last_weights_and_half_precision(structure):
    plain = torch.zeros(6, 4, 3, 3, dtype=torch.bfloat16)
    weight = plain.to(memory_format=torch.channels_last)
    index = index_of(structure, weight.shape, 0.5)
    values = structure.gather(normal(6, 4, 3, 3).float(), index)
    structure.scatter_(weight, index, values)
    structure.scatter_(plain, index, values)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, plain)
    assert torch.equal(structure.gather(weight, index), values.bfloat16())


@given(
    structure=structures,
    lead=st.lists(st.integers(0, 5), max_size=3),
    inputs=st.integers(1, 20),
    outputs=st.integers(1, 20),
    rate=rates,
)
@settings(deadline=None, max_examples=60)
def test_linear(structure, lead, inputs, outputs, rate):
    weight = normal(outputs, inputs)
    index = index_of(structure, weight.shape, rate)
    check(structure, LinearProduct(), F.linear, normal(*lead, inputs), weight, index)


@given(data=st.data(), structure=structures, dims=st.integers(1, 3), rate=rates)
@settings(deadline=None, max_examples=60)
def test_convolution(data, structure, dims, rate):
    def sides(low, high):
        return data.draw(st.tuples(*[st.integers(low, high)] * dims))

    groups = data.draw(st.integers(1, 4))
    width, filters = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    product = ConvProduct(sides(1, 3), sides(1, 3), sides(0, 2), sides(1, 2), groups)
    size = [d * (k - 1) + 1 for k, d in zip(product.kernel_size, product.dilation, strict=True)]
    size = [s + data.draw(st.integers(0, 3)) for s in size]
    batch = data.draw(st.sampled_from([(), (1,), (3,)]))
    weight = normal(groups * filters, width, *product.kernel_size)
    input = normal(*batch, groups * width, *size)
    index = index_of(structure, weight.shape, rate)
    check(structure, product, lambda x, w: conv(x, w, product), input, weight, index)


@pytest.mark.parametrize("structure", [Rows(), Columns()], ids=repr)
@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_products_of_as_many_units_as_a_gpu_likes(monkeypatch, structure, count):
    monkeypatch.setattr(products, "ALIGNMENT", {"cpu": 8})
    weight, input = normal(12, 10), normal(2, 3, 10)
    index = torch.arange(10)[-count:]
    assert structure.keep(LinearProduct(), input, index).shape[-1] in (10, 8, 16)
    check(structure, LinearProduct(), F.linear, input, weight, index)


@pytest.mark.parametrize("structure", [Rows(), Columns()], ids=repr)
@pytest.mark.parametrize("band", [slice(0, 3), slice(2, 4), slice(0, 4)], ids=str)
@pytest.mark.parametrize(
    ("product", "weight", "input"),
    [
        (LinearProduct(), (4, 4), (2, 3, 4)),
        (ConvProduct((3,), (2,), (1,), (1,), 1), (4, 4, 3), (2, 4, 7)),
        (ConvProduct((3, 3), (1, 1), (1, 1), (1, 1), 2), (4, 4, 3, 3), (2, 8, 5, 5)),
        (PixelProduct((2, 2)), (4, 4, 1, 1), (2, 4, 5, 5)),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, tuple) else str(x),
)
def test_a_band_is_its_positions(structure, band, product, weight, input):
    """In every function; and what is kept of an input does not hold on to all of it."""
    geometry = product
    if isinstance(product, PixelProduct):
        geometry = ConvProduct((1, 1), product.stride, (0, 0), (1, 1), 1)
    layer = F.linear if isinstance(product, LinearProduct) else lambda x, w: conv(x, w, geometry)
    check(structure, product, layer, normal(*input), normal(*weight), band)
    index = torch.arange(band.start, band.stop)
    one, other, values = normal(*weight), normal(*weight), normal(*weight, seed=1)
    gathered = structure.gather(values, band)
    assert torch.equal(gathered, structure.gather(values, index))
    assert gathered.untyped_storage().data_ptr() != values.untyped_storage().data_ptr()
    structure.scatter_(one, band, gathered)
    structure.scatter_(other, index, gathered)
    assert torch.equal(one, other)
    if isinstance(structure, Columns) and len(index) < 4:
        kept = structure.keep(product, normal(*input), band)
        assert kept.untyped_storage().nbytes() == kept.nbytes


def operations(function):
    """Names of the operations inside `function`."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(function.__name__.split(".")[0])
            return function(*args, **(kwargs or {}))

    called: list[str] = []
    with Watch():
        function()
    return called


def test_rows_of_a_band_are_multiplied_where_they_are():
    """No gather: of the output's gradient nothing is copied."""
    grad, input = normal(64, 512), normal(64, 96)
    with FlopCounterMode(display=False) as counter:
        Rows().grad(LinearProduct(), grad, input, slice(128, 192), (512, 96))
    assert counter.get_total_flops() == 2 * 64 * 64 * 96
    called = operations(
        lambda: Rows().grad(LinearProduct(), grad, input, slice(128, 192), (512, 96))
    )
    assert not {"index_select", "clone", "copy_"} & set(called)


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize(("tokens", "parts"), [((12,), 4), ((3, 8), 6), ((7,), 4), ((0,), 4)])
def test_tokens_that_are_split_give_the_same_sum(monkeypatch, structure, tokens, parts):
    """As on a GPU; a number of tokens that the parts do not divide is one piece."""
    monkeypatch.setattr(products, "SPLIT", {"cpu": parts})
    weight, input = normal(20, 12), normal(*tokens, 12)
    index = index_of(structure, weight.shape, 0.5)
    check(structure, LinearProduct(), F.linear, input, weight, index)


def test_a_split_product_is_one_batch_and_keeps_what_float32_holds(monkeypatch):
    grad, input = normal(4096, 8).bfloat16(), normal(4096, 16).bfloat16()
    exact = grad.double().T @ input.double()
    whole = LinearProduct().dense(grad, input)
    monkeypatch.setattr(products, "SPLIT", {"cpu": 16})
    with FlopCounterMode(display=False) as counter:
        split = LinearProduct().dense(grad, input)
    assert [str(op) for op in counter.get_flop_counts()["Global"]] == ["aten.bmm"]
    assert split.dtype == torch.float32
    assert (split - exact).abs().max() <= (whole - exact).abs().max()
    wide = normal(4096, 128 * (products.SMALL_PRODUCT + 1)).bfloat16()
    with FlopCounterMode(display=False) as counter:
        LinearProduct().dense(grad, wide)
    assert [str(op) for op in counter.get_flop_counts()["Global"]] == ["aten.mm"]


@pytest.mark.parametrize("strip", [1, 40, 10**6])
@pytest.mark.parametrize(
    ("product", "weight", "input"),
    [
        (LinearProduct(), (14, 6), (5, 6)),
        (LinearProduct(), (91, 6), (5, 6)),  # 7 x 13: tiles of 7, strips of 84 rows are 7 x 12
        (ConvProduct((3, 3), (1, 1), (1, 1), (1, 1), 2), (14, 6, 3, 3), (2, 12, 5, 5)),
    ],
    ids=["linear", "uneven", "conv"],
)
def test_tiles_from_strips_of_the_dense_gradient(monkeypatch, strip, product, weight, input):
    """As on a GPU, where tile by tile took 2.4 times as long."""
    monkeypatch.setattr("gmixout.kernels.structures.TILED", ())
    monkeypatch.setattr("gmixout.kernels.structures.STRIP_ENTRIES", {"cpu": strip})
    monkeypatch.delattr(type(product), "tiles")
    layer = F.linear if isinstance(product, LinearProduct) else lambda x, w: conv(x, w, product)
    for size, rate in ((12, 0.5), (4, 0.9), (1, 0.7)):
        index = index_of(Blocks(size=size), weight, rate)
        check(Blocks(size=size), product, layer, normal(*input), normal(*weight), index)


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_gathering_and_writing_are_deterministic_in_any_memory_format(structure):
    weight = normal(6, 4, 3, 3).to(memory_format=torch.channels_last)
    index = index_of(structure, weight.shape, 0.5)
    before = weight.clone()
    torch.use_deterministic_algorithms(True)
    try:
        structure.scatter_(weight, index, 2 * structure.gather(weight, index))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(structure.gather(weight, index), 2 * structure.gather(before, index))


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_of_single_pixels_is_a_linear_layer(structure, dims, stride):
    """Channels last, no gradient of a convolution is computed."""
    product = ConvProduct((1,) * dims, (stride,) * dims, (0,) * dims, (2,) * dims, groups=1)
    weight, input = normal(6, 8, *product.kernel_size), normal(2, *range(5, 5 + dims), 8)
    index = index_of(structure, weight.shape, 0.5)
    input = input.movedim(-1, 1)
    assert product.of(input.contiguous()) is product
    assert isinstance(product.of(input), PixelProduct)
    check(structure, product.of(input), lambda x, w: conv(x, w, product), input, weight, index)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_chosen_channels_lie_in_memory_as_all_do(monkeypatch, structure, groups):
    """Else a convolution would bring its factors into one format first, at half its own time."""
    formats, real = [], ConvProduct._product

    def product_of(self, grad, input, groups):
        formats.extend(x.movedim(1, -1).is_contiguous() for x in (grad, input))
        return real(self, grad, input, groups)

    monkeypatch.setattr(ConvProduct, "_product", product_of)
    product = ConvProduct((3, 3), (1, 1), (1, 1), (1, 1), groups)
    weight, input = normal(8, 4, 3, 3), normal(2, 5, 6, 4 * groups).movedim(-1, 1)
    index = index_of(structure, weight.shape, 0.5)
    check(
        structure,
        product,
        lambda x, w: conv(x, w, product).contiguous(memory_format=torch.channels_last),
        input,
        weight,
        index,
    )
    assert formats
    assert all(formats[1::2])


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_tiles_of_single_pixels_are_never_a_convolution(monkeypatch, batch):
    product = ConvProduct((1, 1), (2, 2), (0, 0), (1, 1), groups=1)
    weight, input = normal(6, 8, 1, 1), normal(*batch, 8, 5, 6)
    index = index_of(Blocks(size=2), weight.shape, 0.5)
    monkeypatch.delattr(ConvProduct, "_product")
    check(Blocks(size=2), product, lambda x, w: conv(x, w, product), input, weight, index)


@pytest.mark.parametrize("strip", [1, 7, 40, 10**6])
def test_element_in_strips_of_any_size(monkeypatch, strip):
    monkeypatch.setattr("gmixout.kernels.structures.STRIP_ENTRIES", {"cpu": strip})
    weight = normal(13, 5)
    for rate in (0.0, 0.6, 0.98):
        index = index_of(Elements(), weight.shape, rate)
        check(Elements(), LinearProduct(), F.linear, normal(4, 5), weight, index)


@pytest.mark.parametrize("entries", [1, 50, 10**6])
def test_blocks_in_pieces_of_any_size(monkeypatch, entries):
    monkeypatch.setattr(products, "GATHER_ENTRIES", entries)
    weight = normal(12, 8)
    index = index_of(Blocks(size=4), weight.shape, 0.3)
    check(Blocks(size=4), LinearProduct(), F.linear, normal(6, 8), weight, index)


def largest_tensor(function):
    """Entries of the largest tensor that any operation inside `function` returns."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.largest = max(self.largest, tensor.untyped_storage().size() // 8)
            return out

    with Watch() as watch:
        function()
    return watch.largest


@pytest.mark.parametrize("structure", [Elements(), Rows(), Columns(), Blocks(size=16)], ids=repr)
def test_no_dense_gradient_is_ever_made(monkeypatch, structure):
    """The weight is far larger than anything that its masked gradient touches."""
    monkeypatch.setattr("gmixout.kernels.structures.STRIP_ENTRIES", {"cpu": 4096})
    monkeypatch.setattr(products, "GATHER_ENTRIES", 4096)
    product, shape = LinearProduct(), (512, 512)
    grad, input = normal(64, 512), normal(64, 512)
    index = index_of(structure, shape, 0.95)
    kept = structure.keep(product, input, index)
    largest = largest_tensor(lambda: structure.grad(product, grad, kept, index, shape))
    assert largest < 0.15 * math.prod(shape)


def test_column_keeps_only_the_chosen_inputs():
    index = torch.tensor([1, 4])
    assert Columns().keep(LinearProduct(), normal(3, 8), index).shape == (3, 2)
    two_groups = ConvProduct((3,), (1,), (1,), (1,), groups=2)
    assert Columns().keep(two_groups, normal(3, 10, 7), index).shape == (3, 4, 7)


@pytest.mark.parametrize("structure", [Rows(), Columns(), Blocks(size=4)], ids=repr)
def test_parts_that_are_not_chosen_do_not_reach_the_gradient(structure):
    """NaN in every row of the output's gradient, or input, that the chosen units do not touch."""
    shape, product = (8, 8), LinearProduct()
    index = torch.tensor([1])
    touched = torch.zeros(shape)
    structure.scatter_(touched, index, torch.ones_like(structure.gather(touched, index)))
    grad, input = normal(5, 8), normal(5, 8)
    if not isinstance(structure, Columns):
        grad[:, touched.sum(1) == 0] = math.nan
    if not isinstance(structure, Rows):
        input[:, touched.sum(0) == 0] = math.nan
    kept = structure.keep(product, input, index)
    assert structure.grad(product, grad, kept, index, shape).isfinite().all()
