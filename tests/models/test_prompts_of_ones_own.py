"""Prompts and class names in the user's own files, for zero-shot heads."""

import pytest
import torch
from tiny_foundations import CLASSES, add_tiny_clip, clip_file

from gmixout.bench.task import Task
from gmixout.data.prompt_files import class_names_in, templates_in
from gmixout.errors import ConfigError, DataError
from gmixout.models import load_pretrained

NAME = "open_clip:tiny-clip"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    add_tiny_clip(tmp_path, monkeypatch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return clip_file(tmp_path)


def written(folder, name, text):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def head(tiny, **options):
    found = load_pretrained(NAME, CLASSES, weights=tiny, **options)
    return found.model.head.weight.detach()


def test_lines_are_prompts_of_all_classes(tiny, tmp_path):
    file = written(tmp_path, "prompts.txt", "a photo of the {}.\n\n  {} in the wild \n")
    templates = templates_in(file, CLASSES)
    assert templates == ("a photo of the {}.", "{} in the wild")
    assert torch.equal(head(tiny, templates=templates), head(tiny, templates=[*templates]))
    assert not torch.equal(head(tiny, templates=templates), head(tiny))


def test_a_table_has_prompts_of_each_class(tiny, tmp_path):
    rows = "class,prompt\ndog,a bad dog\nalarm_clock,the {}\nelephant,wild {}\ndog,a {} .\n"
    templates = templates_in(written(tmp_path, "prompts.csv", rows), CLASSES)
    assert templates == {
        "dog": ("a bad dog", "a {} ."), "elephant": ("wild {}",), "alarm_clock": ("the {}",)
    }  # fmt: skip
    found = head(tiny, templates=templates)
    for place, name in enumerate(CLASSES):
        # a class is its own prompts' mean, whatever the others have
        alone = head(tiny, templates=dict.fromkeys(CLASSES, templates[name]))
        if name != "dog":
            torch.testing.assert_close(found[place], alone[place])
    said = load_pretrained(NAME, CLASSES, weights=tiny, templates=templates).description
    assert "1 to 2 prompts per class" in said


def test_equal_numbers_of_prompts_give_one_head_in_either_form(tiny):
    lines = ("a photo of the {}.", "{} in the wild")
    table = dict.fromkeys(CLASSES, lines)
    assert torch.equal(head(tiny, templates=lines), head(tiny, templates=table))


def test_braces_of_other_kinds_are_text(tiny, tmp_path):
    file = written(tmp_path, "p.txt", "a {} {0.__class__} {x}\n")
    table = {name: [f"a {name.replace('_', ' ')} {{0.__class__}} {{x}}"] for name in CLASSES}
    with_place = head(tiny, templates=templates_in(file, CLASSES))
    assert torch.equal(with_place, head(tiny, templates=table))


@pytest.mark.parametrize(
    ("name", "text"),
    [("n.txt", "hound\nelephant\nalarm clock\n"), ("n.csv", "class,name\ndog,hound\n")],
)
def test_names_stand_for_the_classes(name, text, tiny, tmp_path):
    texts = class_names_in(written(tmp_path, name, text), CLASSES)
    assert texts[0] == "hound"
    renamed = head(tiny, texts=texts)
    plain = load_pretrained(NAME, ["hound", *CLASSES[1:]], weights=tiny).model.head.weight
    torch.testing.assert_close(renamed, plain.detach())


BAD_PROMPTS = {
    ("p.txt", "a photo\n"): r"line 1: the prompt 'a photo' must have \{\} where",
    ("p.txt", "{}\n\xa0\na photo"): r"line 3: the prompt",
    ("p.txt", " \n\n"): "holds no prompt",
    ("p.csv", "class,prompt\ndog,a {}\n"): "no prompt of the class 'elephant'",
    ("p.csv", "class,prompt\ndgo,a {}\n"): "names 'dgo', which is none of the classes: dog",
    ("p.csv", "class,prompt\n"): "no row of class and prompt",
    ("p.csv", "class,prompt\ndog,\n"): "line 2: prompt is empty",
    ("p.csv", "class,text\ndog,a\n"): "no column prompt",
}


@pytest.mark.parametrize(("name", "text"), BAD_PROMPTS)
def test_a_bad_file_of_prompts_is_refused_with_its_line(name, text, tmp_path):
    with pytest.raises(DataError, match=BAD_PROMPTS[name, text]):
        templates_in(written(tmp_path, name, text), CLASSES)


BAD_NAMES = {
    ("n.txt", "a\nb\n"): "has 2 names, one a line, and there are 3 classes, in this order: dog",
    ("n.csv", "class,name\nx,y\n"): "names 'x', which is none of the classes",
    ("n.csv", "class,name\ndog,a\ndog,b\n"): "line 3: class 'dog' has a name already",
}


@pytest.mark.parametrize(("name", "text"), BAD_NAMES)
def test_a_bad_file_of_names_is_refused(name, text, tmp_path):
    with pytest.raises(DataError, match=BAD_NAMES[name, text]):
        class_names_in(written(tmp_path, name, text), CLASSES)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.txt cannot be opened"):
        templates_in(tmp_path / "absent.txt", CLASSES)


def test_names_that_are_equal_are_no_classes(tiny):
    with pytest.raises(ConfigError, match=r"two classes are called 'hound'.*--class-names"):
        head(tiny, texts=("hound", "elephant", "hound"))


@pytest.mark.parametrize("option", ["prompts", "class_names"])
def test_an_option_without_a_head_of_text_is_refused(option, tmp_path):
    with pytest.raises(ConfigError, match=f"{option} is for a zero-shot head, and head=random"):
        Task("digits", head="random", **{option: tmp_path / "p.txt"})
    with pytest.raises(ConfigError, match=f"leave out --{option.replace('_', '-')}"):
        Task("digits", **{option: tmp_path / "p.txt"})


def test_a_task_with_files_is_another_one_and_comes_back(tmp_path):
    from gmixout.data import SOURCES

    source = SOURCES["imagefolder"](tmp_path)
    task = Task(source, "timm:x", prompts=tmp_path / "p.txt")
    assert Task.of(task.plain()) == task
    plain = Task(source, "timm:x")
    assert {"prompts", "class_names"}.isdisjoint(plain.plain())
    assert task != plain
    assert task.without_text().prompts is None
    assert plain.without_text() is plain
