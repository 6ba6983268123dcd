"""Miniature data sets in their official layouts, with the traps of each.

Every image is of one colour, (number of its class, number of its set, number in its class), and a
PNG whatever its name says, so that a test can ask an image where it comes from.
"""

import csv
import io
import json
import pickle
import struct
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

# More than ten, so that "10" sorted as text comes before "2".
WNIDS = [f"n{1000 + 7 * number:08d}" for number in range(12)]


def paint(path, colour, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_png(colour, size))


@cache
def _png(colour, size):
    """Thousands of files have the same few contents."""
    held = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(held, "PNG")
    return held.getvalue()


def colour_of(picture):
    return picture.getpixel((picture.width // 2, picture.height // 2))


def cut_short(path):
    """Half an image file, as a broken download leaves it."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def class_folders(folder, classes, images, set_number, suffix=".jpg", number=None):
    for label, name in enumerate(classes):
        code = number(name) if number else label
        for index in range(images):
            paint(folder / name / f"{name}_{index}{suffix}", (code, set_number, index))


def domains(root, names, classes, images=10):
    for number, domain in enumerate(names):
        class_folders(root / domain, classes, images, number)
    return root


def imagefolder(root):
    for number, name in enumerate(("train", "val", "shift_fog", "shift_snow")):
        class_folders(root / name, ["cat", "dog"], 4, number)
    return root


def csv_table(root):
    """Columns in an order of their own, one of them of no use; gives the table's path."""
    rows = []
    for number, split in enumerate(("train", "val", "test", "fog")):
        for label, name in enumerate(["cat, big", "dog"]):
            for index in range(4):
                path = f"some place/{split}_{label}_{index}.jpg"
                paint(root / path, (label, number, index))
                rows.append([split, path, "photographer", name])
    write_csv(root / "table.csv", ["split", "path", "by", "label"], rows)
    return root / "table.csv"


def imagenet(root):
    number = WNIDS.index
    base = root / "imagenet"
    class_folders(base / "train", WNIDS, 5, 0, ".JPEG")
    class_folders(base / "val", WNIDS, 2, 1, ".JPEG")
    for label in range(len(WNIDS)):
        for index in range(2):
            name = f"imagenetv2-matched-frequency-format-val/{label}/{index}.jpeg"
            paint(root / name, (label, 2, index))
    class_folders(root / "imagenet-r", WNIDS[3:6], 2, 3, number=number)
    (root / "imagenet-r" / "README.txt").write_text("readme")
    class_folders(root / "imagenet-a", [WNIDS[1], WNIDS[4]], 2, 4, number=number)
    class_folders(root / "sketch", WNIDS, 2, 5, ".JPEG")
    objectnet(root / "objectnet-1.0")
    return root


def objectnet(folder):
    """Three object classes, of which ImageNet has two; "chair" is two classes of ImageNet."""
    red = (255, 0, 0)
    for code, name in enumerate(["chair", "air_freshener", "banana"]):
        path = folder / "images" / name / "a.png"
        path.parent.mkdir(parents=True)
        picture = Image.new("RGB", (12, 12), red)
        picture.paste((code, 6, 0), (2, 2, 10, 10))
        picture.save(path)
    labels = {"chair": "Chair", "air_freshener": "Air freshener", "banana": "Banana"}
    imagenet_names = {"Chair": "rocking chair; folding chair", "Banana": "banana"}
    # Lines are in an order of their own, which the third file turns into places of the wnids.
    lines = ["banana", "rocking chair", "folding chair"]
    mappings = {
        "folder_to_objectnet_label.json": json.dumps(labels),
        "objectnet_to_imagenet_1k.json": json.dumps(imagenet_names),
        "pytorch_to_imagenet_2012_id.json": json.dumps({"10": 0, "7": 1, "2": 2}),
        "imagenet_to_label_2012_v2": "\n".join(lines) + "\n",
    }
    for name, text in mappings.items():
        path = folder / "mappings" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def imagenet_c(root, kinds):
    class_folders(root / "train", WNIDS[:2], 5, 0)
    class_folders(root / "val", WNIDS[:2], 1, 1)
    for code, kind in enumerate(kinds):
        for severity in range(1, 6):
            # one of the archives' folders above some of the kinds
            above = root / "ImageNet-C" / ("noise" if "noise" in kind else ".")
            class_folders(
                above / kind / str(severity), WNIDS[:2], 1, 20 * (severity - 1) + code + 2
            )
    return root


def imagenet_lt(root):
    """Classes with 100, 101, 20 and 19 training images, at the limits of both conventions.

    Almost all lines of the training list name the same few files, as no test needs 240 of them.
    """
    for wnid in WNIDS[:4]:
        paint(root / "train" / wnid / "a.JPEG", (WNIDS.index(wnid), 0, 0))
        paint(root / "train" / wnid / "b.JPEG", (WNIDS.index(wnid), 1, 0))
        paint(root / "val" / f"ILSVRC2012_val_{wnid}.JPEG", (WNIDS.index(wnid), 2, 0))

    def lines(template, counts):
        return "".join(
            f"{template.format(wnid=wnid)} {label}\n" * count
            for label, (wnid, count) in enumerate(zip(WNIDS, counts, strict=False))
        )

    lists = {
        "train": lines("train/{wnid}/a.JPEG", (100, 101, 20, 19)),
        "val": lines("train/{wnid}/b.JPEG", (1, 1, 1, 1)),
        "test": lines("val/ILSVRC2012_val_{wnid}.JPEG", (1, 1, 1, 1)),
    }
    for part, text in lists.items():
        (root / f"ImageNet_LT_{part}.txt").write_text(text)
    return root


def domainnet(root):
    """Lists number the classes against the folders' order, and painting's train list lacks one."""
    base, names = root / "domainnet", ["zebra", "t-shirt", "apple"]
    for number, domain in enumerate(("painting", "real", "sketch")):
        class_folders(base / domain, names, 10, number)
        for part, images in (("train", range(8)), ("test", range(8, 10))):
            lines = [
                f"{domain}/{name}/{name}_{index}.jpg {label}"
                for label, name in enumerate(names)
                for index in images
                if (domain, part, name) != ("painting", "train", "t-shirt")
            ]
            (base / "splits").mkdir(exist_ok=True)
            (base / "splits" / f"{domain}_{part}.txt").write_text("\n".join(lines) + "\n")
    return root


def iwildcam(root):
    """Labels with a gap, and a category that stands for species that are in no split."""
    folder = root / "iwildcam_v2.0"
    rows = []
    for number, split in enumerate(("train", "val", "test", "id_val", "id_test")):
        for label in (0, 1, 3):
            name = f"{split}_{label}.jpg"
            paint(folder / "train" / name, (label, number, 0))
            place = 50 + number + label
            rows.append([split, place, place, label, label + 100, name])
    write_csv(
        folder / "metadata.csv",
        ["split", "location_remapped", "location", "y", "category_id", "filename"],
        rows,
    )
    names = [[0, "empty"], [1, "deer"], [2, "lion"], [3, "fox, red"], [99999, "unseen"]]
    write_csv(folder / "categories.csv", ["y", "name"], names)
    return root


def write_csv(path, columns, rows):
    with path.open("w", newline="") as opened:
        csv.writer(opened).writerows([columns, *rows])


def cifar_pixels(labels, set_number):
    pixels = np.zeros((len(labels), 32, 32, 3), np.uint8)
    pixels[..., 0] = np.asarray(labels)[:, None, None]
    pixels[..., 1] = np.asarray(set_number).reshape(-1, 1, 1)
    return pixels


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 did, in which the archives were made."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, held):
        self.write(pickle.BINSTRING + struct.pack("<i", len(held)) + held)
        self.memoize(held)

    dispatch[bytes] = save_bytes


def python2_pickle(path, held):
    path.parent.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    Python2Pickler(written, protocol=2).dump(held)
    path.write_bytes(written.getvalue().replace(b"numpy._core.", b"numpy.core."))


def cifar_batch(path, pixels, labels, key="labels"):
    """The archive's form: a row holds the red plane, then the green, then the blue."""
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    python2_pickle(path, {b"data": rows, key.encode(): list(labels)})


def cifar10(root, kinds):
    labels = [0, 1] * 10
    folder = root / "cifar-10-batches-py"
    for number in range(1, 6):
        cifar_batch(folder / f"data_batch_{number}", cifar_pixels(labels, number), labels)
    test = [1, 0, 1]
    cifar_batch(folder / "test_batch", cifar_pixels(test, 9), test)
    names = {b"label_names": [b"plane", b"car"]}
    python2_pickle(folder / "batches.meta", names)
    corrupted(root / "CIFAR-10-C", kinds, test)
    for number, version in ((20, "v4"), (21, "v6")):
        np.save(root / f"cifar10.1_{version}_data.npy", cifar_pixels(test, number))
        np.save(root / f"cifar10.1_{version}_labels.npy", np.array(test))
    return root


def corrupted(folder, kinds, test):
    """Severities are blocks of rows, one below the other; green says which."""
    folder.mkdir(parents=True, exist_ok=True)
    severities = np.repeat(np.arange(1, 6), len(test))
    for kind in kinds:
        np.save(folder / f"{kind}.npy", cifar_pixels(test * 5, 100 + severities))
    np.save(folder / "labels.npy", np.array(test * 5))


def cifar100(root, kinds):
    folder, labels = root / "cifar-100-python", [0, 1] * 20
    cifar_batch(folder / "train", cifar_pixels(labels, 1), labels, "fine_labels")
    cifar_batch(folder / "test", cifar_pixels([1, 0], 9), [1, 0], "fine_labels")
    names = {b"fine_label_names": [b"apple", b"bee"], b"coarse_label_names": [b"thing"]}
    python2_pickle(folder / "meta", names)
    corrupted(root / "CIFAR-100-C", kinds, [1, 0])
    return root


def remove(path):
    """Deletes a file or folder."""
    path = Path(path)
    if path.is_dir():
        for inside in path.iterdir():
            remove(inside)
        path.rmdir()
    else:
        path.unlink()
