"""What every loader has to do; its own traps are tested in a file for each."""

import inspect
import itertools
import pickle
import re
from dataclasses import FrozenInstanceError, replace
from types import NoneType

import numpy as np
import official_trees as trees
import pytest
import torch
from torch.utils.data import DataLoader

from gmixout.data import SOURCES
from gmixout.data.common_corruptions.constants import KINDS
from gmixout.data.source import ImageBenchmark, Problems, Source, broken_in
from gmixout.errors import ConfigError, DataError

PACS = ["art_painting", "cartoon", "photo", "sketch"]
OFFICE = ["Art", "Clipart", "Product", "Real World"]
PLACES = ["location_100", "location_38", "location_43", "location_46"]
VLCS = ["Caltech101", "LabelMe", "SUN09", "VOC2007"]

TREES = {
    "imagenet": trees.imagenet,
    "imagenet_c": lambda root: trees.imagenet_c(root, KINDS),
    "imagenet_lt": trees.imagenet_lt,
    "domainnet": trees.domainnet,
    "iwildcam": trees.iwildcam,
    "cifar10": lambda root: trees.cifar10(root, KINDS),
    "cifar100": lambda root: trees.cifar100(root, KINDS),
    "pacs": lambda root: trees.domains(root, PACS, ["dog", "horse"]),
    "vlcs": lambda root: trees.domains(root, VLCS, ["bird", "car"]),
    "officehome": lambda root: trees.domains(root, OFFICE, ["Alarm_Clock", "Bed"]),
    "terra_incognita": lambda root: trees.domains(root, PLACES, ["bird", "empty"]),
    "imagefolder": trees.imagefolder,
    "csv": trees.csv_table,
}
OPTIONS = {"imagenet": {"val_share": 0.2}, "imagenet_c": {"val_share": 0.2}}
"""Where the usual share of so few images would be none."""


def to_tensor(picture):
    """Colour of an image of one colour."""
    return torch.tensor(trees.colour_of(picture), dtype=torch.float32)


@pytest.fixture(params=TREES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def root_of(tmp_path_factory):
    """Each tree is laid out once and only read."""
    made = {}

    def root(name):
        if name not in made:
            made[name] = TREES[name](tmp_path_factory.mktemp(name))
        return made[name]

    return root


@pytest.fixture
def source(name, root_of):
    return SOURCES[name](root_of(name), counts="any", **OPTIONS.get(name, {}))


def test_every_source_is_tested_here_or_has_a_file_of_its_own():
    assert set(SOURCES) == {*TREES, "huggingface"}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_says_what_it_is(name):
    text = inspect.getdoc(SOURCES[name])
    for said in ("Input", "Labels", "Splits", "Metric", "Files"):
        assert said in text, said
    if name not in ("imagefolder", "csv", "huggingface"):
        assert "Licence: " in text
        assert "Source: " in text
        assert re.search(r"[\d,]+\s+(MB|GB|images)", text), "size"
    assert SOURCES[name].__name__ == name
    assert SOURCES[name].download_hint


def test_the_inventory_counts_what_loading_gives(source):
    inventory, splits = source.check(), source.load(to_tensor)
    assert inventory.images == {name: len(images) for name, images in splits.sets.items()}
    assert inventory.classes == len(splits.classes)
    assert inventory.metric == splits.metric
    assert inventory.notes == splits.notes
    for name, count in inventory.images.items():
        assert any(line.split()[:2] == [name, str(count)] for line in str(inventory).splitlines())


def test_every_item_is_a_tensor_and_a_label_in_range(source):
    splits = source.load(to_tensor)
    for images in splits.sets.values():
        classes = splits.classes if images.space is None else images.space.classes
        for tensor, label in images:
            assert tensor.shape == (3,)
            assert 0 <= label < len(classes)
        assert images.groups is None or len(images.groups) == len(images)
        if images.groups is not None:
            assert all(images.group_names[group] for group in images.groups.tolist())


def test_an_image_is_in_one_set_alone(name, source):
    splits = source.load(to_tensor)
    sets = {
        key: [tuple(item.tolist()) for item, _ in images] for key, images in splits.sets.items()
    }
    # no test needs hundreds of files where the list has so many lines, nor as many colours
    if name in ("imagenet_lt", "cifar10", "cifar100"):
        return
    for (first, one), (second, other) in itertools.combinations(sets.items(), 2):
        assert not set(one) & set(other), (first, second)


def test_two_loads_are_equal_and_can_be_sent_to_workers(source):
    first, second = source.load(to_tensor), pickle.loads(pickle.dumps(source)).load(to_tensor)
    for name, images in first.sets.items():
        again = pickle.loads(pickle.dumps(second.sets[name]))
        assert torch.equal(images.labels, again.labels)
        assert torch.equal(images[len(images) - 1][0], again[len(images) - 1][0])


def test_workers_read_a_source(root_of):
    splits = SOURCES["pacs"](root_of("pacs"), counts="any").load(to_tensor)
    images, labels = next(iter(DataLoader(splits.train, batch_size=8, num_workers=2)))
    assert images[:, 0].tolist() == labels.tolist()


def test_published_counts_are_asked_for_by_default(name, root_of):
    if name in ("imagefolder", "csv"):
        return
    with pytest.raises(DataError, match=r"the published data has .*\(counts=any accepts it"):
        SOURCES[name](root_of(name)).check()


def test_the_published_counts_pass(name, source, monkeypatch):
    """With the tree's own counts for the published ones nothing is wrong; one more or less is."""
    asked = {}

    def note(self, problems, key, found, what):
        asked[key] = found

    kind = type(source)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "_count", note)
        source.check()
    assert set(asked) >= {key for key in kind.official if key not in OPTIONAL_COUNTS[name]}
    strict = replace(source, counts="official")
    monkeypatch.setattr(kind, "official", asked)
    strict.check()
    for key, other in itertools.product(asked, (1, -1)):
        published = asked | {key: asked[key] + other}
        monkeypatch.setattr(kind, "official", published)
        with pytest.raises(DataError, match="the published data has"):
            strict.check()


OPTIONAL_COUNTS = dict.fromkeys(TREES, frozenset())
# counts of the other protocol, and of domains that the tree lacks
OPTIONAL_COUNTS["domainnet"] = frozenset(SOURCES["domainnet"].official) - {"classes"}


def test_a_missing_root_is_named_with_where_to_get_the_data(name, tmp_path):
    with pytest.raises(DataError) as caught:
        SOURCES[name](tmp_path / "nowhere").check()
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert SOURCES[name].download_hint in str(caught.value)


def test_an_empty_root_is_refused(name, tmp_path):
    with pytest.raises(
        DataError, match=f"^{name} at {tmp_path} is incomplete or has the wrong layout"
    ):
        SOURCES[name](tmp_path).check()


def test_options_are_plain_values_and_make_the_source_again(source):
    assert source.options["root"] == str(source.root)
    assert all(
        type(value) in (str, int, float, bool, list, NoneType) for value in source.options.values()
    )
    with pytest.raises(FrozenInstanceError):
        source.counts = "official"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("pacs", {"counts": "some"}, r"counts='some'\) must be one of: official, any"),
        ("pacs", {"on_broken": "ignore"}, "must be one of: raise, skip"),
        ("pacs", {"train_domain": "foto"}, "'foto'.*art_painting, cartoon, photo, sketch"),
        ("pacs", {"train_domains": ("foto", "photo")}, "train_domains='foto'.*one of: art_pai"),
        ("pacs", {"train_domains": "photo"}, "must be a list, each entry text"),
        ("pacs", {"train_domains": PACS}, "leaves no domain to test on"),
        ("pacs", {"test_domain": "foto"}, "test_domain='foto'.*one of: art_painting"),
        (
            "pacs",
            {"test_domain": "photo", "train_domain": "sketch"},
            "names training domains twice",
        ),
        (
            "pacs",
            {"train_domains": PACS[:2], "train_domain": "sketch"},
            "names training domains twice",
        ),
        (
            "pacs",
            {"train_domains": PACS[:2], "test_domain": "photo"},
            "names training domains twice",
        ),
        ("imagefolder", {"train_domains": ("a",)}, "train_domains=a.* goes with layout=domains"),
        ("imagefolder", {"test_domain": "a"}, "test_domain=a.* goes with layout=domains"),
        ("csv", {"train_domains": ("a",), "test_domain": "b"}, "names training domains twice"),
        ("csv", {"id_val_share": 0.6, "id_test_share": 0.4}, "below 1 together with id_val_share"),
        ("pacs", {"id_val_share": 0.0}, "above 0 and below 1"),
        ("pacs", {"id_val_share": 0.5, "id_test_share": 0.5}, "below 1 together with"),
        ("domainnet", {"protocol": "list"}, "must be one of: lists, stratified, domainbed"),
        ("domainnet", {"shift_domains": ("real", "foto")}, "foto is not one of: clipart, "),
        ("imagenet", {"val_share": 1}, "above 0 and below 1"),
        ("imagenet", {"shifts": ("v3",)}, "v3 is not one of: v2, r, a, sketch, objectnet"),
        ("cifar100", {"shifts": ("10.1",)}, "10.1 is not one of: c"),
        ("imagenet_lt", {"shots": "liv"}, "must be one of: oltr, lift"),
    ],
)
def test_a_wrong_option_is_refused(name, options, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        SOURCES[name](tmp_path, **options)


class made_up(Source):
    """Splits given by hand."""

    download_hint = "nowhere"
    splits: ImageBenchmark

    def read(self, problems):
        return self.splits


def made(tmp_path, root_of, **changes):
    source = made_up(tmp_path)
    splits = SOURCES["imagefolder"](root_of("imagefolder")).read(Problems())
    object.__setattr__(source, "splits", replace(splits, **changes))
    return source


def test_an_empty_set_is_refused(tmp_path, root_of):
    splits = made(tmp_path, root_of).splits
    with pytest.raises(DataError, match="id_val holds no image"):
        made(tmp_path, root_of, id_val=splits.id_val.subset([])).check()


def test_a_single_class_is_refused(tmp_path, root_of):
    with pytest.raises(DataError, match="cat is the only class: there must be two"):
        made(tmp_path, root_of, classes=("cat",)).check()


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_out_of_range_is_refused(label, tmp_path, root_of):
    wrong = made(tmp_path, root_of).splits.id_test.subset([0, 1])
    wrong.labels = torch.tensor([0, label])
    with pytest.raises(DataError, match=f"id_test: 1 labels are out of range, {label} among"):
        made(tmp_path, root_of, id_test=wrong).check()


def test_a_class_without_training_images_is_noted(tmp_path, root_of):
    splits = made(tmp_path, root_of).splits
    cats = splits.train.subset((splits.train.labels == 0).nonzero().flatten())
    source = made(tmp_path, root_of, train=cats)
    assert source.check().notes[-1] == "train has no image of 1 of 2 classes: dog"
    assert source.load(to_tensor).train.labels.bincount(minlength=2).tolist() == [4, 0]


def test_all_problems_are_in_one_message_up_to_a_limit(tmp_path):
    problems = Problems()
    for number in range(25):
        problems.add(f"problem {number}")
    with pytest.raises(DataError, match=r"(?s)problem 0\n.*problem 19\n.*and 5 more"):
        problems.settle(made_up(tmp_path))


def spoil(root):
    pictures = sorted((root / "val" / "cat").iterdir())
    pictures[0].write_bytes(b"")
    trees.cut_short(pictures[1])
    return pictures[:2]


def test_broken_images_stop_reading_or_are_skipped_and_counted(tmp_path):
    root = trees.imagefolder(tmp_path)
    broken = spoil(root)
    (root / "val").rename(root / "test")
    trees.class_folders(root / "val", ["cat", "dog"], 2, 9)
    broken = [root / "test" / "cat" / path.name for path in broken]
    source = SOURCES["imagefolder"](root)
    source.check()
    with pytest.raises(DataError, match=rf"(?s){broken[0]}.*{broken[1]}.*cannot be read"):
        source.check(decode=True)
    with pytest.raises(DataError, match=str(broken[0])):
        list(source.load(to_tensor).id_test)
    skipping = replace(source, on_broken="skip")
    splits = skipping.load(to_tensor)
    assert broken_in(splits) == tuple(map(str, broken))
    assert len(splits.id_test) == len(list(splits.id_test)) == 6
    assert skipping.check(decode=True).images["id_test"] == 6
    assert [str(path) in " ".join(skipping.check(decode=True).notes) for path in broken] == [
        True
    ] * 2


def test_a_set_of_broken_images_alone_is_refused(tmp_path):
    root = trees.imagefolder(tmp_path)
    for path in (root / "shift_fog").rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="fog holds no image"):
        SOURCES["imagefolder"](root, on_broken="skip").load(to_tensor)


def test_a_missing_pillow_is_said_and_is_no_broken_image(monkeypatch, root_of):
    import sys

    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ConfigError, match="needs pillow"):
        SOURCES["imagefolder"](root_of("imagefolder"), on_broken="skip").load(to_tensor)


def test_global_generators_are_left_alone(source):
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    source.load(to_tensor).train[0]
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
