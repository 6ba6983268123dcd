"""The process on a device computes what it does on the CPU, and what dense autograd does.

Everything runs on a GPU; what says something on a CPU, too, and takes no time there, runs on both.
"""

import copy
import io
from collections.abc import Callable, Iterator

import pytest
import torch
from tiny import CUTS, STRUCTURES, UNPAIRED, PlainNet, TinyNet, loss_of
from torch import Tensor, nn

import gmixout
from gmixout import GMixout

needs_cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = pytest.param("cuda", marks=needs_cuda)


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """A device that sums in float32 where it is told to, and always in one order."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        yield request.param
    matmul.allow_tf32 = before


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(96, 80), (4, 7, 96)),
    "strided": (lambda: nn.Conv2d(16, 32, 3, stride=2, padding=1), (3, 16, 15, 13)),
    "1x1": (lambda: nn.Conv2d(32, 48, 1), (3, 32, 9, 9)),
    "grouped": (lambda: nn.Conv2d(32, 32, 3, groups=8, padding=1), (3, 32, 9, 9)),
    "depthwise": (lambda: nn.Conv2d(32, 32, 5, groups=32, padding=2), (3, 32, 9, 9)),
    "attention": (Attention, (2, 11, 64)),
}
FORMATS = {False: torch.contiguous_format, True: torch.channels_last}


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
@pytest.mark.parametrize("structure", UNPAIRED)
@pytest.mark.parametrize("layer", LAYERS)
def test_masked_gradients_are_those_of_dense_autograd(device, layer, structure, dtype, close):
    make, shape = LAYERS[layer]
    plain = make().to(device, dtype)
    images = torch.randn(shape, dtype=torch.float64).to(device, dtype)
    for last in (False, True) if len(shape) == 4 else (False,):
        x, y = (images.clone(memory_format=FORMATS[last]).requires_grad_() for _ in range(2))
        dense = copy.deepcopy(plain).to(memory_format=FORMATS[last])
        model = copy.deepcopy(dense)
        config = GMixout(mask_rate=0.5, **CUTS[structure], resample_every=None, block_size=4)
        masked = gmixout.attach(model, config, select=lambda _, weight: weight.ndim >= 2, head=())
        optimizer = masked.bind(torch.optim.SGD(masked.parameters(), lr=1.0))
        model(x).sin().sum().backward()
        dense(y).sin().sum().backward()
        optimizer.step()
        assert (x.grad - y.grad).abs().max() <= close * y.grad.abs().max()
        after = masked.snapshot()
        for name, weight in dense.named_parameters():
            if weight.ndim < 2:
                continue
            moved = (weight - after[name]).detach()
            chosen = moved != 0
            assert chosen.any(), name
            worst = (moved - weight.grad)[chosen].abs().max()
            assert worst <= close * weight.grad.abs().max(), (name, last)


@pytest.mark.parametrize("structure", UNPAIRED)
def test_a_run_that_was_saved_and_loaded_ends_bit_equal(device, structure):
    """Through a file, as a run is stopped and resumed."""
    config = GMixout(**CUTS[structure], resample_every=3, block_size=4)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(17, 6, 4, 4, 4, generator=generator)
    labels = torch.arange(6, device=device) % 4

    def start(state=None):
        torch.manual_seed(0)
        model = PlainNet().to(device)
        masked = gmixout.attach(model, config)
        optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(1e-2), fused=True))
        for one, saved in zip((model, masked, optimizer), state or (), strict=False):
            one.load_state_dict(saved)
        return model, masked, optimizer

    def run(objects, steps):
        for step in steps:
            loss_of(objects[0], (images[step].to(device), labels)).backward()
            objects[2].step()
            objects[2].zero_grad()
        return objects[1].snapshot()

    whole = run(start(), range(17))
    first = start()
    run(first, range(8))
    file = io.BytesIO()
    torch.save([each.state_dict() for each in first], file)
    file.seek(0)
    resumed = run(start(torch.load(file, map_location=device)), range(8, 17))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("how", ["fp16", "bf16"])
def test_half_precision_learns(device, structure, how):
    """Autocast to float16 with a loss scale that is far too large at first; pure bfloat16."""
    model = TinyNet().to(device, torch.bfloat16 if how == "bf16" else torch.float32)
    config = GMixout(mask_rate=0.5, **CUTS[structure], resample_every=2, block_size=4)
    masked = gmixout.attach(model, config)
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(1e-2), fused=how == "bf16"))
    scaler = torch.amp.GradScaler(device, 2.0**30, growth_interval=3, enabled=how == "fp16")
    images = torch.randn(6, 4, 4, 4).to(device, next(model.parameters()).dtype)
    labels = torch.arange(6, device=device) % 4
    losses, taken = [], 0
    for _ in range(50):
        with torch.autocast(device, torch.float16, enabled=how == "fp16"):
            logits = model(images)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    taken = masked.state_dict()["steps"]
    assert losses[-1] < 0.9 * losses[0]
    assert 10 <= taken < 50 if how == "fp16" else taken == 50  # the scaler skipped some


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_masks_of_a_device_are_those_of_the_cpu(device, structure):
    """Of wide, tall, odd and convolutional weights, in twelve periods."""
    layers = nn.ModuleList(
        [nn.Linear(1152, 384), nn.Linear(768, 3072), nn.Linear(70, 130), nn.Conv2d(3, 64, 7)]
    )
    config = GMixout(**CUTS[structure], resample_every=1, anchor_decay=0.5)
    found = []
    for where in ("cpu", device):
        model = copy.deepcopy(layers).to(where)
        masked = gmixout.attach(model, config, head=())
        optimizer = masked.bind(torch.optim.SGD(masked.param_groups(1.0)))
        found.append([])
        for _ in range(12):
            for parameter in masked.parameters():
                parameter.grad = torch.ones_like(parameter)
            before = masked.snapshot()
            optimizer.step()
            after = masked.snapshot()
            found[-1].append({name: (after[name] != before[name]).cpu() for name in after})
    assert any(moved.any() for each in found[0] for moved in each.values())
    for cpu, gpu in zip(*found, strict=True):
        assert all(torch.equal(cpu[name], gpu[name]) for name in cpu)


@pytest.mark.parametrize("structure", [s for s in STRUCTURES if s != "block"])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("device", [CUDA], indirect=True)
@pytest.mark.filterwarnings("default")
def test_compiled_training_is_eager_training_across_redraws(device, mode, structure):
    """One graph, without breaks, and as CUDA graphs."""
    timm = pytest.importorskip("timm")
    torch._dynamo.reset()
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=64, depth=3)
    images, labels = torch.randn(8, 3, 64, 64).to(device), torch.arange(8, device=device)
    losses = []
    for compiled in (False, True):
        model = copy.deepcopy(plain).to(device)
        masked = gmixout.attach(model, GMixout(**CUTS[structure], resample_every=2))
        optimizer = masked.bind(torch.optim.SGD(masked.param_groups(1e-1), momentum=0.9))
        forward = torch.compile(model, fullgraph=True, mode=mode) if compiled else model
        losses.append([])
        for _ in range(9):
            loss = nn.functional.cross_entropy(forward(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=2e-3, abs=2e-3)
    assert losses[0][-1] < losses[0][0]
