"""Risk: how many memory errors should a machine or a fleet expect, and how well does anybody know?

Enters: memory per host, number of hosts, a place on Earth. Leaves: expected events per day with their spread, each with
the published figures that it rests on, and what no figure says. Pure.

Three things are kept apart, because they differ by six orders of magnitude: upsets by particles (soft: the cell is fine
afterwards), corrected errors as fleets count them (nearly all of them repeats of a few hard faults), and errors that
ECC couldn't correct. Only the first depends on where the machine stands.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from collectors.inventory import Cluster
from collectors.sky import DIPOLE_EQUATOR_GV, rigidities_gv

DAY_H = 24.0
YEAR_DAYS = 365.25
FIT_PER_H = 1e-9  # one FIT is a failure in 1e9 hours
MBIT = 2**20
WORD_BYTES, WORD_BITS = 8, 72  # what a single-error-correcting code protects together, and with its own 8 bits
SCRUB_DAYS = 1.0  # patrol scrubbing that reads all memory once a day

SEA_LEVEL_HPA = 1013.25
NEW_YORK_GV = 2.08  # where the flux is 1 by convention
# Stone (2000), table 1: relative flux of nucleons at pressure p is a + b exp(-p / 150) + c p + d p^2 + e p^3
STONE = (
    (0, 31.8518, 250.3193, -0.083393, 7.4260e-5, -2.2397e-8),
    (10, 34.3699, 258.4759, -0.089807, 7.9457e-5, -2.3697e-8),
    (20, 40.3153, 308.9894, -0.106248, 9.4508e-5, -2.8234e-8),
    (30, 42.0983, 512.6857, -0.120551, 1.1752e-4, -3.8809e-8),
    (40, 56.7733, 649.1343, -0.160859, 1.5463e-4, -5.0330e-8),
    (50, 69.0720, 832.4566, -0.199252, 1.9391e-4, -6.3653e-8),
    (60, 71.8733, 863.1927, -0.207069, 2.0127e-4, -6.6043e-8),
)


@dataclass(frozen=True, slots=True)
class Source:
    """One publication: what of it is used, and how it was read."""

    title: str
    says: str
    read: str


SOURCES = {
    "google": Source(
        "Schroeder, Pinheiro, Weber: DRAM Errors in the Wild (SIGMETRICS 2009)",
        "25,000 to 70,000 errors per 1e9 device hours and Mbit, mostly hard; a third of the machines has a corrected "
        "error each year (12 % to 50 % by platform), 1.3 % one that isn't corrected (up to 4 %; .05 % to .39 % of "
        "the modules); an affected machine's median is 25 to 611 errors a year while the mean is 22,000",
        "abstract; shares and medians as quoted by others",
    ),
    "meta": Source(
        "Meza, Wu, Kumar, Mutlu: Revisiting Memory Errors in Large-Scale Production Data Centers (DSN 2015)",
        "errors per machine follow a power law, the mean is 55 times the median",
        "abstract or paper",
    ),
    "sc13": Source(
        "Sridharan, Stearley, DeBardeleben, Blanchard, Gurumurthi: Feng Shui of Supercomputer Memory (SC13)",
        "altitude shows in SRAM, DRAM showed no effect of position; vendors differ by 4",
        "abstract or paper",
    ),
    "beigi": Source(
        "Beigi et al.: A Systematic Study of DDR4 DRAM Faults in the Field (HPCA 2023)",
        "more than 45 % of DDR4's faults touch many bits (a corrigendum of 2024 raises the share of single bits); "
        "vendors differ by 1.34",
        "abstract and corrigendum",
    ),
    "rochester": Source(
        "Li, Shen, Huang, Chu: A Memory Soft Error Measurement on Production Systems (USENIX 2007)",
        "two suspected soft errors on 300 machines in months, two orders below older reports; 9 of 212 had hard faults",
        "abstract",
    ),
    "slayman": Source(
        "Slayman: Soft Error Trends and Mitigation Techniques in Memory Devices (RAMS 2011)",
        "the rate of a DRAM cell falls below 1e-9 to 1e-8 FIT per bit",
        "as quoted by others",
    ),
    "sullivan": Source(
        "Sullivan et al.: Characterizing and Mitigating Soft Errors in GPU DRAM (MICRO 2021)",
        "assumes 12.51 FIT per Gbit, after GDDR5 in the Titan supercomputer; of the upsets of HBM2 in a neutron beam "
        "31.5 % touch many bits",
        "as quoted by others",
    ),
    "park": Source(
        "Park et al.: Soft error study on DDR4 SDRAMs using a 480 MeV proton beam (IRPS 2017)",
        "single-bit upsets of DDR4 about 45 % above the same maker's DDR3",
        "as quoted by others",
    ),
    "oliveira": Source(
        "Oliveira et al.: Thermal Neutrons: a Possible Threat for Supercomputers (ETS 2020)",
        "thermal neutrons may upset as much as fast ones in parts with boron-10",
        "as quoted by others",
    ),
    "stone": Source(
        "Stone: Air pressure and cosmogenic isotope production (JGR 105, 2000)",
        "flux of nucleons by air pressure and geomagnetic latitude, scaled by this table",
        "table as used by others",
    ),
    "marenostrum": Source(
        "Boixaderas et al.: DRAM Errors and Cosmic Rays: Space Invaders or Science Fiction? (arXiv 2407.16487)",
        "2000e9 MB-hours at 100 m show no influence of cosmic rays on DRAM errors",
        "abstract",
    ),
}

UNKNOWN = (
    "Which share of the errors in the field is made by neutrons: MareNostrum found none, and DRAM showed no effect of "
    "altitude. The upsets by particles are then an estimate from beams and other memories, not a count.",
    "The upset rate of today's DDR4 and DDR5: no absolute figure was found published, by makers or by others.",
    "Whether the field's figures of 2009 still hold: that was DDR1 and DDR2. Errors per Mbit are a mean that few "
    "machines make, and nothing says that they grow with the memory.",
    "How much of an upset ECC lets through: codes differ (single-error correction, chipkill, on-die ECC), and so "
    "does the share of upsets that touch many bits.",
    "Whether memory is patrol-scrubbed: if it isn't, an upset shows when it is next read, if ever.",
    "Caches and registers: SRAM is upset more often per bit, and isn't counted here.",
    "The Sun: the flux varies over its cycle, in storms, and with the weather. A building's concrete lowers it. "
    "Unless --rigidity-gv is given, the cutoff rigidity is that of a centred dipole, which is off by some 2 GV.",
)


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure as uncertain as it is."""

    low: float
    typical: float
    high: float

    def map(self, function: Callable[[float], float]) -> "Spread":
        """The spread of a growing function of it."""
        return Spread(function(self.low), function(self.typical), function(self.high))


# FIT per Mbit of DRAM at sea level in New York; high: DDR4 above DDR3, and as many upsets by thermal neutrons again
UPSET_FIT_PER_MBIT = Spread(1e-9 * MBIT, 12.51 / 1024, 12.51 / 1024 * 1.45 * 2)
CORRECTED_FIT_PER_MBIT = Spread(25_000, math.sqrt(25_000 * 70_000), 70_000)
FAULTY_HOSTS_PER_YEAR = Spread(0.12, 1 / 3, 0.50)
UNCORRECTED_HOSTS_PER_YEAR = Spread(0.0005, 0.013, 0.04)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the machines stand.

    The cutoff rigidity follows from latitude and longitude unless it is given; without a longitude the flux is the
    mean over all, and with none of the three New York's.
    """

    altitude_m: float = 0.0
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    rigidity_gv: float | None = None

    def flux(self) -> float:
        """Nucleons that come down, over New York's at sea level."""
        hpa = pressure_hpa(self.altitude_m)
        fluxes = [relative_flux(hpa, rigidity_gv) for rigidity_gv in self._rigidities_gv()]
        return sum(fluxes) / len(fluxes)

    def _rigidities_gv(self) -> list[float]:
        if self.rigidity_gv is not None:
            return [self.rigidity_gv]
        if self.latitude_deg is None:
            return [NEW_YORK_GV]
        longitudes = range(-180, 180, 10) if self.longitude_deg is None else [self.longitude_deg]
        return rigidities_gv([Cluster("", self.latitude_deg, longitude) for longitude in longitudes]).tolist()


@dataclass(frozen=True, slots=True)
class Estimate:
    """One kind of event: how often a host has it, with or without ECC, and on whose word."""

    name: str
    ecc: bool
    host_per_day: Spread
    hosts: int
    sources: tuple[str, ...]
    is_independent: bool = True  # else events come in crowds, and a rate says nothing of how many hosts have one

    @property
    def fleet_per_day(self) -> Spread:
        return self.host_per_day.map(lambda rate: rate * self.hosts)

    @property
    def host_per_year(self) -> Spread | None:
        """The probability that a host has at least one in a year; None where the rate doesn't tell."""
        if not self.is_independent:
            return None
        return self.host_per_day.map(lambda rate: -math.expm1(-rate * YEAR_DAYS))

    def document(self) -> dict[str, Any]:
        """The JSON object of one line."""
        return {
            "name": self.name,
            "ecc": self.ecc,
            "host_per_day": asdict(self.host_per_day),
            "fleet_per_day": asdict(self.fleet_per_day),
            "host_per_year": None if self.host_per_year is None else asdict(self.host_per_year),
            "sources": list(self.sources),
        }


def estimates(memory_bytes: int, hosts: int, place: Place) -> tuple[Estimate, ...]:
    """What `hosts` machines of `memory_bytes` each should expect there; those without ECC first."""
    mbit = memory_bytes * 8 / MBIT
    upsets = UPSET_FIT_PER_MBIT.map(lambda fit: _per_day(fit * mbit * place.flux()))
    met = upsets.map(lambda rate: meetings(rate, memory_bytes / WORD_BYTES))
    corrected = CORRECTED_FIT_PER_MBIT.map(lambda fit: _per_day(fit * mbit))
    faulty = FAULTY_HOSTS_PER_YEAR.map(_rate_of_share)
    uncorrected = UNCORRECTED_HOSTS_PER_YEAR.map(_rate_of_share)
    cells, field = ("slayman", "sullivan", "park", "oliveira", "stone"), ("google",)
    return (
        Estimate("upsets by particles, all silent", False, upsets, hosts, cells),
        Estimate("hosts whose memory is or turns faulty, silently", False, faulty, hosts, field),
        Estimate("upsets by particles, nearly all corrected", True, upsets, hosts, cells),
        Estimate("two upsets that meet in a word between scrubs", True, met, hosts, cells),
        Estimate("corrected errors, a mean that few hosts make", True, corrected, hosts, ("google", "meta"), False),
        Estimate("hosts with corrected errors", True, faulty, hosts, field),
        Estimate("hosts with an uncorrected error", True, uncorrected, hosts, field),
    )


def meetings(upsets_per_day: float, words: float) -> float:
    """How often a day an upset falls into a word that holds another, not yet scrubbed away.

    Poisson: a word sees m = upsets per word and scrub, and two of them with probability m^2 / 2, since m is tiny.
    """
    m = upsets_per_day * SCRUB_DAYS / words * WORD_BITS / (8 * WORD_BYTES)
    return words * m * m / 2 / SCRUB_DAYS


def pressure_hpa(altitude_m: float) -> float:
    """Of the standard atmosphere, whose temperature falls by 6.5 K a kilometre (ISO 2533)."""
    return SEA_LEVEL_HPA * (1 - 0.0065 * altitude_m / 288.15) ** (0.03417 / 0.0065)


def relative_flux(hpa: float, rigidity_gv: float) -> float:
    """Flux of nucleons at this air pressure and cutoff, over New York's at sea level (Stone 2000, equation 2)."""
    return _stone(hpa, rigidity_gv) / _stone(SEA_LEVEL_HPA, NEW_YORK_GV)


def _stone(hpa: float, rigidity_gv: float) -> float:
    """Interpolated at the geomagnetic latitude of the dipole that has this cutoff; flat beyond 60 degrees."""
    latitude_deg = math.degrees(math.acos(min(rigidity_gv / DIPOLE_EQUATOR_GV, 1.0) ** 0.25))
    row = min(int(latitude_deg // 10), len(STONE) - 2)
    share = min(latitude_deg / 10 - row, 1.0)
    south, north = (
        a + b * math.exp(-hpa / 150) + c * hpa + d * hpa**2 + e * hpa**3 for _, a, b, c, d, e in STONE[row : row + 2]
    )
    return south + share * (north - south)


def _per_day(fit: float) -> float:
    return fit * FIT_PER_H * DAY_H


def _rate_of_share(share_per_year: float) -> float:
    """Events per day of which at least one a year falls to this share of the hosts."""
    return -math.log1p(-share_per_year) / YEAR_DAYS
