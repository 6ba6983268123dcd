"""What becomes of a detached model elsewhere is what becomes of a model that was never attached."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

import gmixout

CONFIGS = {
    "reset": gmixout.GMixout(mask_rate=0.5, resample_every=2),
    "entries": gmixout.GMixout(0.5, structure="element", biases="masked", resample_every=2),
    "persist": gmixout.mixout(0.5, resample_every=2),
}


class Net(nn.Module):
    """A convolution, packed attention, a residual and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.hidden = nn.Linear(16, 32)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(images).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.norm(torch.relu(self.hidden(tokens))).mean(1))


IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request) -> tuple[nn.Module, nn.Module]:
    """A model that was trained and detached, and one of its class with the same weights."""
    torch.manual_seed(0)
    model = Net()
    masked = gmixout.attach(model, CONFIGS[request.param])
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-2)))
    for _ in range(5):
        nn.functional.cross_entropy(model(IMAGES), torch.arange(6) % 5).backward()
        optimizer.step()
        optimizer.zero_grad()
    plain = Net()
    plain.load_state_dict(masked.detach().state_dict())
    return model.eval(), plain.eval()


def saved_and_loaded(program: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(program, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.filterwarnings("ignore")  # it is deprecated
@pytest.mark.parametrize("how", ["script", "trace", "freeze"])
def test_torchscript(pair, how):
    made = []
    for model in pair:
        with torch.no_grad():  # else attention is traced another way than its check
            program = torch.jit.trace(model, IMAGES) if how == "trace" else torch.jit.script(model)
        made.append(saved_and_loaded(torch.jit.freeze(program) if how == "freeze" else program))
    ours, theirs = made
    if how != "freeze":  # which names constants in another order each time
        assert ours.code == theirs.code
    assert torch.equal(ours(IMAGES), theirs(IMAGES))
    torch.testing.assert_close(ours(IMAGES), pair[0](IMAGES))


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(model, (IMAGES,), dynamic_shapes={"images": {0: batch}})


def test_torch_export(pair):
    ours, theirs = (exported(model) for model in pair)
    assert ours.graph_module.code == theirs.graph_module.code
    assert list(ours.state_dict) == list(Net().state_dict())
    file = io.BytesIO()
    torch.export.save(ours, file)
    file.seek(0)
    again = torch.export.load(file).module()
    for count in (1, 5):
        torch.testing.assert_close(again(IMAGES[:count]), pair[0](IMAGES[:count]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter
def test_onnx_and_onnx_quantized(pair, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnxruntime.quantization import quantize_dynamic

    answers = []
    for name, model in zip(("ours", "theirs"), pair, strict=True):
        files = [tmp_path / f"{name}{end}" for end in (".onnx", "-int8.onnx")]
        torch.onnx.export(model, (IMAGES,), files[0], input_names=["images"], verbose=False)
        quantize_dynamic(files[0], files[1])
        sessions = [onnxruntime.InferenceSession(file) for file in files]
        answers.append([each.run(None, {"images": IMAGES.numpy()})[0] for each in sessions])
        torch.testing.assert_close(torch.from_numpy(answers[-1][0]), model(IMAGES).detach())
    assert all(map(np.array_equal, *answers))
    assert not np.array_equal(*answers[0])  # int8 is not float32


@pytest.mark.filterwarnings("ignore")  # it is deprecated
def test_quantized_dynamically(pair):
    made = [torch.ao.quantization.quantize_dynamic(copy.deepcopy(model)) for model in pair]
    assert type(made[0].hidden) is type(made[1].hidden) is not nn.Linear
    ours, theirs = (model(IMAGES) for model in made)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, pair[0](IMAGES))


def test_classes_are_the_plain_ones(pair):
    """Tools that match exact classes find them."""
    ours, theirs = (torch.fx.symbolic_trace(model.hidden) for model in pair)
    assert str(ours.graph) == str(theirs.graph)
    for mine, other in zip(pair[0].modules(), pair[1].modules(), strict=True):
        assert type(mine) is type(other)
        assert vars(mine).keys() == vars(other).keys()
    kinds = [[type(p) for p in model.parameters()] for model in pair]
    assert kinds[0] == kinds[1] == [nn.Parameter] * len(kinds[0])
