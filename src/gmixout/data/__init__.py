"""Data sets: one file each, and a table of those that are read from a user's folder."""

from gmixout.data.base import Benchmark, LabelledImages
from gmixout.data.cifar import cifar10, cifar100
from gmixout.data.csv_file import csv
from gmixout.data.digits import digits
from gmixout.data.domainnet import domainnet
from gmixout.data.domains import officehome, pacs, terra_incognita, vlcs
from gmixout.data.huggingface import huggingface
from gmixout.data.imagefolder import imagefolder
from gmixout.data.imagenet import imagenet
from gmixout.data.imagenet_c import imagenet_c
from gmixout.data.imagenet_lt import imagenet_lt
from gmixout.data.inventory import Inventory
from gmixout.data.iwildcam import iwildcam
from gmixout.data.recognition import recognized
from gmixout.data.source import Source

__all__ = ["SOURCES", "Benchmark", "Inventory", "LabelledImages", "Source", "digits", "recognized"]

SOURCES: dict[str, type[Source]] = {
    source.__name__: source
    for source in (
        imagenet,
        imagenet_c,
        imagenet_lt,
        domainnet,
        iwildcam,
        cifar10,
        cifar100,
        pacs,
        vlcs,
        officehome,
        terra_incognita,
        imagefolder,
        csv,
        huggingface,
    )
}
"""Benchmarks read from a user's folder, for any model."""

Source._table = SOURCES
