"""The three-lever study as tables: `python benchmarks/levers.py RUN [LEVEL ...]`.

RUN is a folder that `gmixout sweep` wrote. For each value of each option that varies: OOD accuracy
at matched ID levels, over all settings with that value and all seeds, with the number of those that
reach the level; its paired difference to the option's middle value, or to the first of named ones
(same other options, same seed); and what in-domain validation chooses, mean over settings.

Where not all combinations of the options were run, the same for each setting, by the options that
differ from the usual ones: the setting whose values are the most frequent.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from math import prod
from pathlib import Path
from statistics import fmean

from gmixout.results import RunFolder, Study
from gmixout.results.statistics import Estimate
from gmixout.results.study import Curve, Point


def main(folder: Path, levels: list[float]) -> None:
    """Prints a table for each option."""
    study = Study(RunFolder(folder).log.read())
    chosen = list(study.selected.values())
    levers = [
        name
        for name in chosen[0].facts.options
        if len({str(each.facts.options[name]) for each in chosen}) > 1
    ]
    points: dict[tuple[object, ...], list[Point]] = defaultdict(list)
    for record in study.records:
        points[(*(record.method.options[name] for name in levers), record.seed)].append(
            Point(record.id, record.ood)
        )
    heights = {
        key: [Curve(("", ""), 0, tuple(each)).ood_at(level) for level in levels]
        for key, each in points.items()
    }
    if len({key[:-1] for key in points}) < prod(
        len({key[i] for key in points}) for i in range(len(levers))
    ):
        _print_settings(levers, heights, study, levels)
        return
    for place, name in enumerate(levers):
        values = sorted({key[place] for key in points})  # type: ignore[type-var]
        # what the others are compared with
        middle = values[0] if isinstance(values[0], str) else values[len(values) // 2]
        print(f"\n{name}: OOD at ID {', '.join(f'{100 * level:g}' for level in levels)}")
        for value in values:
            own = {key: each for key, each in heights.items() if key[place] == value}
            line = [_text((each[i] for each in own.values()), len(own)) for i in range(len(levels))]
            for i in range(len(levels)) if value != middle else ():
                pairs = [
                    (e[i], heights[(*k[:place], middle, *k[place + 1 :])][i])
                    for k, e in own.items()
                ]
                gains = [a - b for a, b in pairs if a is not None and b is not None]
                line.append(f"against {middle}: {_text(gains, len(own), '+.1f')}")
            settings = [each for each in chosen if each.facts.options[name] == value]
            id, ood = (
                fmean(each.estimate(f).mean for each in settings)
                for f in (lambda r: r.id, lambda r: r.ood)
            )
            print(f"  {value}: {'; '.join(line)}; chosen: ID {100 * id:.1f}, OOD {100 * ood:.1f}")


def _print_settings(
    levers: list[str],
    heights: dict[tuple[object, ...], list[float | None]],
    study: Study,
    levels: list[float],
) -> None:
    """Print a line for each setting."""
    settings = sorted({key[:-1] for key in heights}, key=str)
    usual = tuple(Counter(each).most_common(1)[0][0] for each in zip(*settings, strict=True))
    seeds = sorted({key[-1] for key in heights}, key=str)
    chosen = {tuple(s.facts.options[name] for name in levers): s for s in study.selected.values()}
    print(f"\nOOD at ID {', '.join(f'{100 * level:g}' for level in levels)}")
    for setting in sorted(settings, key=lambda each: (each != usual, str(each))):
        parts = zip(levers, setting, usual, strict=True)
        label = ", ".join(f"{name}={value}" for name, value, often in parts if value != often)
        own = [heights[(*setting, seed)] for seed in seeds]
        line = [_text((each[i] for each in own), len(own)) for i in range(len(levels))]
        for i in range(len(levels)) if setting != usual else ():
            both = [(each[i], heights[(*usual, s)][i]) for each, s in zip(own, seeds, strict=True)]
            gains = [a - b for a, b in both if a is not None and b is not None]
            line.append(f"against usual: {_text(gains, len(own), '+.1f')}")
        best = chosen[setting]
        id, ood = (best.estimate(f).mean for f in (lambda r: r.id, lambda r: r.ood))
        line.append(
            f"chosen: validation {100 * best.id_val:.1f}, ID {100 * id:.1f}, OOD {100 * ood:.1f}"
        )
        print(f"  {label or 'usual'}: {'; '.join(line)}")


def _text(values: Iterable[float | None], of: int, form: str = ".1f") -> str:
    known = [value for value in values if value is not None]
    if not known:
        return f"- (0 of {of})"
    estimate = Estimate.of(known)
    sd = "" if estimate.sd is None else f" ± {100 * estimate.sd:.1f}"
    return f"{100 * estimate.mean:{form}}{sd} ({len(known)} of {of})"


if __name__ == "__main__":
    main(Path(sys.argv[1]), [float(level) for level in sys.argv[2:]] or [0.935, 0.94])
