"""Tasks: a benchmark and a pretrained model, by their names."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from accelerate import PartialState

from gmixout.bench.benchmarks import check_benchmark_name, load_benchmark
from gmixout.data import SOURCES, Benchmark, Inventory, Source
from gmixout.data.common_corruptions import with_corruptions
from gmixout.data.images import ImageSet
from gmixout.data.prompt_files import Templates, class_names_in, templates_in
from gmixout.data.source import broken_in
from gmixout.errors import ConfigError, StateError
from gmixout.files import cache_folder
from gmixout.models import Pretrained, check_image_size, linear_probe_head, load_pretrained
from gmixout.named import changed, defaults_of, from_spec, plain, spec_of
from gmixout.plain import bounded
from gmixout.tasks import DEFAULT_TASK, LearningTask
from gmixout.weightspace import fingerprint

Head: TypeAlias = Literal["zero_shot", "random", "linear_probe"]
Corruptions: TypeAlias = Literal["none", "common", "extra", "all"]

IDENTITY_SCHEMA = 3
"""Version of the identity of runs, which leaves out default values. Raise it when the default of a
setting changes, or runs before and after would look the same. 3: GMixout's mask_rate and
anchor_decay, 0.9 before."""

_OF_TEXT = ("prompts", "class_names")
"""Options of a zero-shot head."""

IN_MEMORY_BYTES = 2**30
"""Preprocessed test and training images stay in memory up to this size in total."""


@dataclass(frozen=True)
class LoadedTask:
    """A benchmark and its pretrained model, loaded."""

    name: str
    """Its name in records."""
    parts: Mapping[str, Any]
    """Plain values behind the name; empty if there is only a name."""
    benchmark: Benchmark
    """The benchmark, with images preprocessed for the model."""
    pretrained: Pretrained
    """The model, on the CPU; copy it before changing it."""
    identity: Mapping[str, Any]
    """Plain values that distinguish it from others of its name (options, sizes, the model), for
    the hash of a run."""
    notes: tuple[str, ...]
    """Notes for readers of the results."""
    inventory: Inventory | None = None
    """The content of its data set; None for a benchmark that includes its model."""


@dataclass(frozen=True)
class Task:
    """A benchmark and a model, by names that any process can load.

    Args:
        benchmark: A name in `BENCHMARKS` or `module:function`, which include a model; or a data
            set, for any model.
        model: Name of a pretrained model, see `load_pretrained`.
        head: Initial classifier, `zero_shot`, `random` or `linear_probe`; None: the best that the
            model has.
        corruptions: Also corrupt the in-domain test images, by the fifteen kinds of the published
            mean (`common`, see `common_corruptions`), by the four that their authors set aside for
            choices (`extra`), or by `all`.
        corruption_share: Share of these images to corrupt, stratified, in (0, 1].
        image_size: Height and width of the model's input in pixels; None: the model's own.
        num_workers: Processes that load images for a linear probe, by default as in training; not
            part of the task's identity.
        prompts: File of prompts of a zero-shot head, see `prompt_files.templates_in`; None: the
            data set's.
        class_names: File of the classes' names in prompts, see `prompt_files.class_names_in`.
    """

    benchmark: str | Source = "digits"
    model: str | None = None
    head: Head | None = None
    corruptions: Corruptions = "none"
    corruption_share: float = 1.0
    image_size: int | None = None
    num_workers: int | None = field(default=None, compare=False)
    prompts: Path | None = None
    class_names: Path | None = None

    def __post_init__(self) -> None:
        """Refuse inconsistent values, before anything is loaded."""
        for name, known in (("head", get_args(Head)), ("corruptions", get_args(Corruptions))):
            value = getattr(self, name)
            if value not in known and not (name == "head" and value is None):
                raise ConfigError(f"{name}={value!r:.80} must be one of: {', '.join(known)}")
        if not isinstance(self.model, str | None):
            raise ConfigError(f"model={self.model!r:.80} must be the name of a model")
        for name in _OF_TEXT:
            if (file := getattr(self, name)) is None:
                continue
            if not isinstance(file, str | Path):
                raise ConfigError(f"{name}={file!r:.80} must be a file")
            object.__setattr__(self, name, Path(file).expanduser().absolute())
            if self.head not in (None, "zero_shot"):
                raise ConfigError(
                    f"{name} is for a zero-shot head, and head={self.head} has no text: leave out "
                    "one of them"
                )
        check_image_size(self.image_size)
        share = self.corruption_share
        if not 0 < share <= 1:
            raise ConfigError(f"corruption_share={share} is not allowed: it must be in (0, 1]")
        if share < 1 and self.corruptions == "none":
            raise ConfigError(f"corruption_share={share} goes with --corruptions common")
        if isinstance(self.benchmark, Source):
            object.__setattr__(self, "benchmark", self._source(self.benchmark))
            return
        if not isinstance(self.benchmark, str):
            raise ConfigError(f"benchmark={self.benchmark!r:.80} must name a benchmark")
        if kind := SOURCES.get(self.benchmark):
            raise ConfigError(
                f"benchmark {self.benchmark} needs a folder: --data-root DIR. "
                f"Get the data from: {kind.download_hint}"
            )
        for name in ("model", "head", "corruptions", "image_size", *_OF_TEXT):
            if getattr(self, name) not in (None, "none"):
                raise ConfigError(
                    f"benchmark {self.benchmark} includes its own model and shifts: leave out "
                    f"--{name.replace('_', '-')}, which goes with: {', '.join(SOURCES)}"
                )

    def _source(self, source: Source) -> Source:
        """Return the data with an absolute path; never the half that our model is pretrained on."""
        source = source.placed()
        if self.model is None and source.pretraining_half:
            if source.options["half"] == "first":
                raise ConfigError(
                    f"half=first: the default model of {source.name} was pretrained on that half; "
                    "use half=second, or name another --model"
                )
            return replace(source, half="second")  # type: ignore[call-arg]
        return source

    def with_data(self, source: Source | None = None, root: Path | None = None) -> "Task":
        """Return the task on another data set, on another folder, or (both None) unchanged.

        Raises:
            ConfigError: The benchmark includes its data.
        """
        if source is None and root is None:
            return self
        own = self.benchmark
        if not isinstance(own, Source):
            raise ConfigError(
                f"benchmark {own} includes its data: leave out --benchmark and --data-root"
            )
        source = own if source is None else source
        return replace(self, benchmark=source if root is None else replace(source, root=root))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Task":
        """Return a task from the values of `plain`, from an untrusted file.

        Args:
            values: Values of `plain`; others are ignored.

        Raises:
            ConfigError: There is no such data set, it lacks these options, or it is the user's own
                and its module is not allowed (`gmixout.allowed.allowing`).
            StateError: Values are missing or of other types.
        """
        benchmark = values.get("benchmark")
        if isinstance(benchmark, Mapping):
            benchmark = from_spec(benchmark, Source)  # type: ignore[type-abstract]
        elif isinstance(benchmark, str):
            check_benchmark_name(benchmark)
        else:
            raise StateError(f"benchmark {benchmark!r:.80} is not the name of a benchmark")
        others = ["model", "head", "corruptions", "corruption_share", "image_size", "num_workers"]
        others += _OF_TEXT
        try:
            return cls(benchmark, **{name: values[name] for name in others if name in values})
        except TypeError as error:
            raise StateError(f"the benchmark and model are not usable: {error}") from error

    def plain(self) -> dict[str, Any]:
        """Return plain values, in the spelling of the command line and config files."""
        benchmark = self.benchmark
        spelled = spec_of(benchmark) if isinstance(benchmark, Source) else benchmark
        return {
            "benchmark": spelled,
            "model": self.model,
            "head": self.head,
            "corruptions": self.corruptions,
            "corruption_share": self.corruption_share,
            "image_size": self.image_size,
            **self._files,
        }

    @property
    def _files(self) -> dict[str, str]:
        """The files that are given, which older runs know nothing of."""
        held = {name: getattr(self, name) for name in _OF_TEXT}
        return {name: str(file) for name, file in held.items() if file is not None}

    def identity(self) -> dict[str, Any]:
        """Return its identity as plain values, independent of the place of its files.

        Raises:
            GmixoutError: As `load`.
        """
        loaded = self.load()
        own = {} if isinstance(self.benchmark, Source) else {"benchmark": self.benchmark}
        return {"schema": IDENTITY_SCHEMA, "name": loaded.name, **own, **loaded.identity}

    def load(self) -> LoadedTask:
        """Load data and model; cached for the last few tasks of a process.

        Raises:
            GmixoutError: One of them is unavailable, or they do not fit together.
        """
        return _load(self)

    def about(self) -> dict[str, Any]:
        """Return the origin of the model, for a model file."""
        loaded = self.load()
        learned = loaded.benchmark.task
        own = {} if learned == DEFAULT_TASK else {"learning_task": spec_of(learned)}
        return {
            "task": self.plain(),
            "classes": list(loaded.benchmark.classes),
            "pretrained": fingerprint(loaded.pretrained.model.state_dict()),
            "architecture": _kept(loaded.pretrained.architecture),
            **own,
        }

    def load_model(self, classes: tuple[str, ...], learned: LearningTask) -> Pretrained:
        """Load the model for some classes, or other outputs.

        Args:
            classes: Their names.
            learned: What it is to say of an image. Heads of pretrained models, and those made from
                text, score classes against each other: other tasks start from a random head.

        Raises:
            GmixoutError: It is unavailable.
        """
        assert isinstance(self.benchmark, Source)
        others = learned != DEFAULT_TASK
        if others and self.head == "zero_shot":
            raise ConfigError(
                f"head=zero_shot has no meaning for the task {learned.name} ({learned.title}): its "
                "scores say which of the classes an image is most like, and nothing of each by "
                "itself. Use --head linear_probe or random"
            )
        head = None if self.head == "linear_probe" else self.head
        head = "random" if others else head
        with_text = not others and (self.head == "zero_shot" or self.head is None)
        templates: Templates | None = self.benchmark.prompts if with_text else None
        if self.prompts is not None:
            templates = templates_in(self.prompts, classes)
        names = self.class_names
        found = load_pretrained(
            self.model or default_model(self.benchmark),
            classes,
            head=head,
            templates=templates,
            device=PartialState().device,
            image_size=self.image_size,
            texts=None if names is None else class_names_in(names, classes),
        )
        if found.head_from != "zero_shot" and self._files:
            raise ConfigError(
                f"{' and '.join(self._files)}: the head of {found.name} is {found.head_from}, and "
                "not made from text, which takes a CLIP and one class an image: leave it out"
            )
        return found

    def without_text(self) -> "Task":
        """Return the task with a random head in place of one that files of text are needed for."""
        return replace(self, head="random", prompts=None, class_names=None) if self._files else self


def _kept(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file can hold of an architecture: all of it, or nothing."""
    try:
        return dict(bounded(dict(architecture)))
    except ValueError:  # an unusual config must not cost a finished training
        return {}


def default_model(source: Source) -> str:
    """Return the default model of a benchmark.

    Raises:
        ConfigError: There is none.
    """
    folder = cache_folder() / "pacs-foundation" / "cnn"
    if source.pretraining_half and (folder / "config.json").is_file():
        return f"timm:{folder}"
    text = f"benchmark {source.name} needs a model, e.g. --model open_clip:ViT-B-16/openai"
    if source.pretraining_half:
        text += (
            f"; or make the small default one, {folder}: "
            "`python benchmarks/pacs/pretrain.py cnn --data DIR` in gmixout's repository"
        )
    raise ConfigError(text)


@lru_cache(maxsize=2)
def _load(task: Task) -> LoadedTask:
    if not isinstance(task.benchmark, Source):
        own, start = load_benchmark(task.benchmark)
        return LoadedTask(own.name, {}, own, start, own.identity, own.notes)
    source, benchmark = task.benchmark, task.benchmark.load()
    if task.corruptions != "none":
        summary = source.corruption_summary if task.corruptions != "extra" else None
        summary = summary if benchmark.task == DEFAULT_TASK else None  # of accuracies
        benchmark = with_corruptions(benchmark, task.corruptions, task.corruption_share, summary)
    pretrained = task.load_model(benchmark.classes, benchmark.task)
    assert pretrained.size is not None  # of a model that was loaded by its name
    height, width = pretrained.size
    left = IN_MEMORY_BYTES // (12 * height * width)  # images: 3 x float32

    def seen(images: ImageSet) -> ImageSet:
        nonlocal left
        images = images.transformed(pretrained.transform)
        if len(images) > left:
            return images
        left -= len(images)
        return images.kept()

    benchmark = benchmark.map(seen)
    if task.head == "linear_probe":
        pretrained = linear_probe_head(
            pretrained,
            benchmark.train,
            workers=task.num_workers,
            device=PartialState().device,
            task=benchmark.task,
        )
    head = f"the initial head is {pretrained.head_from}"
    notes = (*benchmark.notes, *_broken(broken_in(benchmark)), head)
    essential = changed(source).keys() - {*source.never_shown}
    return LoadedTask(
        name=f"{source} with {_label(pretrained.name)}" + _differences(task),
        parts=_parts(task, source, _label(pretrained.name)),
        benchmark=benchmark,
        pretrained=pretrained,
        identity={
            "benchmark": source.name,
            "options": {n: v for n, v in source.options.items() if n in essential},
            "classes": list(benchmark.classes),
            "images": {name: images.digest() for name, images in benchmark.sets.items()},
            "transform": repr(pretrained.transform),
            "pretrained": fingerprint(pretrained.model.state_dict()),
        },
        notes=notes,
        inventory=Inventory.of(str(source), source.root, benchmark, notes),
    )


def _label(model: str) -> str:
    """Return a model's name without the folders of this machine."""
    family, colon, name = model.partition(":")
    if not colon:
        return Path(model).name
    architecture, at, file = name.partition("@")
    if Path(architecture).expanduser().is_dir():
        architecture = Path(architecture).expanduser().name
    return f"{family}:{architecture}{at}{Path(file).name if at else ''}"


def _parts(task: Task, source: Source, model: str) -> dict[str, Any]:
    """Return the values behind the name."""
    options = {name: plain(value) for name, value in source.shown.items()}
    usual, others = defaults_of(Task), ("head", "corruptions", "corruption_share", "image_size")
    differing = {n: getattr(task, n) for n in others if getattr(task, n) != usual[n]}
    differing |= {name: Path(file).name for name, file in task._files.items()}
    return {"data": source.name, **options, "model": model, **differing}


def _differences(task: Task) -> str:
    head = f", head={task.head}" if task.head else ""
    head += f", image_size={task.image_size}" if task.image_size else ""
    head += "".join(f", {name}={Path(file).name}" for name, file in task._files.items())
    share = f" of {task.corruption_share:g}" if task.corruption_share < 1 else ""
    return head + (f", corruptions={task.corruptions}{share}" if task.corruptions != "none" else "")


def _broken(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        return ()
    return (f"{len(names)} images cannot be read and are left out, first {Path(names[0]).name}",)
