"""Findings are merged without losing a flip."""

from checksum.finding import Finding, Flip, Verdict, merge


def test_adjacent_equal_verdicts_are_joined() -> None:
    skipped = [Finding(0, 10, Verdict.skipped, 1, 2), Finding(10, 30, Verdict.skipped)]
    assert list(merge(skipped)) == [Finding(0, 30, Verdict.skipped)]


def test_a_gap_or_another_verdict_separates() -> None:
    apart = [
        Finding(0, 10, Verdict.skipped, 1, 2),
        Finding(11, 20, Verdict.skipped),
        Finding(20, 30, Verdict.torn),
        Finding(30, 31, Verdict.zeros),
    ]
    assert list(merge(apart)) == apart


def test_no_flip_is_lost() -> None:
    one, other = Flip(3, 1, 0), Flip(12, 7, 1)
    both = [Finding(0, 10, Verdict.flipped, flip=one), Finding(10, 20, Verdict.flipped, flip=other)]
    assert list(merge(both)) == both
    assert list(merge([])) == []
