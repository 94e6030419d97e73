"""Causes: what explains a crossing best, and where in the sky would it stand?

Enters: one row's observed and expected counts per cluster. Leaves: the posterior over causes and, if the cause were
celestial, a direction with its 90 % area. Pure, numpy only.

Each cause is a family of templates; its marginal likelihood is the mean of exp(log-likelihood ratio) over the family:
local: one cluster rises; fleet: all rise by the same factor; celestial: a direction and a response (see scan); none:
the baseline. The amplitude is log-uniform in all of them. Templates are never exactly right, so the variance of a large
excess is widened by TEMPLATE_ERROR times the excess.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from collectors.inventory import Cluster
from collectors.scan import EXPONENTS, responses
from collectors.sky import SPHERE_DEG2, directions

PRIORS = {"none": 1.0, "local": 10.0, "fleet": 1.0, "celestial": 1.0}
AMPLITUDES = 2.0 ** np.arange(-2, 17.5, 0.5)  # up to where two hosts, which expect a fault a month, see dozens at once
TEMPLATE_ERROR = 0.1
DIRECTIONS = 768
SMOOTHING_DEG = 8.0  # the true response is none of ours, so the map is never sharper than this
CELESTIAL_CLUSTERS_MIN = 4  # fewer can't show a direction


@dataclass(frozen=True, slots=True)
class Place:
    """The mean direction of a celestial cause in the frame that turns with the Earth."""

    direction: np.ndarray
    sky: np.ndarray  # [768] probability of each of directions(768)
    area50_deg2: float
    area90_deg2: float
    amplitude: float  # the mean of its posterior's logarithm


@dataclass(frozen=True, slots=True)
class Verdict:
    """The posterior over causes, its largest, and the direction a celestial one would have."""

    posterior: dict[str, float]
    label: str
    place: Place


class Causes:
    """The families of templates for one set of clusters."""

    def __init__(self, clusters: Sequence[Cluster]) -> None:
        self._directions = directions(DIRECTIONS)
        self._responses = np.concatenate([responses(clusters, self._directions, n) for n in EXPONENTS])
        cosines = np.clip(self._directions @ self._directions.T, -1, 1)
        kernel = np.exp((cosines - 1) / np.radians(SMOOTHING_DEG) ** 2)
        self._smoothing = kernel / kernel.sum(axis=0)

    def judge(self, observed: np.ndarray, expected: np.ndarray, overdispersion: np.ndarray) -> Verdict:
        """All [clusters]; a cluster with nothing expected wasn't watching and has no say."""
        watching = expected > 0
        excess = np.maximum(observed - expected, 0)
        width = overdispersion + TEMPLATE_ERROR * excess
        counts = np.where(watching, observed / width, 0)
        means = np.where(watching, expected / width, 0)
        per_cluster = counts[:, None] * np.log1p(AMPLITUDES) - means[:, None] * AMPLITUDES
        per_direction = self._per_direction(counts, means)
        evidence = {
            "none": 0.0,
            "local": _log_mean_exp(per_cluster[watching]),
            "fleet": _log_mean_exp(per_cluster.sum(axis=0)),
            "celestial": _log_mean_exp(per_direction),
        }
        raised = watching & (excess > np.sqrt(overdispersion * expected))
        if raised.sum() < CELESTIAL_CLUSTERS_MIN:
            evidence["celestial"] = -np.inf
        posterior = _posterior(evidence)
        return Verdict(posterior, max(posterior, key=lambda cause: posterior[cause]), self._place(per_direction))

    def _per_direction(self, counts: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Log-likelihood ratios [amplitudes, exponents * directions]."""
        counted = counts > 0
        seen = self._responses[:, counted]
        losses = self._responses @ means
        return np.stack([np.log1p(a * seen) @ counts[counted] - a * losses for a in AMPLITUDES])

    def _place(self, per_direction: np.ndarray) -> Place:
        weights = np.exp(per_direction - per_direction.max())
        amplitude = float(np.exp(weights.sum(axis=1) @ np.log(AMPLITUDES) / weights.sum()))
        sky = weights.sum(axis=0).reshape(len(EXPONENTS), -1).sum(axis=0)
        sky = self._smoothing @ (sky / sky.sum())
        sky /= sky.sum()
        mean = sky @ self._directions  # errs less, and seldomer by far, than the heaviest pixel does
        return Place(mean / np.linalg.norm(mean), sky, _area_deg2(sky, 0.5), _area_deg2(sky, 0.9), amplitude)


def _area_deg2(sky: np.ndarray, probability: float) -> float:
    """Of the fewest pixels that hold so much of the map."""
    heaviest = np.sort(sky)[::-1].cumsum()
    return float((np.searchsorted(heaviest, probability) + 1) * SPHERE_DEG2 / DIRECTIONS)


def _log_mean_exp(values: np.ndarray) -> float:
    if not values.size:
        return -np.inf
    top = values.max()
    return float(top + np.log(np.exp(values - top).mean()))


def _posterior(evidence: dict[str, float]) -> dict[str, float]:
    logs = {cause: evidence[cause] + float(np.log(prior)) for cause, prior in PRIORS.items()}
    top = max(logs.values())
    weights = {cause: float(np.exp(value - top)) for cause, value in logs.items()}
    total = sum(weights.values())
    return {cause: weight / total for cause, weight in weights.items()}
