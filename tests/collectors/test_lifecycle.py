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


@given(CROSSINGS, st.randoms())
def test_the_order_does_not_matter(crossings, random):
    shuffled = list(crossings)
    random.shuffle(shuffled)
    assert episodes(shuffled, 15) == episodes(crossings, 15)


@given(CROSSINGS)
def test_episodes_are_apart_and_every_crossing_touches_one(crossings):
    found = episodes(crossings, 15)
    for earlier, later in itertools.pairwise(found):
        assert later.first_minute - earlier.last_minute - 1 > 15
    for crossing in crossings:
        assert any(
            overlap(crossing.first_minute, crossing.minute, one.first_minute, one.last_minute, -1) for one in found
        )
    if crossings:
        assert max(c.statistic_nats for c in crossings) == max(one.best.statistic_nats for one in found)
