"""Pictures as people have them: every kind of pixels, endings, folders in folders."""

import base64
import io
import os
import unicodedata
from importlib.util import find_spec

import numpy as np
import official_trees as trees
import pytest
from PIL import Image, features

from gmixout.data import SOURCES, decoding
from gmixout.data.decoding import decoded, suffixes
from gmixout.data.folders import pictures
from gmixout.data.images import ImageBytes, ImageFiles
from gmixout.errors import DataError

RAMP = np.linspace(0, 1, 64)[None].repeat(32, 0)
GREY = Image.fromarray((RAMP * 255).round().astype(np.uint8))


def encode(picture, kind, **options):
    held = io.BytesIO()
    picture.save(held, kind, **options)
    return held.getvalue()


def of_type(dtype, scale=65535):
    return Image.fromarray((RAMP * scale).round().astype(dtype))


RGB = GREY.convert("RGB")
KINDS = {
    "8-bit PNG": lambda: encode(GREY, "PNG"),
    "16-bit PNG": lambda: encode(of_type(np.uint16), "PNG"),
    "16-bit TIFF": lambda: encode(of_type(np.uint16), "TIFF"),
    "16-bit TIFF, big-endian": lambda: encode(of_type(np.uint16), "TIFF", big_endian=True),
    "16-bit PGM": lambda: b"P5 64 32 65535\n" + (RAMP * 65535).round().astype(">u2").tobytes(),
    "16-bit JPEG 2000": lambda: encode(of_type(np.uint16), "JPEG2000"),
    "palette": lambda: encode(RGB.quantize(256), "PNG"),
    "RGBA": lambda: encode(RGB.convert("RGBA"), "PNG"),
    "LA": lambda: encode(GREY.convert("LA"), "PNG"),
    "CMYK JPEG": lambda: encode(RGB.convert("CMYK"), "JPEG", quality=95),
    "grey JPEG": lambda: encode(GREY, "JPEG", quality=95),
    "progressive JPEG": lambda: encode(RGB, "JPEG", progressive=True, quality=95),
    "GIF": lambda: encode(GREY, "GIF"),
    "BMP": lambda: encode(RGB, "BMP"),
    "TGA": lambda: encode(RGB, "TGA"),
    "WebP": lambda: encode(RGB, "WEBP", lossless=True),
    "AVIF": lambda: encode(RGB, "AVIF", quality=95),
    "LZW TIFF": lambda: encode(RGB, "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_ramp_stays_a_ramp_whatever_the_bits(kind):
    try:
        held = KINDS[kind]()
    except (OSError, KeyError) as error:
        pytest.skip(f"this Pillow does not write it: {error}")
    seen = np.asarray(ImageBytes([held], ["x"], [0]).picture(0)).astype(float)
    assert seen.shape == (32, 64, 3)
    assert np.abs(seen - 255 * RAMP[..., None]).max() < 9


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.int32, 65535), (np.int32, 255), (np.float32, 1), (np.float32, 255)]
)
def test_pixels_of_unknown_range_are_refused_by_name(dtype, scale):
    with pytest.raises(DataError, match=r"x cannot be read .*its pixels are .*of unknown range"):
        ImageBytes([encode(of_type(dtype, scale), "TIFF")], ["x"], [0]).picture(0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_own_pictures_stand_upright_and_published_ones_stay_as_published(orientation, tmp_path):
    """The top left corner of what the camera saw is light, the rest is dark."""
    seen = Image.new("RGB", (48, 32))
    seen.paste((255, 255, 255), (0, 0, 16, 16))
    turns = {
        1: (), 2: (0,), 3: (3,), 4: (1,), 5: (5,), 6: (2,), 7: (6,), 8: (4,),
    }[orientation]  # fmt: skip
    stored = seen
    for turn in turns:
        stored = stored.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    root = trees.imagefolder(tmp_path)
    (root / "train" / "cat" / "a.png").write_bytes(encode(stored, "PNG", exif=exif))
    own = SOURCES["imagefolder"](root).load().train
    where = next(i for i in range(len(own)) if own.path(i).name == "a.png")
    assert own.picture(where).size == (48, 32)
    assert own.picture(where).getpixel((4, 4)) == (255, 255, 255)
    assert own.picture(where).getpixel((44, 28)) == (0, 0, 0)
    published = ImageFiles(root, ["train/cat/a.png"], [0]).picture(0)
    assert published.tobytes() == stored.tobytes()


def test_only_formats_of_pictures_are_read_whatever_the_name(tmp_path):
    """EPS would start Ghostscript on the file."""
    for kind in ("EPS", "ICO", "PDF"):
        path = tmp_path / "x.jpg"
        path.write_bytes(encode(RGB, kind))
        with pytest.raises(DataError, match="cannot be read as an image"):
            ImageFiles(tmp_path, ["x.jpg"], [0]).picture(0)
    (tmp_path / "x.jpg").write_bytes(encode(RGB, "PNG"))
    assert decoded(tmp_path / "x.jpg").size == (64, 32)


ENDINGS = {
    ".jfif": "JPEG", ".jpe": "JPEG", ".JPG": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP",
    ".gif": "GIF", ".ppm": "PPM", ".pgm": "PPM", ".pnm": "PPM", ".tif": "TIFF", ".TIFF": "TIFF",
    ".WebP": "WEBP", ".avif": "AVIF", ".jp2": "JPEG2000", ".tga": "TGA",
}  # fmt: skip


def test_endings_that_pillow_knows_are_images(tmp_path):
    root = trees.imagefolder(tmp_path)
    needed = {"JPEG2000": "jpg_2000", "AVIF": "avif", "WEBP": "webp"}
    written = 0
    for ending, kind in ENDINGS.items():
        if kind not in needed or features.check(needed[kind]):
            RGB.save(root / "train" / "cat" / f"more{ending}", kind)
            written += 1
    inventory = SOURCES["imagefolder"](root).check(decode=True)
    assert inventory.images["train"] == 8 + written
    assert {".jpg", ".jpeg", ".png", ".tif", ".webp", ".jfif"} <= set(suffixes())
    assert not {".eps", ".pdf", ".ico", ".mpg", ".h5", ".json", ".txt", ".npy"} & set(suffixes())


def test_palettes_with_transparency_keep_their_colours_without_a_warning():
    coded = RGB.quantize(16)
    for transparency in (3, bytes([0, 100] * 8)):
        held = encode(coded, "PNG", transparency=transparency)
        seen = decoded(io.BytesIO(held))
        assert seen.tobytes() == coded.convert("RGB").tobytes()


HEIC = (
    # 48 x 32, the top left corner light, as pillow-heif writes it
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAA"
    "AAAAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAACMAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34"
    "+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5"
    "uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAA"
    "AAAoY2xhcAAAADAAAAABAAAAIAAAAAH////wAAAAAv///+AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAA"
    "AAAAAAEAAQWBAgMFhAAAACttZGF0AAAAHygBrwngIYB0pa/+5uSS2//tgTa2f/4/vCtmatRxFMA="
)


def test_photos_of_iphones_are_read_with_the_plugin_and_named_without(tmp_path, monkeypatch):
    root = trees.imagefolder(tmp_path)
    (root / "train/cat/IMG_1.HEIC").write_bytes(base64.b64decode(HEIC))
    own = SOURCES["imagefolder"](root)
    for cached in (decoding.formats, decoding.suffixes):
        cached.cache_clear()
    with monkeypatch.context() as without:
        without.setattr(decoding, "HEIF_PLUGINS", ())
        without.setitem(Image.OPEN, "HEIF", None)
        without.delitem(Image.OPEN, "HEIF")
        (note,) = [note for note in own.check().notes if "not read as" in note]
        assert note.startswith("1 file that is not read as an image: .heic (1); ")
        assert note.endswith("IMG_1.HEIC'; pip install 'gmixout[photos]' reads HEIC")
    for cached in (decoding.formats, decoding.suffixes):
        cached.cache_clear()
    if not any(map(find_spec, decoding.HEIF_PLUGINS)):
        pytest.skip("neither pi_heif nor pillow_heif is installed")
    train = own.load().train
    assert len(train) == 9
    picture = train.picture(next(n for n in range(9) if train.path(n).suffix == ".HEIC"))
    assert picture.size == (48, 32)
    assert min(picture.getpixel((4, 4))) > 200 > 50 > max(picture.getpixel((40, 28)))


def test_what_is_passed_over_is_counted_and_named(tmp_path):
    root = trees.imagefolder(tmp_path)
    own = SOURCES["imagefolder"]
    assert not any("not read as" in note for note in own(root).check().notes)
    for name in ("a.mov", "b.MOV", "c.txt", "noending", ".hidden", "._a.jpg", "Thumbs.db"):
        (root / "train" / "cat" / name).write_bytes(b"x")
    (root / "train" / "list.csv").write_bytes(b"x")
    (root / "val" / ".DS_Store").write_bytes(b"x")
    for junk in ("__MACOSX", "@eaDir", ".ipynb_checkpoints"):
        trees.paint(root / "train" / junk / "a.jpg", (0, 0, 0))
    (note,) = [note for note in own(root).check().notes if "not read as images" in note]
    assert note.startswith("5 files that are not read as images: ")
    assert ".mov (2)" in note
    assert note.count("'/") == 3
    (system,) = [note for note in own(root).check().notes if "operating systems" in note]
    assert system.startswith("7 hidden files and folders, or ones of operating systems: ")
    for kind in ("Thumbs.db", ".DS_Store", "._*", "__MACOSX", "@eaDir", ".ipynb_checkpoints"):
        assert f"{kind} (1)" in system
    assert own(root).check().images["train"] == 8


def test_folders_in_a_class_are_walked_and_order_is_that_of_paths(tmp_path):
    root = trees.imagefolder(tmp_path)
    before = SOURCES["imagefolder"](root).load().train
    flat = before.digest()
    for number, place in enumerate(("batch2", "batch2/deep", "more", ".hidden", "@eaDir")):
        for index in range(3):
            trees.paint(root / "train/cat" / place / f"{index}.jpg", (0, number, index))
    train = SOURCES["imagefolder"](root).load().train
    assert len(train) == len(before) + 9
    cats = [os.fspath(train.path(i).relative_to(root / "train/cat")) for i in range(13)]
    assert cats == sorted(cats)
    assert "batch2/deep/2.jpg" in cats
    assert train.labels.tolist() == [0] * 13 + [1] * 4
    assert train.digest() != flat


def test_links_among_folders_end(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        trees.paint(tmp_path / folder / "x.png", (0, 0, 0))
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "itself").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "other").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "dead.png").symlink_to("/nowhere.png")
    assert pictures(tmp_path / "a") == ["dead.png", "other/x.png", "x.png"]


def test_a_check_that_decodes_counts_pictures_of_one_colour(tmp_path):
    for name in ("train", "val"):
        for label in ("cat", "dog"):
            (tmp_path / name / label).mkdir(parents=True)
            for index in range(4):
                RGB.save(tmp_path / name / label / f"{index}.png")
    own = SOURCES["imagefolder"](tmp_path)
    assert not any("single colour" in note for note in own.check(decode=True).notes)
    trees.paint(tmp_path / "train/cat/flat.png", (3, 4, 5))
    trees.paint(tmp_path / "val/dog/flat.png", (0, 0, 0))
    assert "2 images are of a single colour" in own.check(decode=True).notes
    assert not any("single colour" in note for note in own.check().notes)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val", "VALIDATION"])
def test_folders_are_found_by_their_usual_names(val, tmp_path):
    root = trees.imagefolder(tmp_path)
    before = SOURCES["imagefolder"](root).load()
    (root / "val").rename(root / val)
    (root / "train").rename(root / "Train")
    after = SOURCES["imagefolder"](root).load()
    assert {name: len(images) for name, images in before.sets.items()} == {
        name: len(images) for name, images in after.sets.items()
    }
    assert [each.labels.tolist() for each in before.sets.values()] == [
        each.labels.tolist() for each in after.sets.values()
    ]
    assert not any("not used" in note for note in after.notes)


def test_too_few_images_to_halve_are_named_and_absent_classes_noted(tmp_path):
    for name, count in (("train", 2), ("val", 1)):
        trees.class_folders(tmp_path / name, ["ant", "bee"], count, 0)
    with pytest.raises(DataError, match=r"val has too few images of each class.* a folder test/"):
        SOURCES["imagefolder"](tmp_path).check()
    trees.class_folders(tmp_path / "test", ["bee"], 1, 0)
    notes = SOURCES["imagefolder"](tmp_path).check().notes
    assert "id_test has no image of 1 of 2 classes: ant" in notes


def test_an_empty_folder_of_a_class_is_a_class_that_val_lacks(tmp_path):
    root = trees.imagefolder(tmp_path)
    for index in range(4):
        (root / "val/dog" / f"dog_{index}.jpg").unlink()
    notes = SOURCES["imagefolder"](root).check().notes
    assert "id_val has no image of 1 of 2 classes: dog" in notes


def test_the_same_name_in_another_form_of_unicode_is_the_same_class(tmp_path):
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    assert composed != apart
    for name, classes in (("train", [composed, "the"]), ("val", [apart, "the"])):
        trees.class_folders(tmp_path / name, classes, 2, 0)
    splits = SOURCES["imagefolder"](tmp_path).load()
    assert splits.classes == (composed, "the")
    assert splits.id_val.labels.tolist() == [0, 1]
    (tmp_path / "both" / "train").mkdir(parents=True)
    for name in ("train", "val"):
        trees.class_folders(tmp_path / "both" / name, [apart, composed], 2, 0)
    splits = SOURCES["imagefolder"](tmp_path / "both").load()
    assert splits.classes == tuple(sorted([apart, composed]))
    assert splits.train.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["train", "id_val", "id_test"])
def test_a_shift_does_not_take_the_place_of_another_set(name, tmp_path):
    root = trees.imagefolder(tmp_path)
    (root / "shift_fog").rename(root / f"shift_{name}")
    with pytest.raises(DataError, match=f"a shift is called {name}"):
        SOURCES["imagefolder"](root).check()


def test_nor_where_there_is_no_train(tmp_path):
    root = trees.imagefolder(tmp_path)
    trees.remove(root / "train")
    (root / "shift_fog").rename(root / "shift_val")
    with pytest.raises(DataError, match="a shift is called train or val or test: rename"):
        SOURCES["imagefolder"](root).load_tests()


def domain_level(root, parts=("train", "val"), domains=("day", "night", "rain"), images=4):
    for number, part in enumerate(parts):
        for code, domain in enumerate(domains):
            for label, name in enumerate(("cat", "dog")):
                for index in range(images):
                    path = root / part / domain / name / f"{index}.jpg"
                    trees.paint(path, (label, code, 10 * number + index))
    trees.class_folders(root / "shift_fog", ["cat", "dog"], 4, 9)
    return root


def own_domains(root, **options):
    return SOURCES["imagefolder"](root, layout="domains", **options)


def seen(images):
    return [(trees.colour_of(picture), label) for picture, label in images]


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({}, ["day", "night", "rain"]),
        ({"train_domains": ("rain", "day")}, ["day", "rain"]),
        ({"train_domains": ("night",)}, ["night"]),
        ({"test_domain": "day"}, ["night", "rain"]),
    ],
)
@pytest.mark.parametrize("parts", [("train", "val"), ("Train", "valid", "test")])
def test_folders_of_domains_are_trained_on_or_shifts(options, trained, parts, tmp_path):
    splits = own_domains(domain_level(tmp_path, parts), **options).load()
    assert splits.classes == ("cat", "dog")
    assert set(splits.shifts) == {"fog", "day", "night", "rain"} - {*trained}
    sets = {name: seen(images) for name, images in splits.sets.items()}
    for name in ("train", "id_val", "id_test"):
        images = splits.sets[name]
        codes = {["day", "night", "rain"][colour[1]] for colour, _ in sets[name]}
        assert codes == {*trained}
        assert images.group_names == (tuple(trained) if len(trained) > 1 else ())
        if images.groups is not None:
            assert [trained[group] for group in images.groups.tolist()] == [
                ["day", "night", "rain"][colour[1]] for colour, _ in sets[name]
            ]
    for name in {*splits.shifts} - {"fog"}:
        assert splits.shifts[name].groups is None
        assert len(sets[name]) == 8 * len(parts)
    whole = [each for own in sets.values() for each in own]
    assert len({*whole}) == len(whole) == 24 * len(parts) + 8
    assert {colour[0] == label for colour, label in whole} == {True}


def test_a_domain_level_is_asked_for_and_a_layout_that_may_have_one_is_noted(tmp_path):
    def hints(root):
        notes = SOURCES["imagefolder"](root).check().notes
        return [note for note in notes if "--layout domains" in note]

    root = domain_level(tmp_path / "a")
    trees.remove(root / "shift_fog")
    (hint,) = hints(root)
    assert hint.startswith("each folder of train/ holds folders cat, dog and no image")
    assert SOURCES["imagefolder"](root).load().classes == ("day", "night", "rain")
    trees.paint(root / "train" / "rain" / "x.jpg", (0, 0, 0))
    assert not hints(root)
    root = trees.imagefolder(tmp_path / "b")
    assert not hints(root)
    for name in ("train/cat", "train/dog"):
        (root / name).rename(root / "batch")
        (root / "batch").rename(root / "x")
        (root / name).mkdir()
        (root / "x").rename(root / name / f"batch of {name[6:]}")
    assert not hints(root)


LEVELS = {
    "a domain that val lacks": (
        lambda root: trees.remove(root / "val/night"), {}, r"no .*val/night, and night is tra"
    ),
    "a domain that val alone has": (
        lambda root: trees.remove(root / "train/night"), {}, r"val/night is a domain that .* lacks"
    ),
    "a domain that is not there": (
        lambda root: None, {"test_domain": "snow"}, r"test_domain=snow is not .*day, night, rain"
    ),
    "a shift with the name of a domain": (
        lambda root: (root / "shift_fog").rename(root / "shift_day"),
        {"test_domain": "day"},
        "shift_day has the name of a domain: rename it",
    ),
    "no domains": (
        lambda root: trees.class_folders(root / "train", ["cat"], 4, 0),
        {},
        r"train/cat holds 4 images and no folders",
    ),
    "too few images": (
        lambda root: [trees.remove(root / "val/day" / each / f"{n}.jpg")
                      for each in ("cat", "dog") for n in (1, 2, 3)],
        {},
        r"val/day has too few images of each class",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LEVELS)
def test_wrong_folders_of_domains_are_refused(kind, tmp_path):
    do, options, said = LEVELS[kind]
    do(domain_level(tmp_path))
    with pytest.raises(DataError, match=said):
        own_domains(tmp_path, **options).check()


def test_a_domain_that_is_not_trained_on_needs_no_validation(tmp_path):
    trees.remove(domain_level(tmp_path) / "val/night")
    splits = own_domains(tmp_path, test_domain="night").load()
    assert len(splits.shifts["night"]) == 8


def test_folders_of_domains_without_train_are_tests(tmp_path):
    trees.remove(domain_level(tmp_path) / "train")
    tests = own_domains(tmp_path, test_domain="snow").load_tests()
    assert {name: len(images) for name, images in tests.shifts.items()} == {"val": 24, "fog": 8}
    assert tests.classes == ("cat", "dog")
