"""The Triton kernel against its definition, under Triton's interpreter where there is no GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmixout.core.masks import STRUCTURES, count_units, draw
from gmixout.kernels.reference import LinearProduct

pytest.importorskip("triton")
from gmixout.kernels import sampled as kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def operands(tokens, rows, columns, chosen, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    grad, input = (torch.randn(tokens, n, generator=generator).to(dtype) for n in (rows, columns))
    index = torch.randperm(rows * columns, generator=generator)[:chosen].sort().values
    return grad.to(DEVICE), input.to(DEVICE), index.to(DEVICE)


def definition(grad, input, index):
    return (grad.double().T @ input.double()).flatten()[index]


def check(grad, input, index):
    found = kernel.sampled_product(grad, input, index)
    assert found.dtype == (torch.float64 if grad.dtype == torch.float64 else torch.float32)
    # summed in another order: as far off as a sum of so many float32 may be
    close = 1e-12 if grad.dtype == torch.float64 else 1e-5
    limit = close * (1 + len(grad) ** 0.5)
    torch.testing.assert_close(found.double(), definition(grad, input, index), rtol=0, atol=limit)


@settings(deadline=None, max_examples=30)
@given(
    tokens=st.integers(1, 70),
    rows=st.integers(1, 150),
    columns=st.integers(1, 150),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_odd_shapes(tokens, rows, columns, share, seed):
    check(*operands(tokens, rows, columns, int(share * rows * columns), seed=seed))


@pytest.mark.parametrize("dtype", TYPES)
def test_every_dtype(dtype):
    check(*operands(50, 130, 70, 900, dtype))


def test_sums_that_are_split_among_programs(monkeypatch):
    monkeypatch.setattr(kernel, "PROGRAMS_A_PROCESSOR", 1000)
    for tokens in (1, 31, 33, 200):
        check(*operands(tokens, 9, 11, 20))


def test_nothing_chosen_and_no_tokens():
    assert kernel.sampled_product(*operands(5, 3, 3, 0)).shape == (0,)
    assert kernel.sampled_product(*operands(0, 3, 3, 4)).tolist() == [0.0] * 4


def test_operands_of_any_strides():
    grad, input, index = operands(40, 20, 30, 100)
    wide = torch.full((40, 60), torch.nan, device=DEVICE)
    wide[:, ::2] = input
    check(grad.T.contiguous().T, wide[:, ::2], index)


@pytest.mark.parametrize("operand", ["grad", "input"])
def test_addresses_beyond_32_bits(operand):
    """A view whose last column starts 2**31 entries on; of the memory only that is touched."""
    (grad, input), index = (normal(3, 3), normal(3, 3)), torch.arange(9, device=DEVICE)
    storage = torch.empty(2**31 + 3, dtype=torch.bfloat16, device=DEVICE)
    far = storage.as_strided((3, 3), (1, 2**30))
    far.copy_({"grad": grad, "input": input}[operand])
    found = kernel.sampled_product(*((far, input) if operand == "grad" else (grad, far)), index)
    torch.testing.assert_close(found.double(), definition(grad, input, index), atol=1e-5, rtol=0)


def normal(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(DEVICE, torch.bfloat16)


def test_every_value_is_written_and_nothing_else_gets_in(monkeypatch):
    """Memory that was not written is NaN; and so is the gradient where nothing was chosen."""
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *size, **options: empty(*size, **options).fill_(torch.nan)
    )
    grad, input, index = operands(40, 140, 70, 300)
    row, column = (set(part.tolist()) for part in (index // 70, index % 70))
    grad[:, [r for r in range(140) if r not in row]] = torch.nan
    input[:, [c for c in range(70) if c not in column]] = torch.nan
    check(grad, input, index)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own check looks at it
def test_its_gradient_and_its_shape_without_data():
    grad, input, index = operands(6, 4, 5, 9, torch.float64)
    grad.requires_grad_()
    input.requires_grad_()
    torch.library.opcheck(kernel.sampled_product, (grad, input, index))
    assert torch.autograd.gradcheck(lambda g, x: kernel.sampled_product(g, x, index), (grad, input))


def test_it_is_the_gradient_of_element_masks():
    element, shape = STRUCTURES["element"](16), (48, 40)
    count = count_units(element, shape, 0.9)
    index = draw(element, shape, count, seed=0, name="weight", period=1, device=DEVICE)
    grad, input, _ = operands(30, *shape, 0)
    expected = element.grad(LinearProduct(), grad, input, index, shape)
    torch.testing.assert_close(kernel.sampled_product(grad, input, index), expected[:, 0])
