"""Student's t for whole degrees of freedom: every table of seeds needs it, and scipy.stats takes a second to import."""

from collections.abc import Sequence
from functools import cache
from math import atan2, cos, pi, sin, sqrt, tan
from statistics import stdev

LEVEL = 0.95
"""Of every interval over seeds; 1 minus it is the size of the tests."""


def half_width(values: Sequence[float]) -> float:
    """Half of the 95% interval of the mean of two values or more: t(n - 1) s / sqrt(n)."""
    count = len(values)
    return t_quantile(LEVEL, count - 1) * stdev(values) / sqrt(count)


@cache
def t_quantile(level: float, freedom: int) -> float:
    """The t that |T| stays below with probability `level`, found by bisection of the exact series of its distribution.

    >>> round(t_quantile(0.95, 2), 6)
    4.302653
    """
    low, high = 0.0, pi / 2
    while low < (middle := (low + high) / 2) < high:  # until no number lies between them
        low, high = (middle, high) if _cover(middle, freedom) < level else (low, middle)
    return sqrt(freedom) * tan(low)


def p_value(mean: float, half: float, freedom: int) -> float:
    """P(|T| >= |t|) of a mean whose 95% interval reaches `half` to either side; 1 for a mean of 0 without spread.

    >>> round(p_value(1.0, 1.0, 7), 6)
    0.05
    """
    reach = abs(mean) * t_quantile(LEVEL, freedom)  # t is this over `half`
    return 1 - _cover(atan2(reach, half * sqrt(freedom)), freedom)


def _cover(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) tan(angle)) (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    odd, square = freedom % 2, cos(angle) ** 2
    term = cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for power in range(2 + odd, freedom - 1, 2):
        term *= square * (power - 1) / power
        total += term
    series = sin(angle) * total
    return 2 / pi * (angle + series) if odd else series
