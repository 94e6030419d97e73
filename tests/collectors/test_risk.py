"""Expected memory errors, against closed forms worked out by hand, and the command as a person meets it."""

import json
import math

import pytest
from click.testing import CliRunner, Result

from collectors.commands_risk import risk
from collectors.risk import (
    NEW_YORK_GV,
    SOURCES,
    Place,
    estimates,
    meetings,
    pressure_hpa,
    relative_flux,
)

GIB = 1024**3


def run(*arguments: object) -> Result:
    return CliRunner().invoke(risk, [str(argument) for argument in arguments])


def document(*arguments: object) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def line(lines, name: str, ecc: bool):
    (found,) = [one for one in lines if one.name.startswith(name) and one.ecc is ecc]
    return found


def test_upsets_of_one_gibibyte_at_sea_level():
    # 8 Gbit at 12.51 FIT each, that is 100.08e-9 an hour
    upsets = line(estimates(GIB, 1000, Place()), "upsets", False)
    assert upsets.host_per_day.typical == pytest.approx(100.08e-9 * 24)
    assert upsets.host_per_day.high == pytest.approx(100.08e-9 * 24 * 2.9)
    assert upsets.host_per_day.low == pytest.approx(8 * 2**30 * 1e-18 * 24)
    assert upsets.fleet_per_day.typical == pytest.approx(100.08e-9 * 24 * 1000)
    assert upsets.host_per_year.typical == pytest.approx(1 - math.exp(-100.08e-9 * 24 * 365.25))


def test_shares_of_hosts_come_out_as_they_went_in():
    lines = estimates(64 * GIB, 10, Place(4000))
    share = line(lines, "hosts with an uncorrected", True).host_per_year
    assert (share.low, share.typical, share.high) == pytest.approx((0.0005, 0.013, 0.04))
    assert line(lines, "hosts with corrected", True).host_per_day.high == pytest.approx(math.log(2) / 365.25)


def test_corrected_errors_scale_with_memory_and_not_with_altitude():
    # 25,000 FIT per Mbit and 8,192 Mbit are .2048 an hour
    low, high = estimates(GIB, 1, Place()), estimates(2 * GIB, 1, Place(3000))
    assert line(low, "corrected errors", True).host_per_day.low == pytest.approx(0.2048 * 24)
    assert line(high, "corrected errors", True).host_per_day.low == pytest.approx(2 * 0.2048 * 24)
    assert line(low, "corrected errors", True).host_per_year is None  # few hosts make them all


def test_meetings_grow_with_the_square():
    # one upset a day in a thousand words of 72 bits: each sees 1.125e-3, two of them 6.33e-7
    assert meetings(1.0, 1000) == pytest.approx(1000 * (72 / 64 * 1e-3) ** 2 / 2)
    assert meetings(3.0, 1000) == pytest.approx(9 * meetings(1.0, 1000))


@pytest.mark.parametrize(("altitude_m", "hpa"), [(0, 1013.25), (1000, 898.75), (3000, 701.09), (-400, 1062.22)])
def test_standard_atmosphere(altitude_m, hpa):
    # the tables of ISO 2533; the formula's rounded constants are good for .1 hPa
    assert pressure_hpa(altitude_m) == pytest.approx(hpa, abs=0.2)


def test_flux_is_one_in_new_york_and_falls_to_the_equator():
    assert relative_flux(1013.25, NEW_YORK_GV) == pytest.approx(1)
    # Stone's own factors: .587 at the geomagnetic equator and 1 beyond 60 degrees
    assert relative_flux(1013.25, 14.9) / relative_flux(1013.25, 0.0) == pytest.approx(0.587, abs=0.005)
    assert relative_flux(1013.25, 0.9) == pytest.approx(relative_flux(1013.25, 0.0))  # the plateau
    # the published fit at 50 degrees lies 1 % above the one at 60
    fluxes = [relative_flux(1013.25, gv / 10) for gv in range(30, 150)]
    assert fluxes == sorted(fluxes, reverse=True) and fluxes[0] == pytest.approx(1, rel=0.02)


def test_flux_grows_with_altitude():
    assert Place(1500).flux() == pytest.approx(3.5, rel=0.1)  # the round figure of textbooks
    assert Place(2000).flux() > Place(1000).flux() > Place().flux() > Place(-400).flux()


def test_a_given_rigidity_goes_before_an_estimated_one():
    assert Place(0, 0, 0, rigidity_gv=NEW_YORK_GV).flux() == pytest.approx(1)
    assert Place(0, 0, 110).flux() == pytest.approx(0.587, abs=0.02)  # near the geomagnetic equator
    assert Place(0, 80.65, -72.68).flux() == pytest.approx(Place(0, rigidity_gv=0).flux())  # at the pole


def test_without_a_longitude_it_is_the_mean():
    fluxes = [Place(0, 50, longitude).flux() for longitude in range(-180, 180, 10)]
    assert Place(0, 50).flux() == pytest.approx(sum(fluxes) / 36)
    assert min(fluxes) < Place(0, 50).flux() < max(fluxes)


def test_every_estimate_names_a_source_that_is_listed():
    for one in estimates(GIB, 1, Place()):
        assert one.sources and set(one.sources) <= set(SOURCES)
        spread = one.host_per_day
        assert 0 < spread.low < spread.typical < spread.high


def test_the_text_says_both_and_what_is_unknown():
    text = run("--memory", "64GiB", "--hosts", 10000).output
    for words in (
        "64 GiB in each of 10000 hosts",
        "Without ECC",
        "With ECC",
        "What isn't known",
        "MareNostrum",
        "2009",
    ):
        assert words in text
    assert "With ECC" not in run("--memory", "64GiB", "--no-ecc").output
    assert "Without ECC" not in run("--memory", "64GiB", "--ecc").output


def test_the_document():
    given = document("--memory", "1.5 TiB", "--hosts", 7, "--altitude-m", 2231, "--latitude", 19, "--longitude", -99)
    assert given["memory_bytes"] == 1.5 * 1024**4 and given["hosts"] == 7
    assert given["relative_flux"] == pytest.approx(Place(2231, 19, -99).flux())
    assert [one.document() for one in estimates(3 * 2**39, 7, Place(2231, 19, -99))] == given["estimates"]
    assert document("--memory", "64GB", "--rigidity-gv", 2.08)["relative_flux"] == pytest.approx(1)
    assert document("--memory", "64GB")["memory_bytes"] == 64_000_000_000
    assert all(not one["ecc"] for one in document("--memory", "64GB", "--no-ecc")["estimates"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--memory", "lots"], "'lots' is not a size like 64GiB"),
        (["--memory", "64"], "not a size"),
        (["--memory", "64 gib"], "not a size"),
        (["--memory", "0GiB"], "outside 1 KiB to 1 PiB"),
        (["--memory", "9999999PB"], "outside 1 KiB to 1 PiB"),
        (["--memory", "٣GiB"], "not a size"),
        (["--memory", "1GiB", "--hosts", "0"], "--hosts"),
        (["--memory", "1GiB", "--latitude", "nan"], "'nan' is not a number"),
        (["--memory", "1GiB", "--altitude-m", "99999"], "--altitude-m"),
        (["--memory", "1GiB", "--longitude", "5"], "--longitude needs --latitude"),
        ([], "--memory"),
    ],
)
def test_bad_input_is_a_sentence(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2 and words in result.output and "Traceback" not in result.output
