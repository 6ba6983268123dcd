"""DomainNet, by its lists or as DomainBed has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from gmixout.data.base import Benchmark
from gmixout.data.domains import DomainFolders
from gmixout.data.folders import Listing, classes_of_lists, read_list
from gmixout.data.images import ImageSet
from gmixout.data.reading import lines_of
from gmixout.data.sampling import SPLIT_SEED, in_half, stratified
from gmixout.data.several import joined_parts, training_note
from gmixout.data.source import ImageBenchmark, Problems
from gmixout.errors import ConfigError

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
DUPLICATES = "domain_net_duplicates.txt"
"""DomainBed's list of images to drop, with lines `<domain>/<class>/<file>`."""


@dataclass(frozen=True, kw_only=True)
class domainnet(DomainFolders):
    """DomainNet: 345 classes in six domains.

    - Input: RGB, of many sizes. Labels: 345 classes, by the lists' numbers (`lists`) or by the
      sorted folders (otherwise).
    - Domains: clipart (48,129 images), infograph (51,605), painting (72,266), quickdraw (172,500),
      real (172,947), sketch (69,128); 586,575 in all, about 18 GB. These are the cleaned lists'
      numbers, which are also those of the folders less DomainBed's duplicates.
    - Files: `domainnet/<domain>/<class>/*` (or `domain_net/`, or the root itself) and, for `lists`,
      `<domain>_{train,test}.txt` there or in `splits/`: lines `<domain>/<class>/<file> <label>`.
    - Splits, `lists`: id_test is a trained domain's test list, id_val a fixed stratified share of
      its train list, and each other domain's test list is a shift. The lists lack a class here and
      there (painting's train list has no t-shirt).
    - Splits, `stratified` and `domainbed`: see `DomainFolders`; whole domains are shifts. Images in
      `domain_net_duplicates.txt` beside the domains are left out. Results by lists and by folders
      cannot be compared.
    - Metric: accuracy. Licence: fair use, for research (its page).

    Args:
        train_domain: The training domain, if the next two are not given.
        train_domains: The training domains, for example `sketch,real`.
        test_domain: Leave this domain out: finetune on all others that are there, and test on it.
        protocol: See above.
        id_val_share: Share held out from the train list (`lists`) or domain for in-domain
            validation.
        shift_domains: Domains to test on; training domains are skipped.

    Source: Peng, Bai, Xia, Huang, Saenko and Wang, "Moment Matching for Multi-Source Domain
        Adaptation", ICCV 2019.
    """

    train_domain: str = "sketch"
    # one protocol more than the other benchmarks of domains have
    protocol: Literal["lists", "stratified", "domainbed"] = "lists"  # type: ignore[assignment]
    shift_domains: tuple[str, ...] = DOMAINS

    domains = DOMAINS
    folders = ("domainnet",)
    download_hint = (
        "http://ai.bu.edu/M3SDA (the cleaned version and its lists), unpacked to "
        "domainnet/{clipart,infograph,painting,quickdraw,real,sketch}/<class>/ and "
        "domainnet/splits/<domain>_{train,test}.txt; for the protocols by folders, "
        f"{DUPLICATES} of DomainBed (domainbed/misc) beside the domains"
    )
    official: ClassVar[Mapping[str, int]] = {
        "classes": 345,
        "clipart": 48_129,
        "infograph": 51_605,
        "painting": 72_266,
        "quickdraw": 172_500,
        "real": 172_947,
        "sketch": 69_128,
        "clipart train": 33_525,
        "infograph train": 36_023,
        "painting train": 50_416,
        "quickdraw train": 120_750,
        "real train": 120_906,
        "sketch train": 48_212,
        "clipart test": 14_604,
        "infograph test": 15_582,
        "painting test": 21_850,
        "quickdraw test": 51_750,
        "real test": 52_041,
        "sketch test": 20_916,
    }

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if unknown := sorted(set(self.shift_domains) - set(self.domains)):
            raise ConfigError(
                f"domainnet(shift_domains={self.shift_domains}): {', '.join(unknown)} is not "
                f"one of: {', '.join(self.domains)}"
            )

    @property
    def used_domains(self) -> tuple[str, ...]:
        """The domains to look for: the others may lack their lists."""
        wanted = {*self.shift_domains, self.test_domain}
        return tuple(d for d in self.domains if d in wanted or self.trains_on(d))

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at the lists and whether their images are there, or at the folders."""
        if self.protocol != "lists":
            return super().read(problems)
        present, trained = self.domain_folders(problems)
        images, classes = self._read_lists(present, trained, problems)
        parts = {}
        for domain in trained:
            own = images[domain, "train"]
            held, rest = stratified(own.labels, (self.id_val_share,), SPLIT_SEED)
            parts[domain] = own.subset(rest), own.subset(held), images[domain, "test"]
        train, id_val, id_test = joined_parts(parts, problems)
        return Benchmark(
            name=str(self),
            classes=classes,
            train=train,
            id_val=id_val,
            id_test=id_test,
            shifts={d: images[d, "test"] for d in present if d not in trained},
            notes=(*self.left_out(present), *training_note(trained)),
        )

    def whole_domains(
        self, present: Mapping[str, Path], problems: Problems
    ) -> tuple[dict[str, ImageSet], tuple[str, ...]]:
        """Return the test images of each domain: its test list, where lists are the protocol."""
        if self.protocol != "lists":
            return super().whole_domains(present, problems)
        images, classes = self._read_lists(present, (), problems)
        return {domain: each for (domain, _), each in images.items()}, classes

    def _read_lists(
        self, present: Mapping[str, Path], trained: Sequence[str], problems: Problems
    ) -> tuple[dict[tuple[str, str], ImageSet], tuple[str, ...]]:
        """Return the images of each (domain, part) that the protocol has, and the class names."""
        root = next(iter(present.values())).parent
        lists = {
            (domain, part): self._list(root, domain, part)
            for domain in present
            for part in (("train", "test") if domain in trained else ("test",))
        }
        for (domain, part), file in lists.items():
            if not file.is_file():
                problems.add(f"there is no list {root / 'splits' / f'{domain}_{part}.txt'}")
        problems.settle(self)
        read = {key: read_list(file, root, problems) for key, file in lists.items()}
        for (domain, part), listing in read.items():
            name = f"{domain} {part}"
            self._count(problems, name, len(listing), f"number of images in {domain}_{part}.txt")
        classes = classes_of_lists({f"{d}_{p}.txt": s for (d, p), s in read.items()}, problems)
        self._count(problems, "classes", len(classes), "number of classes in the lists")
        problems.settle(self)
        images: dict[tuple[str, str], ImageSet] = {
            key: in_half(listing.images(), self.half) for key, listing in read.items()
        }
        return images, classes

    def read_domain(
        self, folder: Path, labels: Mapping[str, int], problems: Problems
    ) -> tuple[Listing, list[str]]:
        """Return a domain's images without duplicates, and the classes that have no folder."""
        listing, absent = super().read_domain(folder, labels, problems)
        file = folder.parent / DUPLICATES
        if not file.exists():
            return listing, absent
        dropped = {line for _, line in lines_of(file)}
        kept = [
            (path, label)
            for path, label in zip(listing.paths, listing.labels, strict=True)
            if f"{folder.name}/{path}" not in dropped
        ]
        paths, numbers = [path for path, _ in kept], [label for _, label in kept]
        return Listing(folder, paths, numbers), absent

    @staticmethod
    def _list(root: Path, domain: str, part: str) -> Path:
        name = f"{domain}_{part}.txt"
        return root / name if (root / name).is_file() else root / "splits" / name
