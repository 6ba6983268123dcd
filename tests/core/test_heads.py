"""The classifier is found wherever people keep it, all of it, or there is an error."""

import pytest
import torch
from torch import nn

import gmixout
from gmixout import GMixout
from gmixout.core.selection import find_head
from gmixout.errors import AttachError, ConfigError

CLASSES = 7

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


def timm_model(name="test_vit", **options):
    return pytest.importorskip("timm").create_model(name, num_classes=CLASSES, **options)


def featurizer():
    return pytest.importorskip("timm").create_model("test_vit", num_classes=0)


def wider():
    return pytest.importorskip("timm").create_model("test_vit", num_classes=10)


def torchvision_model(name, **options):
    models = pytest.importorskip("torchvision").models
    return models.get_model(name, weights=None, num_classes=CLASSES, **options)


def hugging_face(name, **options):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, name)(num_labels=CLASSES, **options)
    return transformers.AutoModelForImageClassification.from_config(config)


def teacher_pair():
    transformers = pytest.importorskip("transformers")
    config = transformers.DeiTConfig(num_labels=CLASSES, **SMALL)
    return transformers.DeiTForImageClassificationWithTeacher(config)


class Parts(nn.Module):
    """A module with children of the names that a framework or a user gives."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def linear(width=64, classes=CLASSES):
    return nn.Linear(width, classes)


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}

FOUND = {
    "timm": (timm_model, ("head",)),
    "two heads of timm": (
        lambda: timm_model("crossvit_tiny_240"),
        ("head.0", "head.1"),
    ),
    "a head and its distillation": (
        lambda: timm_model("repvit_m0_9"),
        ("head.head.l", "head.head_dist.l"),
    ),
    "torchvision resnet": (lambda: torchvision_model("resnet18"), ("fc",)),
    "torchvision vgg": (lambda: torchvision_model("vgg11"), ("classifier.6",)),
    "torchvision squeezenet": (lambda: torchvision_model("squeezenet1_0"), ("classifier.1",)),
    "auxiliary classifiers": (
        lambda: torchvision_model("googlenet", init_weights=False),
        ("aux1.fc2", "aux2.fc2", "fc"),
    ),
    "hugging face vit": (lambda: hugging_face("ViTConfig", **SMALL), ("classifier",)),
    "hugging face resnet": (
        lambda: hugging_face("ResNetConfig", embedding_size=8, hidden_sizes=[8], depths=[1]),
        ("classifier.1",),
    ),
    "timm inside of hugging face": (
        lambda: hugging_face("TimmWrapperConfig", architecture="test_vit"),
        ("timm_model.head",),
    ),
    "with teacher": (teacher_pair, ("cls_classifier", "distillation_classifier")),
    "lightning module": (lambda: Parts(model=timm_model()), ("model.head",)),
    "wrapped twice": (
        lambda: Parts(module=Parts(net=torchvision_model("resnet18"))),
        ("module.net.fc",),
    ),
    "featurizer, classifier": (lambda: nn.Sequential(featurizer(), linear()), ("1",)),
    "normalization, model": (lambda: nn.Sequential(nn.BatchNorm2d(3), timm_model()), ("1.head",)),
    "dinov2 of the hub": (
        lambda: Parts(backbone=featurizer(), linear_head=linear()),
        ("linear_head",),
    ),
    "wise-ft": (
        lambda: Parts(image_encoder=featurizer(), classification_head=linear()),
        ("classification_head",),
    ),
    "a stack": (
        lambda: Parts(
            backbone=featurizer(), mlp_head=nn.Sequential(linear(64, 64), nn.ReLU(), linear())
        ),
        ("mlp_head.2",),
    ),
    "a head on a head": (lambda: Parts(backbone=wider(), out=linear(10)), ("out",)),
    "student, teacher": (
        lambda: Parts(student=timm_model(), teacher=timm_model()),
        ("student.head", "teacher.head"),
    ),
    "several tasks": (
        lambda: Parts(body=featurizer(), age=linear(64, 1), race_classifier=linear()),
        ("age", "race_classifier"),
    ),
    "a detector": (
        lambda: pytest.importorskip("torchvision").models.detection.fasterrcnn_resnet50_fpn(
            num_classes=CLASSES, weights=None, weights_backbone=None
        ),
        ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"),
    ),
    "a perceptron": (lambda: nn.Sequential(linear(3, 8), nn.ReLU(), linear(8)), ("2",)),
    "none, by timm": (featurizer, ()),
    "none, by wrapped timm": (lambda: Parts(model=featurizer()), ()),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_the_layers_that_score_the_classes_are_found(name):
    make, heads = FOUND[name]
    model = make()
    masked = gmixout.attach(model, GMixout())
    assert masked.heads == heads
    rows = {w.name: w.shape[0] for w in masked.summary().weights}
    assert not [n for n, count in rows.items() if count == CLASSES], "a classifier is masked"


def lenet():
    convolutions = {"conv1": nn.Conv2d(3, 6, 5), "conv2": nn.Conv2d(6, 16, 5)}
    return Parts(**convolutions, fc1=linear(400, 120), fc2=linear(120, 84), fc3=linear(84))


NOT_FOUND = {
    "names that say nothing": (lenet, "fc3"),
    "something after the head": (lambda: Parts(fc=linear(8, 16), zz=linear(16)), "zz"),
    "something after a wrapped head": (lambda: Parts(body=timm_model(), zz=linear(7)), "zz"),
    "something before a wrapped head": (
        lambda: Parts(zz=linear(7), body=timm_model()),
        "body.head",
    ),
    "something after a sequence": (
        lambda: Parts(features=nn.Sequential(nn.Conv2d(3, 4, 1)), zz=linear(4)),
        "zz",
    ),
    "an encoder of texts and images": (
        lambda: Parts(image=nn.Sequential(linear(), nn.Sequential(nn.ReLU())), zz=linear()),
        "zz",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_FOUND)
def test_an_error_names_the_last_layer_and_the_way_out(name):
    make, last = NOT_FOUND[name]
    with pytest.raises(AttachError) as caught:
        gmixout.attach(make(), GMixout(mask_rate=0.5))
    assert f"head={last!r}" in str(caught.value)
    assert not any("gmixout" in n for n, _ in make().named_modules())
    named = gmixout.attach(make(), GMixout(mask_rate=0.5), head=last)
    assert named.heads == (last,)
    none = gmixout.attach(make(), GMixout(mask_rate=0.5), head=())
    assert f"{last}.weight" in {w.name for w in none.summary().weights}
    chosen = gmixout.attach(make(), GMixout(mask_rate=0.5), select=lambda n, p: p.dim() > 1)
    assert f"{last}.weight" in {w.name for w in chosen.summary().weights}


@pytest.mark.parametrize("head", ["", ("",), "nowhere", ("head", "nowhere")])
def test_a_name_that_is_none(head):
    with pytest.raises(ConfigError, match="is not a module"):
        gmixout.attach(timm_model(), GMixout(), head=head)


def test_widths_that_agree_by_chance_are_looked_for_outside_of_blocks_alone():
    width = CLASSES
    blocks = nn.Sequential(*(nn.Linear(width, width) for _ in range(3)))
    model = Parts(blocks=blocks, head=nn.Linear(width, CLASSES))
    assert find_head(model) == ("head",)


class Tied(nn.Module):
    """A head that is an embedding, too."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(50, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embedding.weight


def test_a_head_that_is_tied_is_trained_as_a_head():
    for head in (None, "head"):
        masked = gmixout.attach(Tied(), GMixout(), head=head)
        assert masked.heads == ("head",)
        assert [w.name for w in masked.summary().weights] == ["hidden.weight"]
        groups = {g["name"]: g["params"] for g in masked.param_groups(1.0, head_lr=0.1)}
        assert groups["head"][0] is masked.model.embedding.weight


def test_every_family_of_timm_is_found(timm_families):
    """On the meta device: names and shapes are all it takes."""
    timm = pytest.importorskip("timm")
    for name in timm_families:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=CLASSES)
        heads = find_head(model)
        lost = [
            n
            for n, p in model.named_parameters()
            if p.dim() > 1 and p.shape[0] == CLASSES and n.rpartition(".")[0] not in heads
        ]
        assert heads, name
        assert not lost, (name, lost)


@pytest.fixture
def timm_families():
    """A small model of every fourth module of timm: the whole takes minutes."""
    timm = pytest.importorskip("timm")
    modules = timm.list_modules()[::4]
    return [min(timm.list_models(module=m), key=len) for m in modules if timm.list_models(module=m)]
