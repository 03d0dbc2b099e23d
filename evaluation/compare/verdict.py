"""What the numbers of a comparison say, in sentences."""

from __future__ import annotations

from glyphrl.evaluation.bootstrap import Interval
from glyphrl.evaluation.compare.report import Comparison, PairStats, RewardStats

ALIKE = 0.95
"""Kendall's tau-b from which two rewards order completions nearly alike."""
SATURATED = 0.5
LENGTH = 0.1
"""Partial correlation with length that is worth a sentence."""
UNDEFINED = 0.01


def verdict(comparison: Comparison) -> list[str]:
    """Sentences, the most telling ones first. Only what an interval bears out is called better or worse."""
    similarity = next(iter(comparison.truths))
    sentences = [
        _trust(comparison, similarity),
        _signal(comparison),
        *_saturation(comparison),
        *_agreements(comparison),
        *_gaming(comparison, similarity),
        *_length(comparison, similarity),
        *_undefined(comparison),
    ]
    return [sentence for sentence in sentences if sentence]


def name(label: str) -> str:
    """A reward as the sentences name it."""
    return f"`{label}`"


def percent(share: float) -> str:
    """A share in percent, with a decimal where it is small or nearly everything.

    >>> percent(0.414), percent(0.004), percent(0.0), percent(0.999)
    ('41 %', '0.4 %', '0 %', '99.9 %')
    """
    value = 100 * share
    whole = value in (0.0, 100.0) or 1 <= value <= 99
    return f"{value:.0f} %" if whole else f"{value:.1f} %" if 0.05 <= value < 99.95 else f"{value:.2g} %"


def number(value: float) -> str:
    """Three decimals at most, or two digits of what is smaller, with a real minus sign.

    >>> number(0.12345), number(-0.5), number(2.0), number(0.00061), number(1e-9)
    ('0.123', '−0.5', '2', '0.00061', '0')
    """
    decimals = 5 if abs(value) < 0.001 else 4 if abs(value) < 0.01 else 3
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return ("0" if text == "-0" else text).replace("-", "−")


def ends(interval: Interval) -> str:
    """The interval in brackets; nothing where there is none."""
    if interval.low is None or interval.high is None:
        return ""
    return f" [{number(interval.low)}, {number(interval.high)}]"


def listed(names: list[str]) -> str:
    """Names as a sentence lists them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])


def _trust(comparison: Comparison, truth: str) -> str:
    """Which reward picks the best completions, by the truth."""
    scored = [(r, r.truths[truth].regret) for r in comparison.rewards]
    known = sorted(((r, i) for r, i in scored if i is not None), key=lambda item: item[1].value)
    if not known:
        return "No group has two completions: nothing can be said about which reward picks the better one."
    parts = [
        f"{name(r.label)} loses {number(i.value)}{ends(i)}"
        + (f" (here it equals {truth})" if r.truths[truth].identical else "")
        for r, i in known
    ]
    loses = (
        f"Taking the best completion of each group, {'; '.join(parts)} of {truth} against the best there was."
    )
    others = [r for r, _ in known if not r.truths[truth].identical]
    if len(others) < 2:
        return loses
    first, rest = others[0], others[1:]
    beaten = [r for r in rest if _less(comparison, first, r, truth)]
    if len(beaten) == len(rest):
        against = "the others" if len(rest) > 1 else name(rest[0].label)
        return f"{loses} {name(first.label)} finds better completions than {against}, beyond chance."
    open_ones = [name(r.label) for r in (first, *rest) if r not in beaten]
    return f"{loses} Between {listed(open_ones)} this log shows no difference."


def _less(comparison: Comparison, a: RewardStats, b: RewardStats, truth: str) -> bool:
    """Whether the regret of `a` is less than that of `b`, and the paired interval excludes 0."""
    for pair, sign in ((f"{a.label} - {b.label}", 1), (f"{b.label} - {a.label}", -1)):
        found = comparison.regret_differences.get(pair, {}).get(truth)
        if found is not None:
            return found.excludes_zero and sign * found.value < 0
    return False


def _signal(comparison: Comparison) -> str:
    """Groups that teach nothing, at the last step and over all."""
    first, last = comparison.steps
    parts = []
    for reward in comparison.rewards:
        if reward.zero_spread is None:
            continue
        overall = reward.zero_spread.value
        at_end = float(comparison.curves.rewards[reward.label]["zero_spread"][-1])
        known = at_end == at_end and first != last
        parts.append((at_end if known else overall, reward.label, overall, known))
    if not parts:
        return ""
    parts.sort(key=lambda part: (-part[0], part[1]))
    told = [
        f"{name(label)} {'leaves ' if i == 0 else ''}{percent(share)}"
        + (" of groups without a signal" if i == 0 else "")
        + (f" ({percent(overall)} over all steps)" if known else "")
        for i, (share, label, overall, known) in enumerate(parts)
    ]
    return f"{f'At step {last}, ' if first != last else ''}{'; '.join(told)}."


def _saturation(comparison: Comparison) -> list[str]:
    sentences = []
    for r in comparison.rewards:
        if r.low == r.high:
            sentences.append(
                f"{name(r.label)} is {number(r.low)} for every completion: it carries no signal."
            )
        elif max(r.at_ceiling, r.at_floor) >= SATURATED:
            high = r.at_ceiling >= r.at_floor
            share, end = (r.at_ceiling, r.high) if high else (r.at_floor, r.low)
            where = "ceiling" if high else "floor"
            sentences.append(
                f"{name(r.label)} is at its {where} of {number(end)} for {percent(share)} of completions."
            )
    return sentences


def _agreements(comparison: Comparison) -> list[str]:
    """A sentence for each pair; one without any signal has had its own."""
    silent = {r.label for r in comparison.rewards if r.low == r.high}
    return [_agreement(pair) for pair in comparison.pairs if not silent & {pair.first, pair.second}]


def _agreement(pair: PairStats) -> str:
    a, b = name(pair.first), name(pair.second)
    if not pair.completions:
        return f"No completion has both {a} and {b}: they cannot be compared."
    if pair.kendall is None or pair.best_changes is None or pair.sign_changes is None:
        return f"In no group do both {a} and {b} tell completions apart: they cannot be compared."
    tau, best = pair.kendall.value, pair.best_changes.value
    facts = (
        f"Kendall's tau-b {number(tau)} within groups, another best completion in {percent(best)} of groups, "
        f"an advantage of the other sign for {percent(pair.sign_changes.value)} of completions"
    )
    if tau >= ALIKE and best <= 1 - ALIKE:
        return (
            f"{a} and {b} order completions nearly alike ({facts}): training with either would differ little."
        )
    if tau < 0.5:
        return f"{a} and {b} want different things ({facts})."
    return f"{a} and {b} mostly agree ({facts})."


def _gaming(comparison: Comparison, truth: str) -> list[str]:
    """Rewards that rose while the truth on the same completions fell."""
    true = comparison.trends.get(truth)
    if true is None or not (true.change.excludes_zero and true.change.value < 0):
        return []
    return [
        f"{name(r.label)} rose from {number(moved.before)} to {number(moved.after)} between the first and the last "
        f"third of the steps while {truth} fell from {number(true.before)} to {number(true.after)}: the model may "
        "be gaming it."
        for r in comparison.rewards
        if (moved := comparison.trends.get(r.label)) is not None
        and moved.change.excludes_zero
        and moved.change.value > 0
    ]


def _length(comparison: Comparison, truth: str) -> list[str]:
    sentences = []
    for r in comparison.rewards:
        found = r.length.at_equal_truth
        if found is not None and found.excludes_zero and abs(found.value) >= LENGTH:
            sentences.append(
                f"{name(r.label)} pays for {'longer' if found.value > 0 else 'shorter'} completions at equal {truth} "
                f"(partial correlation within groups {number(found.value)}{ends(found)})."
            )
    return sentences


def _undefined(comparison: Comparison) -> list[str]:
    return [
        f"{name(r.label)} does not apply to {percent(r.undefined / comparison.completions)} of completions "
        f"({r.undefined:,}); they take no part in what is said about it."
        for r in comparison.rewards
        if r.undefined
    ]
