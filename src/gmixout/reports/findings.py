"""The page of `gmixout data check`: what was found in a data set, with thumbnails."""

from collections.abc import Sequence
from typing import Any

from gmixout.data.findings import Alike, Findings, Found, crosses, differs, leaks
from gmixout.plain import printable
from gmixout.reports.templates import filled
from gmixout.reports.thumbnails import jpeg_uri, thumbnail_in

MOST_GROUPS = 100
"""Groups of copies that are shown."""
MOST_IN_GROUP = 6
MOST_ODD = 60
MOST_SUSPECTS = 200
"""Images whose label may be wrong that are shown."""
SAMPLED_CLASSES = 40
"""Classes of which samples are shown."""
SAMPLES = 6


def findings_page(findings: Findings) -> str:
    """Return the findings as one self-contained HTML document, without scripts.

    Names from the data are escaped; thumbnails are inside. It shows at most `MOST_GROUPS` groups of
    copies, `MOST_ODD` odd images and `SAMPLED_CLASSES` classes, and says how many there are.
    """
    sections = [
        _groups("Equal files", findings, findings.copies),
        _groups("Near-copies", findings, findings.near or ()),
    ]
    if findings.near is None:
        sections[1]["note"] = "Not looked for: pip install 'gmixout[photos]'."
    return filled(
        "findings.html",
        {"printable": printable},
        inventory=findings.inventory,
        lines=findings.lines,
        sections=sections,
        broken=findings.broken[:MOST_ODD],
        broken_count=len(findings.broken),
        odd=[_shown(findings, found) for found in findings.odd[:MOST_ODD]],
        odd_count=len(findings.odd),
        suspects=None
        if findings.suspects is None
        else [_shown(findings, found) for found in findings.suspects[:MOST_SUSPECTS]],
        suspect_count=len(findings.suspects or ()),
        samples=_samples(findings),
        classes_shown=SAMPLED_CLASSES,
    )


def _groups(title: str, findings: Findings, groups: Sequence[Alike]) -> dict[str, Any]:
    shown = [
        {
            "leaks": leaks(group),
            "crosses": crosses(group) and not leaks(group),
            "differs": differs(group),
            "images": [_shown(findings, found) for found in group[:MOST_IN_GROUP]],
            "more": len(group) - MOST_IN_GROUP,
        }
        for group in groups[:MOST_GROUPS]
    ]
    more = len(groups) - len(shown)
    note = f"{more:,} more groups are not shown." if more else "" if groups else "None."
    return {"title": title, "groups": shown, "note": note}


def _samples(findings: Findings) -> list[dict[str, Any]]:
    """Return the first images of each class in the training set, with its counts."""
    train, inventory = findings.benchmark.train, findings.inventory
    broken = {found.index for found in findings.broken if found.part == "train"}
    rows = []
    if not findings.benchmark.task.has_classes:
        return []
    for label, name in enumerate(inventory.names[:SAMPLED_CLASSES]):
        has = train.labels == label if train.labels.dim() == 1 else train.labels[:, label] > 0
        indices = has.nonzero().flatten().tolist()
        chosen = [index for index in indices if index not in broken][:SAMPLES]
        found = [Found("train", index, name, train.name(index)) for index in chosen]
        counts = {
            part: each[label]
            for part, each in inventory.counts.items()
            if len(each) == inventory.classes
        }
        images = [_shown(findings, each) for each in found]
        rows.append({"name": name, "counts": counts, "images": images})
    return rows


def _shown(findings: Findings, found: Found) -> dict[str, Any]:
    """Return an image for the page."""
    thumbnail = thumbnail_in(findings.benchmark.sets[found.part], found.index)
    return {"image": found, "thumbnail": jpeg_uri(thumbnail)}
