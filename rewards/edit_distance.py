"""Weighted character error rate: the least-cost alignment of two texts where some characters count more.

w(c) is `important_weight` for c in `important_chars`, else 1. Deleting or inserting c costs w(c),
substituting a by b costs max(w(a), w(b)), a match costs nothing. D is the least total cost over all
alignments, and WCER = D / (sum of w over the reference). The costs form a metric, so that common prefixes and
suffixes can be cut off exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import numpy as np

from glyphrl.config_schema import IMPORTANT_CHARS
from glyphrl.errors import UserError
from glyphrl.rewards import alignment
from glyphrl.rewards.alignment import Costs, flag_important
from glyphrl.rewards.normalization import graphemes as split_graphemes
from glyphrl.rewards.normalization import normalize

_LARGEST_SCALE = 64
"""Weights that are whole numbers after multiplication by at most this are computed in integers."""


def weighted_cer(
    reference: str,
    hypothesis: str,
    *,
    important_chars: str = IMPORTANT_CHARS,
    important_weight: float = 2.0,
    normalization: str = "none",
    fold_whitespace: bool = False,
    graphemes: bool = False,
) -> float:
    """Weighted character error rate of one pair; see `weighted_cer_batch`.

    >>> weighted_cer("等:¥476.0", "等:¥476.0")  # a perfect answer
    0.0
    >>> weighted_cer("等:¥476.0", "等:¥475.0")  # one digit wrong: 2 / (等1 :1 ¥2 4,7,6: 6 .1 0: 2)
    0.15384615384615385
    >>> weighted_cer("abc", "abcd5")  # d costs 1, the digit 2: 3 / 3
    1.0
    >>> weighted_cer("", ""), weighted_cer("", "x")
    (0.0, 1.0)
    """
    rates = weighted_cer_batch(
        [reference],
        [hypothesis],
        important_chars=important_chars,
        important_weight=important_weight,
        normalization=normalization,
        fold_whitespace=fold_whitespace,
        graphemes=graphemes,
    )
    return float(rates[0])


def weighted_cer_batch(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    important_chars: str = IMPORTANT_CHARS,
    important_weight: float = 2.0,
    normalization: str = "none",
    fold_whitespace: bool = False,
    graphemes: bool = False,
    max_rate: float | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Weighted character error rates of N pairs, in one compiled call that releases the GIL.

    Args:
        references: N reference texts.
        hypotheses: N texts that were read.
        important_chars: Characters whose errors weigh `important_weight`.
        important_weight: Positive weight of an important character; all others weigh 1.
        normalization: `none`, `nfc` or `nfkc`, applied to both texts (and to `important_chars`).
        fold_whitespace: Count every run of white space as one space.
        graphemes: The unit is the grapheme cluster instead of the code point; a cluster is important where
            any of its code points is.
        max_rate: Rates of at least this are reported as this, which lets hopeless pairs stop early. None: no
            limit.
        threads: Split the batch over so many threads.

    Returns:
        (N,) float64, at least 0 and without an upper limit. For an empty reference 0 where the hypothesis is
        empty, else 1.

    Raises:
        UserError: The lists differ in length, or a parameter is out of range.
    """
    if len(references) != len(hypotheses):
        raise UserError(
            f"{len(references)} references but {len(hypotheses)} hypotheses; each pair needs both"
        )
    distances, totals = weighted_distances(
        references,
        hypotheses,
        important_chars=important_chars,
        important_weight=important_weight,
        normalization=normalization,
        fold_whitespace=fold_whitespace,
        graphemes=graphemes,
        max_rate=max_rate,
        threads=threads,
    )
    empty = totals == 0
    rates = np.where(empty, distances > 0, distances / np.where(empty, 1.0, totals))
    return rates if max_rate is None else np.minimum(rates, max_rate)


def weighted_distances(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    important_chars: str = IMPORTANT_CHARS,
    important_weight: float = 2.0,
    normalization: str = "none",
    fold_whitespace: bool = False,
    graphemes: bool = False,
    max_rate: float | None = None,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Least alignment costs D and reference weights, both (N,) float64; arguments as in `weighted_cer_batch`.

    With `max_rate`, a D of at least `max_rate` times the reference's weight may be any number from there up
    to D.
    """
    if not (important_weight > 0 and np.isfinite(important_weight)):
        raise UserError(f"important_weight is {important_weight}; expected a positive finite number")
    if normalization != "none" or fold_whitespace:
        references = [normalize(text, normalization, fold_whitespace) for text in references]
        hypotheses = [normalize(text, normalization, fold_whitespace) for text in hypotheses]
        important_chars = normalize(important_chars, normalization)
    if graphemes:
        units = _GraphemeCodes(important_chars)
        codes_a, offsets_a = units.encode(references)
        codes_b, offsets_b = units.encode(hypotheses)
        table = units.table()
    else:
        codes_a, offsets_a = _encode(references)
        codes_b, offsets_b = _encode(hypotheses)
        table = _important_table(important_chars)
    longest = max(np.diff(offsets_a).max(initial=0), np.diff(offsets_b).max(initial=0))
    costs = _costs(important_weight, int(longest))
    texts_a = flag_important(codes_a, offsets_a, table, costs)
    texts_b = flag_important(codes_b, offsets_b, table, costs)
    cutoff = np.inf if max_rate is None else float(max_rate)
    count = len(references)
    if threads <= 1 or count < 2 * threads:
        found = alignment.distances(texts_a, texts_b, costs, cutoff)
    else:
        bounds = _even_split(offsets_a, offsets_b, threads)
        parts = [(texts_a.part(*span), texts_b.part(*span), costs, cutoff) for span in pairwise(bounds)]
        with ThreadPoolExecutor(threads) as pool:
            found = np.concatenate(list(pool.map(lambda part: alignment.distances(*part), parts)))
    return found / costs.scale, texts_a.weights / costs.scale


def _even_split(offsets_a: np.ndarray, offsets_b: np.ndarray, parts: int) -> list[int]:
    """Borders that give every part about the same number of table cells."""
    cells = np.cumsum(np.diff(offsets_a).astype(np.float64) * np.diff(offsets_b) + 1)
    inner = np.searchsorted(cells, cells[-1] * np.arange(1, parts) / parts)
    return [0, *map(int, inner), len(cells)]


def _encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Code points of all texts in one uint32 array, and the (N + 1,) int64 offsets of the texts in it."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=offsets[1:])
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    return codes, offsets


class _GraphemeCodes:
    """Gives every grapheme cluster a number of its own."""

    def __init__(self, important_chars: str) -> None:
        self.important = frozenset(important_chars)
        self.numbers: dict[str, int] = {}

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `_encode`, with cluster numbers instead of code points."""
        codes: list[int] = []
        offsets = np.zeros(len(texts) + 1, np.int64)
        numbers = self.numbers
        for k, text in enumerate(texts):
            codes.extend(numbers.setdefault(cluster, len(numbers)) for cluster in split_graphemes(text))
            offsets[k + 1] = len(codes)
        return np.array(codes, np.uint32), offsets

    def table(self) -> np.ndarray:
        """1 at the numbers of important clusters, and a 0 at the end."""
        marks = [not self.important.isdisjoint(cluster) for cluster in self.numbers]
        return np.array([*marks, False], np.uint8)


@lru_cache(maxsize=64)
def _important_table(important_chars: str) -> np.ndarray:
    points = [ord(char) for char in important_chars]
    table = np.zeros(max(points, default=0) + 2, np.uint8)
    table[points] = 1
    table.setflags(write=False)
    return table


def _costs(important_weight: float, longest: int) -> Costs:
    """Weights for the kernel: whole numbers where a small scale makes them whole (faster), else float64.

    Args:
        important_weight: Weight of important characters.
        longest: Length of the longest text.
    """
    far = 2**29  # with the weight of a character on top it stays below 2^31
    for scale in range(1, _LARGEST_SCALE + 1):
        heavy = important_weight * scale
        if heavy == int(heavy) and 2 * longest * max(heavy, scale) < far:
            return Costs(np.int32(scale), np.int32(heavy), np.int32(far), float(scale))
    return Costs(np.float64(1.0), np.float64(important_weight), np.float64(np.inf), 1.0)
