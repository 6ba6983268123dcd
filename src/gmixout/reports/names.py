"""Display names of a benchmark's values, by its official metric and its shifts."""

from collections.abc import Iterable
from dataclasses import dataclass

from gmixout.evaluation.official import METRICS
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
        return f"{what} %" if self.metric == "accuracy" else f"{what} {self.metric} %"

    def shift_heading(self, group: str) -> str:
        """Return the heading of a shift group, or of a metric in its place."""
        return self.heading(group) if self.has_domains else f"{short_title(group)} %"

    def also_heading(self, where: str, metric: str) -> str:
        """Return the heading of an additional metric, in domain (ID) or under shift (OOD)."""
        short = short_title(metric)
        return f"{where} {short} %" if self.has_domains else f"{short} %"


def names_of(record: Record) -> Names:
    """Return the display names for the benchmark of a record."""
    metric = title_of(record.benchmark.metric)
    if by_group(record.official):
        return Names(metric, f"{metric} under shift, mean", "mean over the shift groups", True)
    standing_in = " and ".join(map(title_of, record.shifts))
    if standing_in:
        note = f"{standing_in}, as there is no other domain"
        return Names(metric, standing_in, note, False)
    return Names(metric, f"in-domain {metric}, as there are no shifts", "there are none", False)


def title_of(metric: str) -> str:
    """Return the display name of a metric."""
    return METRICS[metric].title if metric in METRICS else metric.replace("_", " ")


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
