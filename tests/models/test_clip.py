"""CLIP as a classifier: the zero-shot head gives CLIP's own logits."""

import pytest
import torch
from tiny_foundations import CLASSES, FOLDERS, add_tiny_clip, clip_file, hf_clip
from torch import nn
from torch.nn import functional

import gmixout
from gmixout.errors import ConfigError, DataError
from gmixout.models import load_pretrained
from gmixout.models.clip import ClipClassifier, prompts_of_classes, zero_shot_weight

TEMPLATES = ["a photo of a {}.", "a bad photo of the {}.", "{} in the wild."]
TEXTS = ["dog", "elephant", "alarm clock"]
NAME = "open_clip:tiny-clip"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A file of weights for tiny-clip."""
    add_tiny_clip(tmp_path, monkeypatch)
    return clip_file(tmp_path)


@pytest.fixture
def library(tiny):
    """The same model, loaded by open_clip itself, and its tokenizer."""
    open_clip = pytest.importorskip("open_clip")
    model = open_clip.create_model("tiny-clip", pretrained=str(tiny)).eval()
    return model, open_clip.get_tokenizer("tiny-clip")


IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_one_prompt_gives_the_logits_of_clip(tiny, library):
    model, tokenizer = library
    theirs, _ = model.get_logits(IMAGES, tokenizer([f"a photo of a {text}." for text in TEXTS]))
    ours = load_pretrained(NAME, CLASSES, weights=tiny).model(IMAGES)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_many_prompts_give_open_clips_own_zero_shot_classifier(tiny, library):
    from open_clip import build_zero_shot_classifier

    model, tokenizer = library
    weight = build_zero_shot_classifier(model, tokenizer, TEXTS, TEMPLATES)
    theirs = model.logit_scale.exp() * model.encode_image(IMAGES, normalize=True) @ weight
    ours = load_pretrained(NAME, CLASSES, templates=TEMPLATES, weights=tiny)
    torch.testing.assert_close(ours.model(IMAGES), theirs, atol=1e-5, rtol=1e-5)
    assert ours.head_from == "zero_shot"
    assert "3 prompts" in ours.description


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
@torch.no_grad()
def test_models_of_transformers_give_their_own_logits(tmp_path, kind):
    """SigLIP adds one bias to all classes; the differences between classes are the same."""
    transformers = pytest.importorskip("transformers")
    folder = hf_clip(tmp_path, kind)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = {"padding": "max_length", "max_length": 12} if kind == "Siglip" else {"padding": True}
    tokens = tokenizer([f"a photo of a {t}." for t in TEXTS], return_tensors="pt", **padding)
    theirs = model(pixel_values=IMAGES, **tokens).logits_per_image
    ours = load_pretrained(f"hf:{folder}", CLASSES).model(IMAGES)
    if kind == "Siglip":
        theirs = theirs - model.logit_bias
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_logits_follow_the_order_of_the_classes(tiny):
    order = [2, 0, 1]
    model = load_pretrained(NAME, CLASSES, weights=tiny).model
    other = load_pretrained(NAME, [CLASSES[i] for i in order], weights=tiny).model
    torch.testing.assert_close(other(IMAGES), model(IMAGES)[:, order])


def test_many_classes_are_encoded_in_portions():
    """The weight does not depend on how many texts are encoded at once."""
    calls = []

    def encode(texts):
        calls.append(len(texts))
        return torch.tensor([[len(text), text.count("1"), 1.0] for text in texts])

    texts = [str(number) for number in range(200)]
    weight = zero_shot_weight(
        encode, torch.tensor(2.0), prompts_of_classes(texts, texts, TEMPLATES)
    )
    assert len(calls) > 1
    for i in (0, 11, 199):
        alone = zero_shot_weight(
            encode, torch.tensor(2.0), prompts_of_classes([texts[i]], [texts[i]], TEMPLATES)
        )
        torch.testing.assert_close(weight[i : i + 1], alone)
    norms = torch.full((200,), 2.0).exp()
    torch.testing.assert_close(weight.norm(dim=1), norms)


def test_the_text_tower_is_not_kept(tiny, library):
    """What is left is the image tower, under its own names, and the head."""
    state = load_pretrained(NAME, CLASSES, weights=tiny).model.state_dict()
    visual = {f"visual.{name}": value for name, value in library[0].visual.state_dict().items()}
    assert set(state) == {*visual, "head.weight"}
    for name, value in visual.items():
        assert torch.equal(state[name], value)


def test_packed_attention_projections_are_masked(tiny):
    model = load_pretrained(NAME, CLASSES, weights=tiny).model
    masked = gmixout.attach(model, gmixout.GMixout(mask_rate=0.5))
    names = {weight.name for weight in masked.summary().weights}
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in names
    assert "head.weight" not in names


def test_wise_ft_starts_at_the_zero_shot_classifier(tiny):
    zero_shot = load_pretrained(NAME, CLASSES, weights=tiny).model
    tuned = load_pretrained(NAME, CLASSES, weights=tiny).model
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.1)
    start = gmixout.interpolate(zero_shot.state_dict(), tuned.state_dict(), 0.0)
    logits = zero_shot(IMAGES)
    tuned.load_state_dict(start)
    torch.testing.assert_close(tuned(IMAGES), logits, atol=0, rtol=0)


def test_logits_do_not_change_with_the_length_of_features():
    flatten = nn.Flatten()
    weight = torch.randn(3, 12)
    model = ClipClassifier(flatten, weight)
    x = torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(model(5 * x), model(x))
    torch.testing.assert_close(model(x), functional.normalize(x.flatten(1)) @ weight.T)


def test_classes_with_one_text_are_refused(tiny):
    twice = ["t_shirt", "t shirt", "dog"]
    with pytest.raises(ConfigError, match="two classes are called 't shirt'"):
        load_pretrained(NAME, twice, weights=tiny)
    load_pretrained(NAME, twice, "random", weights=tiny)


def test_templates_without_a_place_for_the_class_are_refused(tiny):
    with pytest.raises(ConfigError, match="'a photo' must have"):
        load_pretrained(NAME, CLASSES, templates=["{}", "a photo"], weights=tiny)


@pytest.mark.parametrize("kind", ["open_clip", "hf clip"])
def test_prompts_are_encoded_on_the_device_that_is_asked_for(tmp_path, kind):
    """On the meta device, which holds no numbers: it is the encoding that fails there."""
    folder = str(FOLDERS[kind](tmp_path))
    with pytest.raises(DataError, match="meta"):
        load_pretrained(folder, CLASSES, device="meta")
    load_pretrained(folder, CLASSES, "random", device="meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["open_clip", "hf clip"])
def test_a_gpu_makes_the_same_head(tmp_path, kind):
    folder = str(FOLDERS[kind](tmp_path))
    cpu, gpu = (load_pretrained(folder, CLASSES, device=d).model for d in ("cpu", "cuda"))
    assert {parameter.device.type for parameter in gpu.parameters()} == {"cpu"}
    torch.testing.assert_close(gpu.head.weight, cpu.head.weight, atol=1e-3, rtol=1e-3)
