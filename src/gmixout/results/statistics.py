"""Means over seeds and over benchmarks, and what is known of their uncertainty."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import fmean, stdev

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with what is known of its uncertainty."""

    values: tuple[float, ...]
    """One for each seed."""

    @classmethod
    def of(cls, values: Iterable[float]) -> "Estimate":
        """Gathers one value a seed; there must be one at least."""
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

        One seed has no spread: None then, never 0.
        """
        return stdev(self.values) if self.n > 1 else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Student's t interval of the mean; None when there is one seed only."""
        if self.sd is None:
            return None
        half = stdtrit(self.n - 1, (1 + confidence) / 2) * self.sd / self.n**0.5
        return self.mean - half, self.mean + half

    def bootstrap(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Percentile bootstrap interval of the mean; None when there is one seed only.

        With the few seeds of a study it is narrower than it should be (with n values it never
        leaves their range), which is why `significant` asks Student's interval as well.

        Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
        """
        return _bootstrap(self.values, confidence) if self.n > 1 else None

    @property
    def significant(self) -> bool:
        """Whether a difference stands out of the noise: no 95% interval of it reaches 0.

        Two seeds are not enough: they may well agree to a single image.
        """
        return self.n > 2 and _excludes_zero(self.interval(), self.bootstrap())


@cache
def _bootstrap(values: tuple[float, ...], confidence: float) -> tuple[float, float]:
    """The same for the same values; a page asks for most of them several times."""
    from scipy.stats import bootstrap  # a second, which --help should not pay

    drawn = bootstrap((values,), np.mean, confidence_level=confidence, method="percentile", rng=0)
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


@dataclass(frozen=True)
class Pooled:
    """A figure in several benchmarks, and its mean over them.

    The mean is over benchmarks of the mean over seeds, so each benchmark weighs the same however
    many seeds it has.
    """

    parts: Mapping[str, Estimate]
    """By benchmark; one that does not have the figure is not there. There is one at least."""

    @property
    def mean(self) -> float:
        """Mean over benchmarks."""
        return fmean(each.mean for each in self.parts.values())

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Interval of the mean over these very benchmarks, for new seeds.

        Student's t with the benchmarks as strata of one spread, as in an analysis of variance:

            s^2 = 1/df sum_b sum_i (d_bi - mean d_b)^2,   df = sum_b (n_b - 1)
            SE^2 = s^2 / B^2 sum_b 1/n_b

        Pairs of benchmark and seed are not taken as one sample: what differs between benchmarks is
        no noise of the seeds. Nor is it a bootstrap within benchmarks: that of three seeds never
        leaves their range and is far too narrow. Strata share their spread as two seeds, or the one
        that reached a level, say next to nothing of it.

        Returns:
            None where every benchmark has one seed only.
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
        """The benchmarks' means as one sample, for what a benchmark like these would show.

        Its interval holds all there is to be unsure of (seeds, the images of each test set, what
        suits which benchmark), and it is wide, as benchmarks are few.
        """
        return Estimate.of(each.mean for each in self.parts.values())

    @property
    def significant(self) -> bool:
        """Whether a difference stands out of the noise: neither interval of it reaches 0.

        Neither that over seeds nor Student's over benchmarks, of which it takes three.
        """
        intervals = (self.interval(), self.over_benchmarks.interval())
        return len(self.parts) > 2 and _excludes_zero(*intervals)


def _excludes_zero(*intervals: tuple[float, float] | None) -> bool:
    return all(each is not None and (each[0] > 0 or each[1] < 0) for each in intervals)
