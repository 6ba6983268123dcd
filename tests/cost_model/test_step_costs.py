"""The cost model: what is counted is exact, nothing is computed, more work costs more."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import gmixout
from gmixout.cost_model import (
    DEVICES,
    Trace,
    WorkKind,
    bytes_of,
    get_device,
    gpu_autocast,
    imagined,
    part_of,
    predict_step,
    trace_steps,
)
from gmixout.errors import ConfigError

H100 = DEVICES["h100"]
sizes = st.integers(1, 5000)


def traced(run, *shapes, dtype=torch.float32):
    """The operations of a function of tensors, with the memory it makes."""
    with imagined():
        tensors = [torch.empty(shape, dtype=dtype) for shape in shapes]
        return trace_steps(lambda _: run(*tensors))


def only(trace):
    (operation,) = trace.operations
    return operation


@settings(max_examples=6, deadline=None)
@given(sizes, sizes, sizes)
def test_flops_and_bytes_of_a_product_are_exact(m, k, n):
    found = only(traced(lambda a, b: a @ b, (m, k), (k, n)))
    assert (found.kind, found.flops) == (WorkKind.PRODUCT, 2 * m * k * n)
    assert found.sides == (1, m, n, k)
    assert (found.read, found.written) == (4 * (m * k + k * n), 4 * m * n)


@settings(max_examples=6, deadline=None)
@given(sizes, sizes)
def test_a_linear_layer_has_three_products_in_a_step(images, width):
    layer = nn.Linear(width, 7)

    def step(x):
        layer(x).sum().backward()

    flops = [
        o.flops for o in traced(step, (images, width)).operations if o.kind is WorkKind.PRODUCT
    ]
    assert flops == [2 * images * width * 7] * 2  # the input needs no gradient
    with imagined():
        x = torch.empty(images, width, requires_grad=True)
        trace = trace_steps(lambda _: layer(x).sum().backward())
    assert sum(o.flops * n for o, n in trace.operations.items()) == 3 * 2 * images * width * 7


@pytest.mark.parametrize(
    ("run", "shapes", "read", "written", "kind"),
    [
        (lambda a, b: a + b, [(9, 50), (9, 50)], 2 * 450, 450, WorkKind.STREAM),
        (lambda a, b: a + b, [(9, 50), (50,)], 450 + 50, 450, WorkKind.STREAM),
        (lambda a: a.add_(1), [(9, 50)], 450, 450, WorkKind.STREAM),
        (lambda a: a.zero_(), [(9, 50)], 0, 450, WorkKind.STREAM),
        (lambda a, b: a.copy_(b), [(9, 50), (9, 50)], 450, 450, WorkKind.STREAM),
        (lambda a: a.sum(0), [(9, 50)], 450, 50, WorkKind.REDUCTION),
        (lambda a: a.T.contiguous(), [(9, 50)], 450, 450, WorkKind.STRIDED),
        (lambda a, b: torch.cat([a, b]), [(9, 50), (2, 50)], 550, 550, WorkKind.STREAM),
        (lambda a: a.expand(9, 50) * 1, [(1, 50)], 50, 450, WorkKind.STREAM),
        (functional.gelu, [(9, 50)], 450, 450, WorkKind.STREAM),
    ],
)
def test_bytes_are_those_that_are_read_and_written(run, shapes, read, written, kind):
    found = only(traced(run, *shapes))
    assert (found.read, found.written, found.kind) == (4 * read, 4 * written, kind)


@pytest.mark.parametrize(
    "run",
    [torch.Tensor.t, lambda a: a[2:, :3], lambda a: a.view(-1), torch.empty_like, torch.detach],
)
def test_views_and_allocations_move_nothing(run):
    assert not traced(run, (9, 50)).operations


def test_a_cast_reads_wide_and_writes_narrow():
    found = only(traced(lambda a: a.bfloat16(), (9, 50)))
    assert (found.read, found.written) == (4 * 450, 2 * 450)


def test_gathered_columns_touch_whole_sectors_and_rows_only_themselves():
    def gather(side):
        with imagined():
            x, index = torch.empty(4096, 4096, dtype=torch.bfloat16), torch.empty(410).long()
            return only(trace_steps(lambda _: x.index_select(side, index)))

    whole, index = 2 * 4096**2, 8 * 410
    rows, columns = gather(0).read - index, gather(1).read - index
    assert rows == pytest.approx(whole * 410 / 4096, rel=1e-6)
    assert columns == pytest.approx(whole * (1 - (1 - 410 / 4096) ** 16), rel=1e-6)


def test_the_optimizer_reads_and_writes_all_its_state_once():
    layer = nn.Linear(100, 100, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)

    def step(x):
        layer(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    (found,) = (o for o in traced(step, (3, 100)).operations if "adam" in o.name)
    assert found.read == pytest.approx(4 * 4 * 10**4, abs=64)  # steps and rates are numbers
    assert found.written == 3 * 4 * 10**4


def small():
    layers = [nn.Linear(48, 96), nn.GELU(), nn.LayerNorm(96), nn.Linear(96, 48), nn.Linear(48, 10)]
    return nn.Sequential(*layers)


def train(start, batch=8, autocast=None, dtype=torch.float32):
    """The trace of a step of a small net, made ready by `start`, which returns an optimizer."""
    model = small().to(dtype)
    before = bytes_of(model)
    optimizer = start(model)
    with imagined():
        x, y = torch.empty(batch, 48, dtype=dtype), torch.empty(batch, dtype=torch.long)

        def step(_):
            with gpu_autocast(autocast):
                out = model(x)
            functional.cross_entropy(out.float(), y).backward()
            optimizer.step()
            optimizer.zero_grad()

        return trace_steps(step, kept_bytes=bytes_of(model) - before)


def adamw(parameters):
    return torch.optim.AdamW(parameters, fused=True)


def full(model):
    return adamw(model.parameters())


def floor(model, dims=2):
    for parameter in model[:-1].parameters():
        parameter.requires_grad_(parameter.dim() < dims)
    return adamw([p for p in model.parameters() if p.requires_grad])


def held(model):
    return floor(model, dims=1)


def masked(structure):
    def start(model):
        found = gmixout.attach(model, gmixout.GMixout(mask_rate=0.5, structure=structure))
        return found.bind(adamw(found.param_groups(lr=1e-3)))

    return start


def seconds(trace, device=H100):
    return predict_step(trace, device).total.seconds


def test_what_trains_less_costs_less():
    traces = [train(start) for start in (held, floor, full)]
    assert sorted(map(seconds, traces)) == list(map(seconds, traces))
    flops = [predict_step(trace, H100).total.flops for trace in traces]
    assert flops == sorted(flops)
    peaks = [trace.peak_bytes for trace in traces]
    assert peaks == sorted(peaks)


@pytest.mark.parametrize("structure", ["element", "row", "column", "block"])
def test_masked_steps_are_traced_as_on_a_gpu(structure):
    trace = train(masked(structure), autocast=torch.bfloat16)
    products = [o for o in trace.operations if o.kind is WorkKind.PRODUCT]
    assert {o.dtype for o in products} == {torch.bfloat16}
    adam = sum(o.written for o in trace.operations if "adam" in o.name)
    assert adam < sum(o.written for o in train(full).operations if "adam" in o.name)


def test_python_sees_a_gpu_while_a_step_is_traced():
    seen = {}

    def look(x):
        seen["device"], seen["is_cuda"] = x.device, x.is_cuda
        return torch.arange(3, device=x.device) + torch.zeros(3, device="cuda")

    traced(look, (2, 2))
    assert seen == {"device": torch.device("cuda", 0), "is_cuda": True}
    assert torch.zeros(1).device.type == "cpu"


def test_an_index_may_be_read_and_a_value_may_not():
    with imagined():
        x = torch.empty(4, 5)
        trace_steps(lambda _: x.narrow(0, int(x.argmax()), 1) + 1)
        with pytest.raises(RuntimeError):
            trace_steps(lambda _: float(x.sum()))


def test_autocast_is_that_of_cuda_and_is_gone_afterwards():
    trace = train(full, autocast=torch.bfloat16)
    types = {(o.kind, o.dtype) for o in trace.operations}
    assert (WorkKind.PRODUCT, torch.bfloat16) in types
    assert (WorkKind.PRODUCT, torch.float32) not in types
    assert {dtype for kind, dtype in types if kind is WorkKind.NORM} == {torch.float32}
    casts = sum(n for o, n in trace.operations.items() if o.name == "_to_copy")
    assert casts > sum(n for o, n in train(full).operations.items() if o.name == "_to_copy")
    assert not torch.is_autocast_enabled("cuda")
    assert not torch.is_autocast_enabled("cpu")


def test_more_images_cost_more():
    few, many = train(full, batch=8), train(full, batch=64)
    assert seconds(few) < seconds(many)
    assert few.peak_bytes < many.peak_bytes


def test_nothing_is_computed_and_no_weight_changes():
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = full(model)
    with imagined():
        x = torch.empty(10**9, 48)  # 192 GB

        def step(_):
            model(x).sum().backward()
            optimizer.step()

        trace = trace_steps(step)
    assert trace.peak_bytes > 10**11
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in before)


def test_memory_is_that_of_what_lives_at_a_time():
    def chain(x):
        for _ in range(5):
            x = x * 2

    def keep(x):
        return [x * 2 for _ in range(5)]

    size = 4 * 1024 * 1024
    assert traced(chain, (1024, 1024)).peak_bytes == 2 * size
    assert traced(keep, (1024, 1024)).peak_bytes in (5 * size, 10 * size)


@settings(max_examples=10, deadline=None)
@given(st.floats(1.1, 8), st.sampled_from(["bandwidth", "half", "single"]))
def test_a_faster_device_is_never_slower(factor, figure):
    trace = _shared_trace()
    faster = replace(H100, **{figure: factor * getattr(H100, figure)})
    before, after = predict_step(trace, H100), predict_step(trace, faster)
    assert after.seconds <= before.seconds * (1 + 1e-9)
    assert after.total.seconds <= before.total.seconds * (1 + 1e-9)
    if figure == "bandwidth":
        assert after.total.seconds < before.total.seconds


_TRACES: list[Trace] = []


def _shared_trace():
    if not _TRACES:
        _TRACES.append(train(full, batch=4096))
    return _TRACES[0]


@pytest.mark.parametrize("name", DEVICES)
def test_no_operation_is_faster_than_its_limit(name):
    for operation in _shared_trace().operations:
        share = part_of(operation, DEVICES[name])
        assert share.seconds >= share.limit_seconds >= operation.bytes / DEVICES[name].bandwidth


def test_the_host_sets_the_pace_of_small_steps_and_not_of_large_ones():
    small_step, large = train(full, batch=2), train(full, batch=2**20)
    found = predict_step(small_step, H100)
    assert found.seconds >= found.host_seconds * 0.9 > found.total.seconds
    found = predict_step(large, H100)
    assert found.seconds == pytest.approx(found.total.seconds, rel=0.02)


def test_every_nth_step_of_another_kind_is_a_mean():
    plain, other = train(full, batch=4), train(full, batch=4096)
    mixed = predict_step(plain.every(10, other), H100).total
    expected = predict_step(plain, H100).total * 0.9 + predict_step(other, H100).total * 0.1
    assert mixed.seconds == pytest.approx(expected.seconds)
    assert mixed.bytes == pytest.approx(expected.bytes)


@pytest.mark.parametrize("name", ["H100", "rtx-4090", "RTX 3090", "l4"])
def test_devices_are_found_as_people_write_them(name):
    found = get_device(name)
    assert found.source.startswith("NVIDIA")
    assert found.half > found.tf32 > 0
    assert found.single <= found.tf32


@pytest.mark.parametrize(("name", "meant"), [("rtx4080", "rtx4090"), ("h10", "h100"), ("", None)])
def test_an_unknown_device_is_named_with_what_is_known(name, meant):
    with pytest.raises(ConfigError, match="known are h100, h200, a100, l4, rtx4090, rtx3090") as e:
        get_device(name)
    assert ("did you mean" in str(e.value)) == (meant is not None)
    assert meant is None or meant in str(e.value)
