"""The layers of a model from its input to its head."""

import itertools

import pytest
import timm
import torch
from tiny_foundations import new_clip
from torch import nn

from gmixout.errors import ConfigError
from gmixout.methods import get_method
from gmixout.models import Pretrained
from gmixout.models.clip import ClipClassifier
from gmixout.models.huggingface import Logits, PooledClassifier, Tower, scoring_layer
from gmixout.models.layers import _by_blocks, has_layers, layer_numbers
from gmixout.training.layer_decay import LayerDecay

SMALL = {"image_size": 32, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}


def of_transformers(kind: str, classifier: bool = True, **config) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    made = getattr(transformers, f"{kind}Config")(**config)
    if classifier:
        body = getattr(transformers, f"{kind}ForImageClassification")(made)
        return Logits(body, scoring_layer(body), {})
    body = getattr(transformers, f"{kind}Model")(made)
    return PooledClassifier(body, nn.Linear(16, 2), {})


def clip_of_transformers(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}VisionConfig")(
        **SMALL, patch_size=8, num_hidden_layers=3
    )
    vision = getattr(transformers, f"{kind}VisionModel")(config)
    return ClipClassifier(Tower(vision, nn.Linear(16, 8, bias=False), {}), torch.ones(2, 8))


def clip_of_open_clip(**vision) -> nn.Module:
    size = {"image_size": 32, "layers": 3, "width": 16, "head_width": 8, "patch_size": 16}
    return ClipClassifier(new_clip(vision_cfg=size | vision).visual, torch.ones(2, 16))


VIT = {**SMALL, "patch_size": 8, "num_hidden_layers": 3}
STAGES = {"depths": [1, 2, 1], "num_channels": 3}
MODELS = {
    "open_clip ViT": (clip_of_open_clip, 3),
    "open_clip ResNet": (lambda: clip_of_open_clip(layers=(1, 2, 1, 1), width=8), None),
    "open_clip timm": (
        lambda: clip_of_open_clip(timm_model_name="test_vit", timm_model_pretrained=False), 6
    ),
    "CLIP": (lambda: clip_of_transformers("CLIP"), 3),
    "SigLIP": (lambda: clip_of_transformers("Siglip"), 3),
    "ViT": (lambda: of_transformers("ViT", **VIT), 3),
    "BEiT": (lambda: of_transformers("Beit", **VIT), 3),
    "DINOv2": (lambda: of_transformers("Dinov2", **VIT), 3),
    "DINOv3": (lambda: of_transformers("DINOv3ViT", False, **VIT), 3),
    "Swin": (
        lambda: of_transformers(
            "Swin", image_size=32, patch_size=4, embed_dim=8, depths=[1, 2], num_heads=[2, 2],
            window_size=2,
        ), 3,
    ),
    "ConvNeXt": (
        lambda: of_transformers("ConvNext", num_stages=3, hidden_sizes=[4, 8, 8], **STAGES), 4
    ),
    "ResNet": (
        lambda: of_transformers("ResNet", embedding_size=4, hidden_sizes=[4, 8, 8], **STAGES), 4
    ),
    "timm": (lambda: timm.create_model("test_vit", num_classes=2), 6),
}  # fmt: skip
"""A model, and the number of its blocks."""


def heads_of(model: nn.Module) -> tuple[str, ...]:
    if isinstance(model, Logits):
        return (f"body.{scoring_layer(model.body)}",)
    return ("head",)


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_numbered_in_the_order_in_which_an_image_meets_them(name):
    make, blocks = MODELS[name]
    model = make().eval()
    layers = layer_numbers(model, heads_of(model))
    assert {*layers} == {name for name, _ in model.named_parameters()}
    top = max(layers.values())
    assert {*layers.values()} == {*range(top + 1)}
    heads = {n for n in layers if n.startswith(tuple(f"{h}." for h in heads_of(model)))}
    assert {n for n, layer in layers.items() if layer == top} == heads != set()
    assert blocks is None or top == blocks + 1
    met = []
    for owner, module in model.named_modules():
        own = [layers[f"{owner}.{n}"] for n, _ in module.named_parameters(recurse=False) if owner]
        if own and not any(True for _ in module.children()):
            module.register_forward_hook(lambda *_, own=own, owner=owner: met.append((own, owner)))
    with torch.no_grad():
        model(torch.zeros(1, 3, *((160, 160) if name.endswith("timm") else (32, 32))))
    numbers = [number for own, _ in met for number in own]
    assert len({*numbers}) >= top
    drops = [pair for pair in itertools.pairwise(met) if max(pair[0][0]) > min(pair[1][0])]
    assert drops == []


def test_blocks_are_numbered_as_timm_numbers_those_of_a_vit():
    model = timm.models.VisionTransformer(
        img_size=8, patch_size=4, num_classes=3, embed_dim=8, depth=4, num_heads=2
    )
    theirs = layer_numbers(model, ("head",))
    ours = _by_blocks(model)
    assert {n: v for n, v in ours.items() if not n.startswith("head.")} == {
        n: v for n, v in theirs.items() if not n.startswith("head.")
    }


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(2))
        self.right = nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(2))
        self.head = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("model", "said"),
    [(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "no list of blocks"),
     (Two(), "several lists of blocks, left, right")],
)  # fmt: skip
def test_layers_in_no_known_order_are_refused_with_the_reason(model, said):
    assert not has_layers(model, ("head",))
    with pytest.raises(ConfigError, match=rf"layer_decay=0\.5.*{said}.*Use layer_decay=1"):
        LayerDecay(model, 0.5, ("head",))


@pytest.mark.parametrize("name", ["open_clip ViT", "CLIP", "ViT", "Swin", "DINOv3"])
@pytest.mark.parametrize("method", ["full", "gmixout", "gmixout(biases=masked)", "lora"])
def test_rates_of_every_method_fall_with_the_distance_from_the_head(name, method):
    model = MODELS[name][0]()
    (head,) = heads_of(model)
    numbers = layer_numbers(model, (head,))
    decay, top = LayerDecay(model, 0.5, (head,)), max(numbers.values())
    start = Pretrained(model, head, classes=("a", "b"))
    groups = get_method(method).start(start, 0).param_groups(lr=1.0, head_lr=1.0)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    before = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    after = {names[id(p)]: g["lr"] for g in decay.apply(groups, model) for p in g["params"]}
    assert before.keys() == after.keys()
    homes: dict[str, set[int]] = {}
    for key, number in numbers.items():
        homes.setdefault(key.rpartition(".")[0], set()).add(number)
    seen = set()
    for key, rate in after.items():
        owner = key
        while owner not in homes:
            owner = owner.rpartition(".")[0]
        (number,) = homes[owner] if key not in numbers else {numbers[key]}
        assert rate == pytest.approx(before[key] * 0.5 ** (top - number)), key
        seen.add(number)
    assert {*range(1, top)} <= seen
