"""Models and machinery that people use: gradients and training runs equal the dense ones."""

import copy

import pytest
import torch
from tiny import (
    CUTS,
    STRUCTURES,
    UNPAIRED,
    PlainNet,
    TinyNet,
    batches,
    loss_of,
    masked_copy,
    saved_bytes,
    train,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import gmixout
from gmixout import GMixout

CONFIG = GMixout(mask_rate=0.5, resample_every=2, structure="row")


def timm_model(name, **options):
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=5, **options)


def tiny_vit():
    return timm_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2
    )


def tiny_resnet():
    return timm_model("resnet10t", stem_width=4, channels=(8, 8, 16, 16))


def tiny_beit():
    """Calls F.linear with its qkv's weight, and a bias put together from two parts."""
    return timm_model(
        "beit_base_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2
    )


def tiny_eva():
    return timm_model(
        "eva02_tiny_patch14_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2
    )


def tiny_convnext():
    return timm_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))


def torchvision_vit():
    vision_transformer = pytest.importorskip("torchvision.models.vision_transformer")
    return vision_transformer.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=48,
        num_classes=5,
    )  # fmt: skip


def open_clip_vision():
    transformer = pytest.importorskip("open_clip.transformer")
    return transformer.VisionTransformer(
        image_size=32, patch_size=8, width=24, layers=2, heads=2, mlp_ratio=2.0, output_dim=5
    )


MODELS = {
    "timm vit": tiny_vit,
    "timm resnet": tiny_resnet,
    "timm beit": tiny_beit,
    "timm eva": tiny_eva,
    "timm convnext": tiny_convnext,
    "torchvision vit": torchvision_vit,
    "open_clip vit": open_clip_vision,
}

CONVOLUTIONAL = ("timm resnet", "timm convnext")
"""Without linear layers in a row, so without hidden neurons that could be found."""

HEADLESS = {"open_clip vit": ()}

# Libraries' own deprecations are no business of these tests.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*timm.*:UserWarning"
)


def images(count=2, size=32):
    return torch.randn(count, 3, size, size, dtype=torch.float64)


def dense_gradients(model, x):
    model.zero_grad()
    output = model(x)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return output.detach(), {n: p.grad for n, p in model.named_parameters()}


def assert_gradients(masked, model, dense, x):
    expected, grads = dense_gradients(dense, x)
    output, ours = dense_gradients(model, x)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    for name, weight in masked._weights.items():
        wanted = weight.structure.gather(grads[name], weight.index)
        torch.testing.assert_close(weight.values.grad, wanted, rtol=1e-7, atol=1e-9, msg=name)
    for name in grads:
        if name not in masked._weights and grads[name] is not None:
            torch.testing.assert_close(ours[name], grads[name], rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("name", "structure"),
    [(n, s) for n in MODELS for s in (UNPAIRED if n in CONVOLUTIONAL else STRUCTURES)],
)
def test_gradients_equal_the_dense_ones(name, structure):
    dense = MODELS[name]().double()
    config = GMixout(mask_rate=0.5, **CUTS[structure], block_size=4)
    model, masked = masked_copy(dense, config, head=HEADLESS.get(name))
    assert len(masked.summary().weights) >= 8
    assert_gradients(masked, model, dense, images())


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("timm vit", "head"),
        ("timm resnet", "fc"),
        ("timm convnext", "head.fc"),
        ("torchvision vit", "heads.head"),
    ],
)
def test_the_head_is_found_and_trained_densely(name, head):
    model = MODELS[name]()
    masked = gmixout.attach(model, CONFIG)
    assert not any(w.name.startswith(head) for w in masked.summary().weights)
    groups = {g["name"]: g["params"] for g in masked.param_groups(lr=1.0)}
    assert {id(p) for p in groups["head"]} == {
        id(p) for p in model.get_submodule(head).parameters()
    }
    assert head in str(masked.summary())


def test_attention_projections_of_clip_and_torchvision_go_the_lean_way():
    for make in (open_clip_vision, torchvision_vit):
        masked = gmixout.attach(make(), CONFIG, head=() if make is open_clip_vision else None)
        rows = {w.name: w for w in masked.summary().weights}
        packed = [w for n, w in rows.items() if n.endswith("in_proj_weight")]
        assert len(packed) == 2
        assert {w.path for w in packed} == {"fast"}


def test_default_selection_takes_weights_of_layers_alone():
    model = TinyNet()
    masked = gmixout.attach(model, CONFIG)
    names = {w.name for w in masked.summary().weights}
    expected = {
        f"{n}.{a}"
        for n, m in model.named_modules()
        for a in ("weight", "in_proj_weight")
        if isinstance(m, (nn.Linear, nn.Conv2d, nn.MultiheadAttention))
        and a in m._parameters
        and n != "head"
    }
    assert names == expected


class Checkpointed(nn.Module):
    def __init__(self, net, reentrant):
        super().__init__()
        self.net, self.reentrant = net, reentrant

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = checkpoint(layer, x, use_reentrant=self.reentrant)
        return x


@pytest.mark.parametrize("structure", UNPAIRED)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(structure, reentrant):
    dense = PlainNet().double()
    config = GMixout(mask_rate=0.5, **CUTS[structure], block_size=2)
    model, _ = masked_copy(dense, config, head="5")
    x = torch.randn(3, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    loss_of(model, (x, torch.arange(3))).backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    loss_of(Checkpointed(model, reentrant), (x, torch.arange(3))).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, plain[name], msg=name)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_autocast_in_bfloat16_gives_autocasts_own_gradients(structure):
    dense = TinyNet()
    config = GMixout(mask_rate=0.5, **CUTS[structure], block_size=2)
    model, masked = masked_copy(dense, config)
    batch = next(batches(1))
    grads = []
    for module in (dense, model):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = module(batch[0])
            assert output.dtype == torch.bfloat16
            loss = nn.functional.cross_entropy(output.float(), batch[1])
        loss.backward()
        grads.append(dict(module.named_parameters()))
    for name, weight in masked._weights.items():
        dense_grad = grads[0][name].grad
        wanted = weight.structure.gather(dense_grad, weight.index)
        assert weight.values.grad.dtype == torch.float32
        # Products in bfloat16 differ by how they are cut.
        tolerance = 0.03 * float(dense_grad.abs().max())
        torch.testing.assert_close(weight.values.grad, wanted, rtol=0.03, atol=tolerance, msg=name)
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-2)))
    optimizer.step()
    assert masked.steps == 1


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(6, 4, 3)], ids=["linear", "conv"])
@pytest.mark.parametrize("structure", ["row", "column"])
def test_autocast_casts_an_input_once(layer, structure):
    """For the layer and for what is kept of its input, and not one that is narrow already."""
    casts = []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default and args[0].shape == x.shape:
                casts.append(args[0].dtype)
            return function(*args, **(kwargs or {}))

    model, _ = masked_copy(nn.Sequential(layer), GMixout(mask_rate=0.5, **CUTS[structure]), head=())
    x = torch.randn(5, 6, 8, 8) if isinstance(layer, nn.Conv2d) else torch.randn(5, 6)
    narrow = x.bfloat16()
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), Casts():
        output = model(x)
        model(narrow)
    assert casts == [torch.float32]
    output.float().sum().backward()
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6), (2, 0, 6)], ids=str)
def test_a_linear_layer_hands_its_gradient_on_as_it_came(shape):
    """In versions of torch whose layer returns a view, autograd would copy it many times."""
    model, _ = masked_copy(nn.Sequential(nn.Linear(6, 4)), CONFIG, head=())
    output = model(torch.randn(shape, requires_grad=True))
    assert output.shape == (*shape[:-1], 4)
    names, left = set(), [output.grad_fn]
    while left:
        node = left.pop()
        names.add(node.name())
        left += [below for below, _ in node.next_functions if below is not None]
    assert "_CollectBackward" in names
    assert not {"CopySlices", "AsStridedBackward0"} & names


def test_channels_last_with_an_in_place_activation():
    """The weights' own memory format stays, and the steps are those of the usual format."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, groups=2),
        nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8 * 36, 4),
    ).double()  # fmt: skip
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for structure in UNPAIRED:
        config = GMixout(mask_rate=0.5, **CUTS[structure], block_size=2, resample_every=2)
        models = []
        for memory_format in (torch.contiguous_format, torch.channels_last):
            model = copy.deepcopy(net).to(memory_format=memory_format)
            masked = gmixout.attach(model, config, head="5")
            optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))
            for _ in range(4):
                output = model(x.contiguous(memory_format=memory_format))
                nn.functional.cross_entropy(output, torch.arange(4)).backward()
                optimizer.step()
                optimizer.zero_grad()
            model = masked.detach()
            assert model[0].weight.is_contiguous(memory_format=memory_format)
            models.append(model.state_dict())
        torch.testing.assert_close(models[0], models[1])


def test_tied_weights_have_one_process():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.embedding = nn.Embedding(4, 4)
            self.second.weight = self.first.weight
            self.embedding.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.tanh(self.first(x))) + self.embedding(torch.arange(4))[:1]

    dense = Tied().double()
    model, masked = masked_copy(dense, CONFIG, head=())
    assert len(masked.parameters()) == 1
    x = torch.randn(3, 4, dtype=torch.float64)
    assert_gradients(masked, model, dense, x)
    optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))
    optimizer.step()
    assert model.first._parameters["weight"] is model.second._parameters["weight"]
    assert torch.equal(model.first.weight, model.embedding.weight)
    plain = masked.detach()
    assert plain.first.weight is plain.second.weight is plain.embedding.weight
    assert type(plain.embedding) is nn.Embedding


def test_frozen_parameters_stay_frozen():
    model = TinyNet()
    model.conv.requires_grad_(False)
    before = copy.deepcopy(model.conv.state_dict())
    masked = gmixout.attach(model, CONFIG, select=lambda name, parameter: "weight" in name)
    assert "conv.weight" not in {w.name for w in masked.summary().weights}
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=0.1)))
    train(model, optimizer, list(batches(3)))
    masked.detach()
    assert not any(p.requires_grad for p in model.conv.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.conv.state_dict().items())


def test_a_container_that_owns_a_masked_parameter():
    class Scaled(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(4, 4), nn.Linear(4, 4))
            self.gamma = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return super().forward(x) * self.gamma

    dense = nn.Sequential(Scaled()).double()
    model, masked = masked_copy(dense, CONFIG, select=lambda n, p: True)
    assert_gradients(masked, model, dense, torch.randn(3, 4, dtype=torch.float64))


def test_a_copy_made_in_training_is_of_its_own():
    """As weight averaging makes it: the copy computes the same and does not follow."""
    model, masked = masked_copy(TinyNet(), CONFIG)
    optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))
    data = list(batches(3))
    train(model, optimizer, data[:1])
    twin = copy.deepcopy(model)
    expected = model(data[0][0])
    assert torch.equal(twin(data[0][0]), expected)
    train(model, optimizer, data)
    assert torch.equal(twin(data[0][0]), expected)


def test_weight_averaging_beside_the_training():
    """An exponential average of the model's state, as timm keeps it, is one of Phi."""
    utils = pytest.importorskip("timm.utils")
    model, masked = masked_copy(TinyNet(), CONFIG)
    optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))
    average = utils.ModelEmaV3(model, decay=0.5)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for batch in batches(4):
        train(model, optimizer, [batch])
        average.update(model)
        state = model.state_dict()
        expected = {name: 0.5 * (value + state[name]) for name, value in expected.items()}
    torch.testing.assert_close(dict(average.module.state_dict()), expected)


def test_summary_counts_entries_and_bytes():
    model, masked = masked_copy(TinyNet(), GMixout(mask_rate=0.75, residual="persist"))
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-3)))
    train(model, optimizer, list(batches(1)))
    summary = masked.summary()
    values = sum(p.numel() for p in masked.parameters())
    total = sum(dict(model.named_parameters())[w.name].numel() for w in summary.weights)
    assert (summary.trained, summary.total) == (values, total)
    assert summary.density == pytest.approx(0.25)
    rest = sum(p.numel() for p in model.parameters() if p.requires_grad) - values
    assert summary.dense == rest
    assert summary.bytes["values"] == 4 * values
    assert summary.bytes["gradient"] == 4 * values
    assert summary.bytes["residual"] == 4 * total
    # Two moments of float32, and a count of steps for each weight
    assert summary.bytes["optimizer"] == 8 * values + 4 * len(summary.weights)
    for weight in summary.weights:
        assert weight.name in str(summary)
    persist = GMixout(residual="persist", residual_dtype="bfloat16", mask_rate=0.75)
    _, masked = masked_copy(TinyNet(), persist)
    assert masked.summary().bytes["residual"] == 2 * total
    _, masked = masked_copy(TinyNet(), GMixout(mask_rate=0.75))
    assert masked.summary().bytes["residual"] == 0


@pytest.mark.parametrize(
    ("structure", "autocast"),
    [*((each, False) for each in STRUCTURES), ("row", True)],
)
@pytest.mark.parametrize("biases", ["dense", "masked"])
def test_every_structure_is_traced_as_one_graph(structure, autocast, biases):
    """Convolution, attention and linear layers; the graph is run as traced, without inductor."""
    torch._dynamo.reset()  # which counts the graphs of all these models' one forward
    config = GMixout(
        mask_rate=0.5, resample_every=2, **CUTS[structure], block_size=2, residual="persist",
        rescale=True, biases=biases,
    )  # fmt: skip
    model = TinyNet()
    (eager, masked_eager), (inner, masked_inner) = (
        masked_copy(model, config),
        masked_copy(model, config),
    )
    compiled = torch.compile(inner, fullgraph=True, backend="aot_eager")
    optimizers = [
        m.bind(torch.optim.SGD(m.param_groups(lr=0.1))) for m in (masked_eager, masked_inner)
    ]
    data = list(batches(5))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        train(eager, optimizers[0], data)
        train(compiled, optimizers[1], data[:1])
        with torch._dynamo.config.patch(error_on_recompile=True):
            train(compiled, optimizers[1], data[1:])
    assert masked_inner.period == 2
    close = {"rtol": 0, "atol": 2e-2} if autocast else {}  # the graph rounds at other places
    torch.testing.assert_close(eager.state_dict(), inner.state_dict(), **close)


def test_a_model_of_column_masks_keeps_the_chosen_inputs_alone():
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
    input = torch.randn(100, 64)
    assert saved_bytes(model, input) == 4 * input.nbytes
    for structure, share in (("row", 1), ("column", 0.125)):
        config = GMixout(mask_rate=0.875, **CUTS[structure])
        masked, _ = masked_copy(model, config, head=())
        assert saved_bytes(masked, input) == 4 * share * input.nbytes


@pytest.mark.long
def test_compile_of_a_vit_in_training_equals_eager():
    """One graph, no recompilation when the masks advance, and the eager run's result."""
    model = tiny_vit()
    config = GMixout(mask_rate=0.5, resample_every=2)
    eager, masked_eager = masked_copy(model, config)
    inner, masked_inner = masked_copy(model, config)
    compiled = torch.compile(inner, fullgraph=True)
    torch.manual_seed(1)
    data = [(images().float(), torch.tensor([0, 1])) for _ in range(6)]
    optimizers = [
        m.bind(torch.optim.SGD(m.param_groups(lr=0.01))) for m in (masked_eager, masked_inner)
    ]
    train(eager, optimizers[0], data)
    train(compiled, optimizers[1], data[:1])
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(compiled, optimizers[1], data[1:])
    assert masked_inner.period == 3
    torch.testing.assert_close(eager.state_dict(), inner.state_dict(), rtol=1e-4, atol=1e-5)
    moved = (inner.state_dict()["blocks.0.mlp.fc1.weight"] - model.blocks[0].mlp.fc1.weight).abs()
    assert moved.max() > 1e-4
