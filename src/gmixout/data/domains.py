"""Benchmarks of domain folders, `<root>/<domain>/<class>/*`: PACS, VLCS, OfficeHome, ..."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gmixout.data.base import Benchmark
from gmixout.data.folders import Listing, find, folded_name, read_class, subfolders
from gmixout.data.images import ImageSet
from gmixout.data.sampling import SPLIT_SEED, in_half, stratified
from gmixout.data.several import Parts, SeveralDomains, joined_parts, training_note
from gmixout.data.source import ImageBenchmark, Problems
from gmixout.errors import ConfigError
from gmixout.named import changed

HOLDOUT = 0.2
"""DomainBed's share of each domain that is held out."""


def domainbed_holdout(examples: int, trial_seed: int, environment: int) -> tuple[Tensor, Tensor]:
    """Return the examples that DomainBed trains on and those it holds out, in one domain.

    Args:
        examples: Number of images of the domain, sorted by class and then by file name.
        trial_seed: DomainBed's `--trial_seed`.
        environment: Position of the domain among the sorted names of all domains.

    Returns:
        Indices of the 80 % to train on (its "in" split) and of the 20 % held out ("out").

    Source: Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021; the seed
        is that of its code, a hash of the trial's seed and the domain.
    """
    text = str((trial_seed, environment)).encode()
    seed = int(hashlib.md5(text, usedforsecurity=False).hexdigest(), 16) % 2**31
    order = list(range(examples))
    np.random.RandomState(seed).shuffle(order)
    held = int(examples * HOLDOUT)
    return torch.tensor(order[held:]), torch.tensor(order[:held])


@dataclass(frozen=True, kw_only=True)
class DomainFolders(SeveralDomains):
    """A benchmark whose domains are folders of class folders.

    Any domain may be missing: the others but the trained ones are the shifts, each with all its
    images. Names of domains and classes are matched without regard to case and separators. With
    several training domains, each is split by itself; training, validation and test are those of
    all, with the domains as groups.

    Args:
        train_domain: The training domain, if the next two are not given.
        train_domains: The training domains, for example `photo,cartoon`.
        test_domain: Leave this domain out: finetune on all others that are there, and test on it
            (leave-one-domain-out; validation is on the training domains).
        protocol: How each is split: `stratified` (a fixed seed, every class in proportion,
            `id_val_share` and `id_test_share` held out) or `domainbed` (the 20 % that DomainBed
            holds out for `trial_seed`; one half of them, stratified, is id_val and the other
            id_test, which DomainBed does not separate).
        id_val_share: Share of a training domain for in-domain validation (`stratified`).
        id_test_share: Share of a training domain for in-domain test (`stratified`).
        trial_seed: DomainBed's seed of the split (`domainbed`).
        half: Use `both` halves of every domain's images, or only the `first` or `second`: fixed
            and stratified, for a model that was pretrained on the other half.
    """

    train_domain: str
    protocol: Literal["stratified", "domainbed"] = "stratified"
    id_val_share: float = 0.2
    id_test_share: float = 0.2
    trial_seed: int = 0
    half: Literal["both", "first", "second"] = "both"

    spellings: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Other names of domains' folders."""
    folders: ClassVar[tuple[str, ...]]
    """Names of the folder that holds the domains, if the root is the one above it."""

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        option, named = self.choice
        if option != "train_domain" and "train_domain" in changed(self):
            self._refuse_both("train_domain", option)
        for name in named:
            if name not in self.domains:
                allowed = f"one of: {', '.join(self.domains)}"
                raise ConfigError(f"{self.name}({option}={name!r}) must be {allowed}")
        if set(named) == set(self.domains):
            raise ConfigError(f"{self.name}({option}={named}) leaves no domain to test on")
        if len(self.train_domains) == 1:  # one run has one spelling
            object.__setattr__(self, "train_domain", named[0])
            object.__setattr__(self, "train_domains", ())

    @classmethod
    def recognize(cls, root: Path) -> Path | None:
        """Accept a folder whose folders are two or more of the domains."""
        domains: Any = cls.domains  # names, except in a class whose domains follow from options
        if not root.is_dir() or isinstance(domains, property):
            return None
        known = {folded_name(n) for d in domains for n in (d, *cls.spellings.get(d, ()))}
        inside = subfolders(root)
        fitting = [n for n in inside if folded_name(n) in known and subfolders(root / n)]
        return root if len(inside) == len(fitting) > 1 else None

    @property
    @abstractmethod
    def domains(self) -> tuple[str, ...]:
        """All domains in DomainBed's order."""

    @property
    def choice(self) -> tuple[str, tuple[str, ...]]:
        """The option that names the training domains, and these domains."""
        option, named = super().choice
        return (option, named) if named else ("train_domain", (self.train_domain,))

    @property
    def always_shown(self) -> tuple[str, ...]:
        """Options shown with results: the one that names the training domains."""
        return (self.choice[0],)

    @property
    def used_domains(self) -> tuple[str, ...]:
        """The domains to look for."""
        return self.domains

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at the domain folders."""
        present, trained = self.domain_folders(problems)
        sets, classes, notes = self._read_domains(present, problems)
        train, id_val, id_test = joined_parts(
            {domain: self._parts(domain, sets[domain]) for domain in trained}, problems
        )
        if self.protocol == "domainbed" and self.half != "both":
            notes += (
                f"half={self.half}: protocol=domainbed holds out 20% of that half, which are "
                "not the images that DomainBed holds out",
            )
        return Benchmark(
            name=str(self),
            classes=classes,
            train=train,
            id_val=id_val,
            id_test=id_test,
            shifts={domain: images for domain, images in sets.items() if domain not in trained},
            notes=notes + training_note(trained),
        )

    def load_tests(self) -> ImageBenchmark:
        """Return the test sets: complete domains, if no training domain is there.

        Raises:
            DataError: As `check`, or there is no domain at all.
        """
        problems = Problems()
        self._check_root(problems)
        present = self._found()
        if any(map(self.trains_on, present)):
            return super().load_tests()
        if not present:
            problems.fail(self, f"there is none of {', '.join(self.used_domains)} in {self.root}")
        sets, classes = self.whole_domains(present, problems)
        problems.settle(self)
        return self.tests_alone(classes, sets)

    def whole_domains(
        self, present: Mapping[str, Path], problems: Problems
    ) -> tuple[dict[str, ImageSet], tuple[str, ...]]:
        """Return the test images of each domain, and the class names."""
        sets, classes, _ = self._read_domains(present, problems)
        return sets, classes

    def _read_domains(
        self, present: Mapping[str, Path], problems: Problems
    ) -> tuple[dict[str, ImageSet], tuple[str, ...], tuple[str, ...]]:
        """Return the images of each domain, the class names, and notes."""
        names = {folded_name(name): name for f in present.values() for name in subfolders(f)}
        self._count(problems, "classes", len(names), "number of classes")
        problems.settle(self)
        labels = {name: label for label, name in enumerate(sorted(names))}
        notes = self.left_out(present)
        sets: dict[str, ImageSet] = {}
        for domain, folder in present.items():
            listing, absent = self.read_domain(folder, labels, problems)
            self._count(problems, domain, len(listing), f"number of images in {folder}")
            if absent:
                listed = ", ".join(names[name] for name in absent)
                notes.append(f"{domain} has no folder of {listed}")
            sets[domain] = in_half(listing.images(), self.half)
        return sets, tuple(names[name] for name in labels), tuple(notes)

    def domain_folders(self, problems: Problems) -> tuple[dict[str, Path], list[str]]:
        """Return the folders of the domains present, and which domains are trained on.

        Raises:
            DataError: A domain that an option names is not there, or none to train or to test on.
        """
        present = self._found()
        trained = self.trained_of(tuple(present), problems)
        if len(trained) == len(present):
            whole = "is the only domain" if len(present) == 1 else "are the only domains"
            problems.fail(self, f"{', '.join(trained)} {whole} in {self.root}: no shift to test on")
        return present, trained

    def left_out(self, present: Iterable[str]) -> list[str]:
        """Return a note for each missing domain."""
        absent = (domain for domain in self.used_domains if domain not in set(present))
        return [f"there is no domain {domain}: left out" for domain in absent]

    def _found(self) -> dict[str, Path]:
        present = self._present(self.root)
        above = None if present else find(self.root, *self.folders)
        return present if above is None else self._present(above)

    def _present(self, root: Path) -> dict[str, Path]:
        found = {d: find(root, d, *self.spellings.get(d, ())) for d in self.used_domains}
        return {domain: folder for domain, folder in found.items() if folder is not None}

    def read_domain(
        self, folder: Path, labels: Mapping[str, int], problems: Problems
    ) -> tuple[Listing, list[str]]:
        """Return a domain's images, and the classes that have no folder."""
        listing, found = Listing(folder), set()
        # by folder name, then file name: the order that DomainBed's split is made on
        for name in subfolders(folder):
            if folded_name(name) in found:
                problems.add(f"{folder / name} is a class that another folder beside it has too")
            found.add(folded_name(name))
            read_class(listing, name, labels[folded_name(name)], problems)
        return listing, [name for name in labels if name not in found]

    def _parts(self, domain: str, images: ImageSet) -> Parts:
        """Return the training, validation and test images of one domain."""
        if self.protocol == "domainbed":
            environment = self.domains.index(domain)
            train, held = domainbed_holdout(len(images), self.trial_seed, environment)
            halves = stratified(images.labels[held], (0.5,), SPLIT_SEED)
            val, test = (held[half] for half in halves)
        else:
            shares = (self.id_val_share, self.id_test_share)
            val, test, train = stratified(images.labels, shares, SPLIT_SEED)
        return images.subset(train), images.subset(val), images.subset(test)


@dataclass(frozen=True, kw_only=True)
class pacs(DomainFolders):
    """PACS: objects as photo, art painting, cartoon and sketch.

    - Input: RGB, 227x227. Labels: 7 classes. Domains: art_painting (2,048 images), cartoon (2,344),
      photo (1,670), sketch (3,929); 9,991 in all, about 190 MB.
    - Files: `PACS/<domain>/<class>/*`, as DomainBed has them, or Dassl's `images/` in their place.
    - Splits: none official for one source domain; see `protocol`. Metric: accuracy.
    - Licence: none stated by its authors; for research.

    Source: Li, Yang, Song and Hospedales, "Deeper, Broader and Artier Domain Generalization",
        ICCV 2017.
    """

    train_domain: str = "photo"

    pretraining_half = True
    domains = ("art_painting", "cartoon", "photo", "sketch")
    folders = ("PACS", "kfold", "images")
    download_hint = (
        "https://github.com/facebookresearch/DomainBed (domainbed/scripts/download.py, PACS), "
        "unpacked to PACS/{art_painting,cartoon,photo,sketch}/<class>/"
    )
    official: ClassVar[Mapping[str, int]] = {
        "classes": 7,
        "art_painting": 2048,
        "cartoon": 2344,
        "photo": 1670,
        "sketch": 3929,
    }


@dataclass(frozen=True, kw_only=True)
class vlcs(DomainFolders):
    """VLCS: five objects in four older collections of photographs.

    - Input: RGB, of many sizes. Labels: 5 classes (bird, car, chair, dog, person). Domains:
      Caltech101 (1,415 images), LabelMe (2,656), SUN09 (3,282), VOC2007 (3,376); 10,729 in all
      (how many bytes is not published).
    - Files: `VLCS/<domain>/<class>/*`, as DomainBed has them.
    - Splits: none official for one source domain; see `protocol`. Metric: accuracy.
    - Licence: those of the four collections; for research.

    Source: Fang, Xu and Rockmore, "Unbiased Metric Learning", ICCV 2013.
    """

    train_domain: str = "VOC2007"

    domains = ("Caltech101", "LabelMe", "SUN09", "VOC2007")
    spellings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Caltech101": ("Caltech",),
        "SUN09": ("SUN",),
        "VOC2007": ("VOC", "PASCAL"),
    }
    folders = ("VLCS",)
    download_hint = (
        "https://github.com/facebookresearch/DomainBed (domainbed/scripts/download.py, VLCS), "
        "unpacked to VLCS/{Caltech101,LabelMe,SUN09,VOC2007}/<class>/"
    )
    official: ClassVar[Mapping[str, int]] = {
        "classes": 5,
        "Caltech101": 1415,
        "LabelMe": 2656,
        "SUN09": 3282,
        "VOC2007": 3376,
    }


@dataclass(frozen=True, kw_only=True)
class officehome(DomainFolders):
    """OfficeHome: objects of office and home as art, clipart, product image and photograph.

    - Input: RGB, of many sizes. Labels: 65 classes. Domains: Art (2,427 images), Clipart (4,365),
      Product (4,439), Real World (4,357); 15,588 in all, about 1.1 GB.
    - Files: `office_home/<domain>/<class>/*`, as DomainBed has them, or the archive's
      `OfficeHomeDataset_10072016/`; note the space in "Real World".
    - Splits: none official for one source domain; see `protocol`. Metric: accuracy.
    - Licence: non-commercial research and education, by the authors' page.

    Source: Venkateswara, Eusebio, Chakraborty and Panchanathan, "Deep Hashing Network for
        Unsupervised Domain Adaptation", CVPR 2017.
    """

    train_domain: str = "Real World"

    domains = ("Art", "Clipart", "Product", "Real World")
    spellings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Real World": ("Real",)}
    folders = ("office_home", "OfficeHomeDataset_10072016")
    download_hint = (
        "https://www.hemanthdv.org/officeHomeDataset.html, unpacked to "
        "office_home/{Art,Clipart,Product,Real World}/<class>/"
    )
    official: ClassVar[Mapping[str, int]] = {
        "classes": 65,
        "Art": 2427,
        "Clipart": 4365,
        "Product": 4439,
        "Real World": 4357,
    }


@dataclass(frozen=True, kw_only=True)
class terra_incognita(DomainFolders):
    """TerraIncognita: animals seen by camera traps at four places.

    - Input: RGB, of many sizes. Labels: 10 classes, one of them "empty". Domains: location_100,
      location_38, location_43, location_46 (in this order, which is that of text), about 24,000
      images (how many bytes is not published); published counts differ with the version of the
      annotations, so none is checked.
    - Files: `terra_incognita/<location>/<class>/*`, made of Caltech Camera Traps by DomainBed.
    - Splits: none official for one source domain; see `protocol`. Metric: accuracy.
    - Licence: Community Data License Agreement, permissive variant.

    Source: Beery, Van Horn and Perona, "Recognition in Terra Incognita", ECCV 2018; the choice of
        places and classes is DomainBed's.
    """

    train_domain: str = "location_38"

    domains = ("location_100", "location_38", "location_43", "location_46")
    spellings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "location_100": ("L100", "100"),
        "location_38": ("L38", "38"),
        "location_43": ("L43", "43"),
        "location_46": ("L46", "46"),
    }
    folders = ("terra_incognita",)
    download_hint = (
        "https://lila.science/datasets/caltech-camera-traps, sorted into "
        "terra_incognita/location_{100,38,43,46}/<class>/ by DomainBed's "
        "domainbed/scripts/download.py"
    )
    official: ClassVar[Mapping[str, int]] = {"classes": 10}
