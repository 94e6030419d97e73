import itertools

from hypothesis import given
from hypothesis import strategies as st

from collectors.lifecycle import Crossing, Episode, episodes, overlap

CROSSINGS = st.lists(
    st.builds(Crossing, st.integers(0, 300), st.sampled_from([3, 10, 60]), st.floats(10, 20)),
    max_size=12,
    unique_by=lambda crossing: (crossing.minute, crossing.window_min),
)


def test_the_weaker_of_two_that_overlap_is_a_shadow():
    peak, shadow = Crossing(110, 10, 50.0), Crossing(150, 60, 30.0)
    assert episodes([shadow, peak], 15) == [Episode((peak,))]


def test_a_shadow_s_end_does_not_prolong_the_burst_but_a_second_peak_does():
    first, second = Crossing(110, 10, 50.0), Crossing(121, 10, 40.0)
    assert episodes([first, second], 15) == [Episode((first, second))]


def test_an_episode_spans_its_peaks_and_the_strongest_is_its_best():
    episode = Episode((Crossing(110, 10, 40.0), Crossing(125, 3, 50.0), Crossing(140, 5, 50.0)))
    assert (episode.first_minute, episode.last_minute, episode.best) == (101, 140, episode.peaks[1])


def test_peaks_with_more_quiet_minutes_between_them_than_the_gap_are_two():
    first = Crossing(110, 10, 50.0)
    for quiet, number in ((15, 1), (16, 2)):
        second = Crossing(110 + quiet + 3, 3, 60.0)
        assert len(episodes([first, second], 15)) == number


def test_a_window_over_two_pulses_is_no_peak_if_both_together_explain_more():
    first, second = Crossing(110, 10, 50.0), Crossing(137, 10, 40.0)  # 17 quiet minutes between them
    bridge = Crossing(137, 60, 89.0)
    assert episodes([first, second, bridge], 15, 20.0) == [Episode((first,)), Episode((second,))]
    for crossings in (
        [first, second, Crossing(137, 60, 91.0)],  # explains more than both
        [first, Crossing(125, 5, 40.0), bridge],  # near enough to be one burst
        [first, Crossing(137, 10, 19.0), bridge],  # too weak to be a burst of its own
        [first, Crossing(148, 10, 40.0), bridge],  # not all of it lies in the long window
    ):
        assert crossings[2] in episodes(crossings, 15, 20.0)[0].peaks


@given(CROSSINGS, st.randoms())
def test_the_order_does_not_matter(crossings, random):
    shuffled = list(crossings)
    random.shuffle(shuffled)
    assert episodes(shuffled, 15, 12.0) == episodes(crossings, 15, 12.0)


@given(CROSSINGS, st.floats(10, 30))
def test_episodes_are_apart_and_every_crossing_touches_one(crossings, alarm_nats):
    found = episodes(crossings, 15, alarm_nats)
    for earlier, later in itertools.pairwise(found):
        assert later.first_minute - earlier.last_minute - 1 > 15
    for crossing in crossings:
        assert any(
            overlap(crossing.first_minute, crossing.minute, one.first_minute, one.last_minute, -1) for one in found
        )
    if crossings and alarm_nats > 20:  # stronger than all: no bridge
        assert max(c.statistic_nats for c in crossings) == max(one.best.statistic_nats for one in found)
