"""Prompts of the data sets, and how classes are called in them."""

from pathlib import Path

import pytest

from gmixout.data import SOURCES
from gmixout.data.prompts import PLAIN, class_texts, is_imagenet

open_clip = pytest.importorskip("open_clip")
timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def imagenet():
    return timm.data.ImageNetInfo("imagenet-1k")


def prompts_of(name):
    return SOURCES[name](Path("data")).prompts


@pytest.mark.parametrize("name", SOURCES)
def test_every_prompt_has_one_place_for_the_class(name):
    templates = prompts_of(name)
    assert len(set(templates)) == len(templates) > 0
    for template in templates:
        assert template.format("zebra").count("zebra") == 1
        assert template.count("{}") == 1


def test_imagenets_prompts_are_open_clips():
    theirs = [template("zebra") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert [template.format("zebra") for template in prompts_of("imagenet_c")] == theirs


def test_cifars_prompts_are_those_that_openai_published():
    """18 of them, each kind once with either article."""
    templates = prompts_of("cifar100")
    assert len(templates) == 18
    assert {t.replace(" the ", " a ") for t in templates} == {t for t in templates if " a " in t}
    assert prompts_of("cifar10") == templates


def test_data_without_published_prompts_has_the_plain_one():
    assert prompts_of("imagefolder") == prompts_of("pacs") == PLAIN == ("a photo of a {}.",)


def test_imagenets_classes_have_openais_names_by_any_naming(imagenet):
    ids, words = imagenet.label_names(), imagenet.label_descriptions()
    texts = class_texts(ids)
    assert texts == class_texts(words) == class_texts(open_clip.IMAGENET_CLASSNAMES)
    assert class_texts(texts) == texts
    firsts = [word.split(",")[0] for word in words]
    assert len(set(firsts)) < 1000  # "crane" is two classes
    assert class_texts(firsts) == texts
    changed = [i for i in range(1000) if texts[i] != open_clip.IMAGENET_CLASSNAMES[i]]
    assert [(words[i], texts[i]) for i in changed] == [
        ("projectile, missile", "projectile"),
        ("sunglass", "sunglass"),
    ]


def test_no_two_classes_of_imagenet_share_a_name(imagenet):
    """In OpenAI's own list, "missile" and "sunglasses" stand twice."""
    assert len(set(open_clip.IMAGENET_CLASSNAMES)) == 998
    assert len(set(class_texts(imagenet.label_names()))) == 1000


def test_a_part_of_imagenet_is_known_by_its_ids(imagenet):
    ids = imagenet.label_names()
    assert class_texts([ids[999], ids[0], "n99999999"]) == ("toilet paper", "tench", "n99999999")


def test_imagenet_in_another_order_is_not_imagenet(imagenet):
    ids = imagenet.label_names()
    assert is_imagenet(ids)
    assert not is_imagenet(ids[::-1])
    assert not is_imagenet(ids[:999])


def test_underscores_become_spaces():
    assert class_texts(["alarm_clock", "t-shirt", "TV"]) == ("alarm clock", "t-shirt", "TV")
