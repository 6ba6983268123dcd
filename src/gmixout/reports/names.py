"""Display names of a benchmark's values, by its official metric and its shifts."""

from collections.abc import Iterable
from dataclasses import dataclass

from gmixout.evaluation.official import Metric, metric_named
from gmixout.results.record import Record, by_group


@dataclass(frozen=True)
class Names:
    """Display names of one benchmark's values, for the middle of a sentence."""

    metric: str
    """The official metric: "accuracy", "macro F1"."""
    under_shift: str
    """Name of `Record.ood`."""
    ood_note: str
    """Short name of `Record.ood`, for readers who know OOD."""
    has_domains: bool
    """True if there are test sets of other domains."""
    official: Metric
    """The official metric."""

    @property
    def title(self) -> str:
        """The official metric, for the beginning of a sentence."""
        return self.metric[:1].upper() + self.metric[1:]

    @property
    def in_domain(self) -> str:
        """Name of `Record.id`."""
        return f"in-domain {self.metric}"

    def heading(self, what: str) -> str:
        """Return the heading of a column: "ID %", or "ID macro F1 %" for other metrics."""
        unit = unit_of(self.official)
        return f"{what}{unit}" if self.metric == "accuracy" else f"{what} {self.metric}{unit}"

    @property
    def scale(self) -> float:
        """Factor from the official metric to the displayed number."""
        return scale_of(self.official)

    @property
    def unit(self) -> str:
        """Unit of the displayed number: "%", or nothing."""
        return "%" if self.official.is_share else ""

    @property
    def form(self) -> str:
        """Format specification of the displayed number."""
        return form_of(self.official)

    @property
    def better(self) -> str:
        """Direction of the better in plots with the official metric on both axes."""
        return "down and to the left" if self.official.lower else "up and to the right"

    def axis(self, name: str) -> str:
        """Return the title of an axis."""
        return f"{name} ({self.unit})" if self.unit else name

    def shift_heading(self, group: str) -> str:
        """Return the heading of a shift group, or of a metric in its place."""
        own = unit_of(metric_named(group))
        return self.heading(group) if self.has_domains else f"{short_title(group)}{own}"

    def also_heading(self, where: str, metric: str) -> str:
        """Return the heading of an additional metric, in domain (ID) or under shift (OOD)."""
        short = short_title(metric)
        unit = unit_of(metric_named(metric))
        return f"{where} {short}{unit}" if self.has_domains else f"{short}{unit}"


def names_of(record: Record) -> Names:
    """Return the display names for the benchmark of a record."""
    metric, official = title_of(record.benchmark.metric), record.metric
    if by_group(record.official):
        note = "mean over the shift groups"
        return Names(metric, f"{metric} under shift, mean", note, True, official)
    standing_in = " and ".join(map(title_of, record.shifts))
    if standing_in:
        note = f"{standing_in}, as there is no other domain"
        return Names(metric, standing_in, note, False, official)
    name = f"in-domain {metric}, as there are no shifts"
    return Names(metric, name, "there are none", False, official)


def scale_of(metric: Metric) -> float:
    """Return the factor from a metric to the displayed number."""
    return 100.0 if metric.is_share else 1.0


def form_of(metric: Metric) -> str:
    """Return the format specification of a metric's displayed number."""
    return ".1f" if metric.is_share else ".4g"


def unit_of(metric: Metric) -> str:
    """Return the unit in a heading, with a space; of numbers the better direction."""
    return " %" if metric.is_share else " ↓" if metric.lower else ""


def title_of(metric: str) -> str:
    """Return the display name of a metric."""
    return metric_named(metric).title


def short_title(metric: str) -> str:
    """Return a metric's shortest name, for headings: "few-shot"."""
    return title_of(metric).removesuffix(" accuracy")


def notes_of(records: Iterable[Record]) -> list[str]:
    """Return the notes of all records, each once."""
    records = list(records)
    worse = [record for record in records if record.final and record.below_start]
    own = {record.below_start for record in worse} if len(worse) > 1 else set()
    notes = dict.fromkeys(note for record in records for note in record.notes if note not in own)
    if own:
        text = f"{len(worse)} models ended below their start on ID validation"
        notes[f"{text}: their learning rate is too high"] = None
    starts = {
        s for record in records if (s := record.benchmark.digests.get("pretrained")) is not None
    }
    kept = [r.training for r in records if r.training and r.training.kept_step is not None]
    if kept:
        text = f"models that are the best of their run on ID validation, not its last: {len(kept)}"
        if early := sorted(each.taken for each in kept if each.taken < each.steps):
            text += (
                f"; of runs that stopped early, after {early[0]} to {early[-1]} steps, so that "
                f"budgets are not equal: {len(early)}"
            )
        notes[text] = None
    if soups := [r for r in records if r.training and r.training.soup_steps]:
        notes[f"models that are a soup of their own run, not its last model: {len(soups)}"] = None
    if len(starts) > 1:
        text = f"the runs started from {len(starts)} different sets of pretrained weights"
        notes[f"{text} ({', '.join(sorted(starts))})"] = None
    return list(notes)
