"""Means over seeds and over benchmarks, with their uncertainty."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import fmean, stdev

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with its uncertainty."""

    values: tuple[float, ...]
    """One for each seed."""

    @classmethod
    def of(cls, values: Iterable[float]) -> "Estimate":
        """Collect one value per seed, at least one."""
        return cls(tuple(values))

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @cached_property
    def mean(self) -> float:
        """Mean over seeds."""
        return fmean(self.values)

    @cached_property
    def sd(self) -> float | None:
        """Standard deviation over seeds, with n - 1 in the denominator.

        None for one seed, never 0.
        """
        return stdev(self.values) if self.n > 1 else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return Student's t interval of the mean; None for a single seed."""
        if self.sd is None:
            return None
        half = stdtrit(self.n - 1, (1 + confidence) / 2) * self.sd / self.n**0.5
        return self.mean - half, self.mean + half

    def bootstrap(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return the percentile bootstrap interval of the mean; None for a single seed.

        With few seeds it is too narrow (it never leaves the range of the values), which is why
        `significant` also requires Student's interval.

        Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
        """
        return _bootstrap(self.values, confidence) if self.n > 1 else None

    @property
    def significant(self) -> bool:
        """True if a difference is significant: none of its 95% intervals contains 0.

        Two seeds are not enough: they may agree to a single image.
        """
        return self.n > 2 and _excludes_zero(self.interval(), self.bootstrap())


@cache
def _bootstrap(values: tuple[float, ...], confidence: float) -> tuple[float, float]:
    """Return a cached interval; a page needs most of them several times."""
    from scipy.stats import bootstrap  # a second, which --help should not pay

    drawn = bootstrap((values,), np.mean, confidence_level=confidence, method="percentile", rng=0)
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


@dataclass(frozen=True)
class Pooled:
    """A value in several benchmarks, and its mean over them.

    The mean over benchmarks of the mean over seeds: each benchmark has the same weight, however
    many seeds it has.
    """

    parts: Mapping[str, Estimate]
    """Estimates by benchmark, at least one; benchmarks without the value are omitted."""

    @property
    def mean(self) -> float:
        """Mean over benchmarks."""
        return fmean(each.mean for each in self.parts.values())

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return an interval of the mean over these benchmarks, for new seeds.

        Student's t with the benchmarks as strata of one spread, as in an analysis of variance:

            s^2 = 1/df sum_b sum_i (d_bi - mean d_b)^2,   df = sum_b (n_b - 1)
            SE^2 = s^2 / B^2 sum_b 1/n_b

        Pairs of benchmark and seed are not one sample: differences between benchmarks are not noise
        of the seeds. A bootstrap within benchmarks is not used either: with three seeds it never
        leaves their range and is far too narrow. Strata share one spread, because two seeds, or the
        only one that reached a level, hardly determine it.

        Returns:
            None if every benchmark has a single seed.
        """
        parts = self.parts.values()
        freedom = sum(each.n - 1 for each in parts)
        if freedom == 0:
            return None
        variance = sum((each.n - 1) * (each.sd or 0.0) ** 2 for each in parts) / freedom
        error = (variance * sum(1 / each.n for each in parts)) ** 0.5 / len(parts)
        half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
        return self.mean - half, self.mean + half

    @property
    def n(self) -> int:
        """Number of pairs of benchmark and seed."""
        return sum(each.n for each in self.parts.values())

    @property
    def over_benchmarks(self) -> Estimate:
        """The benchmarks' means as one sample, to generalize to similar benchmarks.

        Its interval covers all uncertainty (seeds, test images, differences between benchmarks) and
        is wide, because benchmarks are few.
        """
        return Estimate.of(each.mean for each in self.parts.values())

    @property
    def significant(self) -> bool:
        """True if a difference is significant: neither of its intervals contains 0.

        That is, neither the one over seeds nor Student's over at least three benchmarks.
        """
        intervals = (self.interval(), self.over_benchmarks.interval())
        return len(self.parts) > 2 and _excludes_zero(*intervals)


def _excludes_zero(*intervals: tuple[float, float] | None) -> bool:
    return all(each is not None and (each[0] > 0 or each[1] < 0) for each in intervals)
