"""What holds for models of every library."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tiny_foundations import CLASSES, FOLDERS, clip_file, timm_file

import gmixout
from gmixout.errors import ConfigError, DataError
from gmixout.models import FAMILIES, load_pretrained


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, tmp_path_factory):
    """Made once and only read."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FOLDERS[request.param](tmp_path_factory.mktemp("model"))


def images(pretrained):
    return torch.randn(2, 3, *pretrained.size, generator=torch.Generator().manual_seed(1))


def test_gives_logits_of_the_classes(folder, rng_untouched):
    with rng_untouched():
        pretrained = load_pretrained(str(folder), CLASSES)
    model = pretrained.model
    assert not any(module.training for module in model.modules())
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float32, "cpu")}
    assert all(parameter.requires_grad for parameter in model.parameters())
    logits = model(images(pretrained))
    assert logits.shape == (2, 3)
    assert not torch.equal(logits[0], logits[1])
    (head,) = pretrained.heads
    assert f"{head}.weight" in model.state_dict()
    assert len(model.get_submodule(head).weight) == 3


def test_sees_pictures_as_the_fields_say(folder):
    """A plain picture comes out as its colour less the mean, by the std, in the size."""
    pretrained = load_pretrained(str(folder), CLASSES)
    colour = (200, 100, 0)
    seen = pretrained.transform(Image.new("RGB", (90, 60), colour))
    assert seen.shape == (3, *pretrained.size)
    scaled = torch.tensor(colour) / 255
    expected = (scaled - torch.tensor(pretrained.mean)) / torch.tensor(pretrained.std)
    torch.testing.assert_close(seen, expected[:, None, None].expand_as(seen), atol=1e-3, rtol=0)


def test_convolutions_lie_channels_last(folder):
    model = load_pretrained(str(folder), CLASSES).model
    weights = [p for p in model.parameters() if p.ndim == 4]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.parametrize("head", [None, "random"])
def test_same_call_gives_the_same_bits(folder, head):
    first, again = (load_pretrained(str(folder), CLASSES, head).model for _ in range(2))
    for (name, a), (other, b) in zip(
        first.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b), name


def test_the_seed_draws_the_head_and_nothing_else(folder):
    first, second = (load_pretrained(str(folder), CLASSES, "random", seed=seed) for seed in (0, 1))
    assert first.head_from == second.head_from == "random"
    (head,) = first.heads
    for name, value in first.model.state_dict().items():
        same = torch.equal(value, second.model.state_dict()[name])
        assert same is (name != f"{head}.weight"), name


def test_what_a_library_draws_by_itself_comes_from_the_seed(monkeypatch, rng_untouched):
    """timm, say, makes a head of several layers anew as a whole, from the global generator."""
    draw = lambda request: SimpleNamespace(model=torch.nn.Linear(2, 2))  # noqa: E731
    monkeypatch.setitem(FAMILIES, "timm", draw)
    with rng_untouched():
        found = (load_pretrained("timm:x", CLASSES, seed=s) for s in (0, 0, 1))
        first, again, other = (each.model.weight for each in found)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_goes_through_masked_training(folder):
    model = load_pretrained(str(folder), CLASSES).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(2, 3, 32, 32)
    masked = gmixout.attach(model, gmixout.GMixout(mask_rate=0.5, resample_every=1))
    optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1, head_lr=0.1)))
    model(x)[:, 0].sum().backward()
    optimizer.step()
    after = masked.detach().state_dict()
    assert list(after) == list(before)
    assert any(not torch.equal(after[name], before[name]) for name in before if "head" not in name)


def test_checkpoints_activations(folder):
    """Runs the blocks a second time in the backward pass, to the same gradients."""
    gradients, runs = [], []
    for enable in (False, True):
        model = load_pretrained(str(folder), CLASSES).model.train()
        model.set_grad_checkpointing(enable)
        norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
        calls = []
        for norm in norms:
            norm.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(0)  # DINOv3 varies its positions at random in training
        model(torch.ones(1, 3, 32, 32)).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        runs.append(len(calls))
    torch.testing.assert_close(*gradients)
    assert runs[1] > runs[0]


def test_description_says_where_weights_come_from(folder):
    pretrained = load_pretrained(str(folder), CLASSES, "random", seed=7)
    assert str(folder) in pretrained.description
    assert "random head (seed 7)" in pretrained.description
    assert pretrained.name == str(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tim:resnet18", "Did you mean timm:"),
        ("resnet18", "timm:vit_base_patch16_224"),
        ("timm:", "no model after the colon"),
    ],
)
def test_names_without_a_known_library_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        load_pretrained(name, CLASSES)


@pytest.mark.parametrize("family", FAMILIES)
def test_absent_files_are_refused(family, tmp_path):
    for name in (f"{family}:{tmp_path}/nothing", f"{family}:x@{tmp_path}/nothing"):
        with pytest.raises(DataError, match=rf"there is no .*{tmp_path}/nothing"):
            load_pretrained(name, CLASSES)


def test_weights_argument_is_the_at_sign(tmp_path):
    file = timm_file(tmp_path)
    a = load_pretrained(f"timm:test_vit@{file}", CLASSES).model.state_dict()
    b = load_pretrained("timm:test_vit", CLASSES, weights=file).model.state_dict()
    torch.testing.assert_close(a, b, atol=0, rtol=0)
    with pytest.raises(ConfigError, match="both name weights"):
        load_pretrained(f"timm:test_vit@{file}", CLASSES, weights=file)


def test_a_file_alone_does_not_say_its_model(tmp_path):
    with pytest.raises(ConfigError, match="FAMILY:MODEL@"):
        load_pretrained(str(clip_file(tmp_path)), CLASSES)


@pytest.mark.parametrize("content", [None, "{", json.dumps({"x": 1})])
def test_a_folder_of_something_else_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match=str(tmp_path)):
        load_pretrained(str(tmp_path), CLASSES)


@pytest.mark.parametrize(
    "options",
    [
        {"classes": []},
        {"classes": "dog"},
        {"head": "zeroshot"},
        {"templates": []},
        {"templates": "a photo of a {}."},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        load_pretrained("timm:test_vit", **{"classes": CLASSES, **options})


def test_importing_the_room_loads_no_library():
    code = (
        "import sys, gmixout.models; "
        "print(*{'timm', 'open_clip', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("", "")


@pytest.mark.parametrize("image_size", [16, 48])
def test_takes_images_of_another_size(folder, image_size):
    """Only position embeddings change, if there are any."""
    own = load_pretrained(str(folder), CLASSES)
    other = load_pretrained(str(folder), CLASSES, image_size=image_size)
    assert other.size == (image_size, image_size) != own.size
    seen = other.transform(Image.new("RGB", (90, 60), (200, 100, 0)))
    assert seen.shape == (3, image_size, image_size)
    assert (other.mean, other.std, other.interpolation) == (own.mean, own.std, own.interpolation)
    assert repr(other.transform) != repr(own.transform)  # which a run's identity has
    logits = other.model(images(other))
    assert logits.shape == (2, 3)
    assert not torch.equal(logits[0], logits[1])
    now = other.model.state_dict()
    differing = [
        name
        for name, value in own.model.state_dict().items()
        if now[name].shape != value.shape or not torch.equal(now[name], value)
    ]
    assert all("pos" in name for name in differing), differing


def test_the_models_own_size_changes_nothing(folder):
    own = load_pretrained(str(folder), CLASSES)
    same = load_pretrained(str(folder), CLASSES, image_size=own.size[0])
    torch.testing.assert_close(same.model(images(own)), own.model(images(own)))
    picture = Image.fromarray(torch.randint(0, 256, (90, 70, 3), dtype=torch.uint8).numpy())
    assert torch.equal(same.transform(picture), own.transform(picture))


@pytest.mark.parametrize("image_size", [0, -32, True, 32.0, "32", (32, 32)])
def test_a_size_that_is_none_is_refused(image_size, tmp_path):
    with pytest.raises(ConfigError, match=r"image_size=.* number of pixels"):
        load_pretrained(str(tmp_path), CLASSES, image_size=image_size)


@pytest.mark.parametrize("image_size", [1, 5])
def test_a_size_that_a_model_cannot_take_is_named(folder, image_size):
    named = f"image_size={image_size}: .*cannot take|at {image_size} x {image_size} pixels cannot"
    with pytest.raises((ConfigError, DataError), match=named):
        load_pretrained(str(folder), CLASSES, image_size=image_size)


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "test_resnet"])
def test_a_convolutional_model_takes_any_size_with_its_own_weights(name, tmp_path):
    file = timm_file(tmp_path, name)
    own = load_pretrained(f"timm:{name}@{file}", CLASSES).model.state_dict()
    for image_size in (64, 96):
        other = load_pretrained(f"timm:{name}@{file}", CLASSES, image_size=image_size)
        torch.testing.assert_close(other.model.state_dict(), own, atol=0, rtol=0)
        assert other.model(images(other)).shape == (2, 3)
