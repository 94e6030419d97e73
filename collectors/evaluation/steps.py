"""How long one step of the correlator takes, in fleets of 40, 400 and 4000 clusters.

Enters: a number of clusters and a clock. Leaves: milliseconds of a step that brings an ordinary minute of one stream.
The tail of the false-alarm rate is handed over as after a restart, since only a step is measured, not the calibration.
"""

from collections.abc import Callable

import numpy as np

from collectors.correlator import BLOCK_H, LEARNING_DAYS, Correlator
from collectors.evaluation.fleets import NOVEL_PER_HOST_HOUR
from collectors.evaluation.learned import FIRST_MINUTE, SETTLED_MIN, STREAM, feed
from collectors.false_alarms import SLIDES, summary
from collectors.inventory import Cluster
from collectors.minutes import DAY_MIN, HOUR_MIN, MINUTE_NS
from collectors.sky import angles_deg, directions
from collectors.world import CALM, Block, World

CLUSTERS = (40, 400, 4000)
HOSTS_PER_CLUSTER = 1000
LIVED_DAYS = 2  # enough to be warm
STEPS = 30


def step_ms(clusters: int, clock: Callable[[], float]) -> float:
    """The median over ordinary minutes."""
    places = [
        Cluster(f"c{index:04}", *angles_deg(direction), hosts=HOSTS_PER_CLUSTER)
        for index, direction in enumerate(directions(clusters))
    ]
    world = World(places, NOVEL_PER_HOST_HOUR, CALM, FIRST_MINUTE, seed=1)
    correlator = Correlator(places)
    correlator.restore([], None, _made_up_calibration(correlator))
    # the history is as long as learning takes, though only its last days are lived through
    correlator.minutes.set_watching(STREAM, FIRST_MINUTE, np.ones((HOUR_MIN, clusters), np.int64))
    world.minute += (LEARNING_DAYS - LIVED_DAYS) * DAY_MIN
    for minutes in [DAY_MIN] * LIVED_DAYS + [SETTLED_MIN]:
        block = world.advance(minutes)
        feed(correlator.minutes, block, world.random.poisson(block.expected))
    correlator.step(world.minute * MINUTE_NS - 1)
    assert correlator.status.state == "live"
    block = world.advance(STEPS)
    counts = world.random.poisson(block.expected)
    taken_s = []
    for index in range(STEPS):
        minute = Block(block.first_minute + index, block.watching[index, None], block.expected[index, None])
        feed(correlator.minutes, minute, counts[index, None])
        begun_s = clock()
        correlator.step((minute.first_minute + 1) * MINUTE_NS - 1)
        taken_s.append(clock() - begun_s)
    return 1e3 * float(np.median(taken_s))


def _made_up_calibration(correlator: Correlator) -> dict[str, object]:
    """A tail like that of quiet fleets, for all the blocks that else would be slid."""
    maxima = summary(np.random.default_rng(1).exponential(1.2, SLIDES * BLOCK_H) + 1).document()
    first = FIRST_MINUTE // HOUR_MIN // BLOCK_H
    blocks = range(first, first + LEARNING_DAYS * DAY_MIN // HOUR_MIN // BLOCK_H + 2)
    return correlator.calibration() | {"blocks": {str(block): maxima for block in blocks}}
