"""Causes: what explains a crossing best, and where in the sky would it stand?

Enters: one row (a window's counts and expectations), the victims with what their hosts have, and the cohorts of open
roll-outs. Leaves: the posterior over causes and, if the cause were celestial, a direction with its 50 and 90 % areas.
Pure, numpy only.

Each cause is a family of templates; its marginal likelihood is the mean of exp(log-likelihood ratio) over the family,
so a family with more freedom pays for it:

    none        the baseline
    local       one cluster rises
    part        the hosts that share an attribute's value rise, in one cluster or in all (`part_evidence`)
    region      the clusters within a cap or a band of longitudes rise alike
    fleet       all clusters rise alike
    incoherent  a random share of the clusters rises, alike or each within a factor of four of the others
    rollout     clusters rise with their share of hosts in the cohort of an open change
    celestial   a direction and a response (see scan)
    low-cutoff  exp(-Rc / R0), Rc the geomagnetic cutoff rigidity: solar particles; alone or times a direction's cosine

The amplitude is log-uniform in all of them, each stream has its own, and streams multiply. Templates are never exactly
right, so the variance of a large excess is widened by TEMPLATE_ERROR times the excess.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from collectors.inventory import Cluster
from collectors.population import CLUSTER, Population, Victim
from collectors.scan import StreamRows, Templates, responses
from collectors.sky import SPHERE_DEG2, directions, rigidities_gv, zeniths
from collectors.windows import Row

# How often each explains a crossing, relative to a direction in the sky.
PRIORS: Mapping[str, float] = {
    "none": 1.0,
    "part": 10.0,
    "local": 10.0,
    "region": 0.5,
    "fleet": 0.7,
    "incoherent": 1.5,
    "rollout": 10.0,
    "celestial": 1.0,
    "low-cutoff": 0.3,
}
COHORT = "cohort"  # the inventory label that says which hosts a change touches
SKY = ("celestial", "low-cutoff")  # the causes that nobody on Earth is to blame for
SKY_ODDS_NATS = 3.5  # the sky is named only if it is so much likelier than all other causes together
# 0 for a stream that doesn't take part; up to where two hosts, which expect a fault a month, see dozens at once
AMPLITUDES = np.concatenate([[0.0], 2.0 ** np.arange(-2, 17.5, 0.5)])
SPREAD_STEPS = 4  # of the amplitudes above: the factor of four within which the clusters of `incoherent` differ
TEMPLATE_ERROR = 0.1
DIRECTIONS = 768
EXPONENTS = (0, 1, 2, 4)
SMOOTHING_DEG = 4.0  # the true response is none of ours, so the map is never sharper than this
SKY_CLUSTERS_MIN = 4  # fewer can't show a direction
CAPS_DEG = (8.0, 15.0, 25.0, 40.0)
BANDS_DEG = (20.0, 35.0, 50.0)  # half widths in longitude: roll-outs and holidays go by continents
BANDS_SHARE = 0.25
REGION_CENTRES_MAX = 256
RIGIDITIES_GV = (1.0, 2.0, 4.0)
LOW_CUTOFF_DIRECTIONS = 192
SHARES = (0.1, 0.2, 0.4, 0.7)  # of the clusters that rise in `incoherent`, beside one, two and four clusters


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The mean direction of a celestial cause in the frame that turns with the Earth."""

    direction: np.ndarray
    sky: np.ndarray  # [768] probability of each of directions(768)
    area50_deg2: float
    area90_deg2: float
    amplitude: float  # the mean of its posterior's logarithm, of the stream that shows it best


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """The posterior over causes, the one to name, and the direction a celestial one would have."""

    posterior: dict[str, float]
    label: str
    place: Place


class Causes:
    """The families of templates for one set of clusters."""

    def __init__(self, clusters: Sequence[Cluster], priors: Mapping[str, float] = PRIORS) -> None:
        assert set(priors) == set(PRIORS), priors
        self._log_priors = {cause: float(np.log(prior)) for cause, prior in priors.items()}
        self._names = tuple(cluster.name for cluster in clusters)
        self._directions = directions(DIRECTIONS)
        sky = np.concatenate([responses(clusters, self._directions, n) for n in EXPONENTS])
        regions, weights = _regions(clusters)
        self._log_weights = np.log(weights * len(weights))  # against a plain mean
        self._templates = {
            "region": Templates(regions, AMPLITUDES),
            "fleet": Templates(np.ones((1, len(clusters))), AMPLITUDES),
            "celestial": Templates(sky, AMPLITUDES),
            "low-cutoff": Templates(_low_cutoff(clusters), AMPLITUDES),
        }
        cosines = np.clip(self._directions @ self._directions.T, -1, 1)
        kernel = np.exp((cosines - 1) / np.radians(SMOOTHING_DEG) ** 2)
        self._smoothing = kernel / kernel.sum(axis=0)

    def judge(
        self,
        row: Row,
        cohorts: Collection[str] = (),
        victims: Sequence[Victim] = (),
        population: Population | None = None,
    ) -> Verdict:
        """cohorts: of the open roll-outs; victims and population tell which hosts are in them, and what else."""
        widened = _widened(row)
        streams = widened.scaled()
        odds = {cause: _log_odds(each, streams) for cause, each in self._templates.items()}
        odds["region"] += self._log_weights
        evidence = {cause: _evidence(each) for cause, each in odds.items()}
        evidence |= {"none": 0.0, "part": -np.inf, "rollout": -np.inf} | self._by_clusters(widened)
        if population is not None:
            shapes = np.array([population.share(COHORT, cohort) for cohort in cohorts]).reshape(-1, len(self._names))
            by_share = _evidence(_log_odds(Templates(shapes, AMPLITUDES), streams))
            part, by_host = part_evidence(victims, population, self._names, widened, cohorts)
            evidence |= {"part": part, "rollout": max(by_share, by_host)}
        if _raised(row).sum() < SKY_CLUSTERS_MIN:
            evidence |= dict.fromkeys(SKY, -np.inf)
        logs = {cause: evidence[cause] + prior for cause, prior in self._log_priors.items()}
        return Verdict(_posterior(logs), _label(logs), self.place(row))

    def place(self, row: Row) -> Place:
        """Where the cause of this row stands, if it is celestial."""
        per_stream = [_ratios(self._templates["celestial"], stream) for stream in _widened(row).scaled()]
        log_odds = np.sum([_log_mean_exp(ratios) for ratios in per_stream], axis=0)
        shown_best = max(per_stream, key=lambda ratios: float(ratios.max()))
        weights = np.exp(shown_best - shown_best.max())[1:].sum(axis=1)
        amplitude = float(np.exp(weights @ np.log(AMPLITUDES[1:]) / weights.sum()))
        sky = np.exp(log_odds - log_odds.max()).reshape(len(EXPONENTS), -1).sum(axis=0)
        sky = self._smoothing @ (sky / sky.sum())
        sky /= sky.sum()
        mean = sky @ self._directions  # errs less, and seldomer by far, than the heaviest pixel does
        return Place(mean / np.linalg.norm(mean), sky, _area_deg2(sky, 0.5), _area_deg2(sky, 0.9), amplitude)

    def _by_clusters(self, widened: Row) -> dict[str, float]:
        """The evidence of the causes that look at each cluster by itself."""
        counts, means = (np.nan_to_num(part / widened.overdispersion) for part in (widened.observed, widened.expected))
        ratios = counts[..., None] * np.log1p(AMPLITUDES) - means[..., None] * AMPLITUDES
        watching = (widened.expected > 0).any(axis=0)
        own = np.moveaxis(ratios[:, watching], -1, 1)  # [streams, amplitudes, clusters]
        local = np.sum([_log_mean_exp(stream) for stream in own], axis=0)
        return {"local": _evidence(local), "incoherent": _incoherent(own.sum(axis=0))}


def part_evidence(
    victims: Iterable[Victim],
    population: Population,
    names: Sequence[str],
    row: Row,
    cohorts: Collection[str] = (),
) -> tuple[float, float]:
    """The log evidence that the hosts with one value of an attribute rose by themselves; and those of open roll-outs.

    Each value is tried in the whole fleet and in each cluster alone: racks of two clusters may share their name. Of
    its clusters' expectation a value has the share that it has of their hosts. A value that a cluster's victims all
    have because the cluster's hosts all have it says nothing: that is the cluster.
    """
    counts, means = (np.nan_to_num(part / row.overdispersion).sum(axis=0) for part in (row.observed, row.expected))
    weight = dict(zip(names, counts / np.maximum(row.observed.sum(axis=0), 1), strict=True))
    mean = dict(zip(names, means, strict=True))
    struck: defaultdict[tuple[str, str], defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for victim in victims:
        if mean.get(victim.cluster, 0) > 0:
            for key in victim.attributes:
                struck[key][victim.cluster] += weight[victim.cluster]
    changing: list[float] = []
    parts: defaultdict[str, list[float]] = defaultdict(list)
    for (attribute, value), seen in struck.items():
        logs = _cells(seen, population, attribute, value, mean)
        if attribute == COHORT and value in cohorts:
            changing += logs[-1:]
        elif logs:
            parts[attribute] += logs
    attributes = sum(1 for name in population.attributes() if name != CLUSTER)
    found = [
        np.logaddexp.reduce(logs) - np.log(2 * attributes * len(population.values(attribute)))
        for attribute, logs in parts.items()
    ]
    rollout = np.logaddexp.reduce(changing) - np.log(len(cohorts)) if changing else -np.inf
    return float(np.logaddexp.reduce(found)) if found else -np.inf, float(rollout)


def _cells(
    seen: Mapping[str, float], population: Population, attribute: str, value: str, mean: Mapping[str, float]
) -> list[float]:
    """The log evidence of one value in each cluster that has it in part, and last in all clusters together.

    Where nobody told the attribute, or only some hosts did, the share is that of those who told.
    """
    told, having = population.telling(attribute), population.hosts(attribute, value)
    due = {name: number / told[name] * mean.get(name, 0.0) for name, number in having.items()}
    split = [name for name in seen if 0 < having.get(name, 0) < told[name]]
    cells = [(seen[name], due[name]) for name in split]
    if split and len(having) > 1:
        cells.append((sum(number for name, number in seen.items() if name in having), sum(due.values())))
    return [_evidence(n * np.log1p(AMPLITUDES) - m * AMPLITUDES) for n, m in cells if m > 0]


def _widened(row: Row) -> Row:
    excess = np.maximum(row.observed - row.expected, 0)
    return Row(row.observed, row.expected, row.overdispersion + TEMPLATE_ERROR * excess)


def _raised(row: Row) -> np.ndarray:
    """The clusters [clusters] that saw more than they should by more than their spread."""
    return ((row.expected > 0) & (row.observed - row.expected > np.sqrt(row.overdispersion * row.expected))).any(axis=0)


def _ratios(templates: Templates, stream: StreamRows) -> np.ndarray:
    """Log-likelihood ratios [amplitudes, templates] of the one row."""
    return np.concatenate(list(templates.ratios(stream))).astype(float)


def _log_odds(templates: Templates, streams: Sequence[StreamRows]) -> np.ndarray:
    """Log evidence [templates], each stream averaged over its own amplitude."""
    if not len(templates.shapes):
        return np.zeros(0)
    odds: np.ndarray = np.sum([_log_mean_exp(_ratios(templates, stream)) for stream in streams], axis=0)
    return odds


def _incoherent(ratios: np.ndarray) -> float:
    """Of ratios[amplitudes, clusters]: a random share of the clusters rises, alike or nearly so."""
    number = ratios.shape[1]
    shares = np.unique(np.minimum([*(k / max(number, 1) for k in (1, 2, 4)), *SHARES], 1.0))
    spread = np.array(
        [_log_mean_exp(ratios[max(i - SPREAD_STEPS, 1) : i + SPREAD_STEPS + 1]) for i in range(1, len(ratios))]
    )
    evidence = []
    for rise in (ratios[1:], spread):
        for share in shares:
            with np.errstate(divide="ignore"):
                evidence.append(np.logaddexp(np.log1p(-share), np.log(share) + rise).sum(axis=1))
    return _evidence(np.concatenate(evidence))


def _regions(clusters: Sequence[Cluster]) -> tuple[np.ndarray, np.ndarray]:
    """Shapes [regions, clusters] of 0 and 1, caps and bands around the clusters; and how much each weighs [regions].

    A region that holds one cluster only counts as well: that most do is why one that holds half a fleet is unlikely.
    """
    up = zeniths(clusters)
    centres = up[:: max(-(-len(up) // REGION_CENTRES_MAX), 1)]
    longitude = np.array([cluster.longitude_deg for cluster in clusters])
    around = np.degrees(np.arctan2(centres[:, 1], centres[:, 0]))[:, None] - longitude
    off = np.abs((around + 180) % 360 - 180)
    caps = np.concatenate([centres @ up.T >= np.cos(np.radians(cap)) for cap in CAPS_DEG])
    bands = np.concatenate([off <= band for band in BANDS_DEG])
    weights = np.repeat([(1 - BANDS_SHARE) / len(caps), BANDS_SHARE / len(bands)], [len(caps), len(bands)])
    shapes, which = np.unique(np.concatenate([caps, bands]), axis=0, return_inverse=True)
    return shapes, np.bincount(which.ravel(), weights)


def _low_cutoff(clusters: Sequence[Cluster]) -> np.ndarray:
    """Shapes [templates, clusters]: half of them without a direction, so that both kinds weigh alike."""
    shielded = [np.exp(-rigidities_gv(clusters) / scale_gv) for scale_gv in RIGIDITIES_GV]
    cosines = responses(clusters, directions(LOW_CUTOFF_DIRECTIONS), 1)
    return np.concatenate([np.concatenate([np.tile(shape, (len(cosines), 1)), shape * cosines]) for shape in shielded])


def _area_deg2(sky: np.ndarray, probability: float) -> float:
    """Of the fewest pixels that hold so much of the map."""
    heaviest = np.sort(sky)[::-1].cumsum()
    return float((np.searchsorted(heaviest, probability) + 1) * SPHERE_DEG2 / DIRECTIONS)


def _evidence(logs: np.ndarray) -> float:
    """The log of a family's mean; an empty family explains nothing."""
    return float(_log_mean_exp(logs)) if len(logs) else -np.inf


def _log_mean_exp(values: np.ndarray) -> np.ndarray:
    """Over the first axis."""
    top = values.max(axis=0)
    mean: np.ndarray = top + np.log(np.exp(values - top).mean(axis=0))
    return mean


def _posterior(logs: Mapping[str, float]) -> dict[str, float]:
    top = max(logs.values())
    weights = {cause: float(np.exp(value - top)) for cause, value in logs.items()}
    total = sum(weights.values())
    return {cause: weight / total for cause, weight in weights.items()}


def _label(logs: Mapping[str, float]) -> str:
    """The likeliest cause; the sky only if it stands clearly above the rest."""
    others = {cause: value for cause, value in logs.items() if cause not in SKY}
    sky = max(SKY, key=lambda cause: logs[cause])
    total = np.logaddexp.reduce([logs[cause] for cause in SKY]) if np.isfinite(logs[sky]) else -np.inf
    if total - np.logaddexp.reduce(list(others.values())) > SKY_ODDS_NATS:
        return sky
    return max(others, key=lambda cause: others[cause])
