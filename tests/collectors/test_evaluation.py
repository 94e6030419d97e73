"""The evaluation at tiny sizes: the same figures each time, figures that mean what they say, and all promised keys."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from collectors import commands_evaluate
from collectors.commands_evaluate import evaluate
from collectors.correlator import Correlator
from collectors.evaluation import document, summary
from collectors.evaluation.fleets import RINGS, fleet, racks, settle
from collectors.evaluation.learned import Learned, feed, in_a_copy
from collectors.evaluation.null import QuietRun, quiet_run
from collectors.evaluation.plan import FULL, HOSTS, QUICK, TrialsJob, Tried, jobs
from collectors.evaluation.shared_factors import factor_counts
from collectors.evaluation.steps import step_ms
from collectors.evaluation.trials import BURST, Outcome, Trial, in_region, run, spread_direction
from collectors.incidents import KINDS
from collectors.minutes import DAY_MIN, MINUTE_NS
from collectors.population import Population
from collectors.sky import directions
from collectors.world import RESTLESS, World
from tests.collectors.fleets import twelve

SMALL = 50_000
TINY = replace(QUICK, null_runs=1, null_days=1, factor_trials=2)


@pytest.fixture(scope="module")
def learned():
    return Learned(fleet(SMALL), seed=1, days=15, with_peers=True)


def burst(amplitude=1000.0, **other):
    return Trial(kind=BURST, hosts=SMALL, seed=3, amplitude=amplitude, **other)


def outcome(found=True, excess=10, kind=BURST, **other):
    trial = Trial(kind=kind, hosts=HOSTS, seed=other.pop("seed", 0), **other.pop("trial", {}))
    return Outcome(trial=trial, found=found, excess=excess, **other)


# --- fleets


def test_a_fleet_has_its_size_and_its_cohorts():
    site = fleet(HOSTS)
    assert len(site.clusters) == 40 and site.hosts.sum() == pytest.approx(HOSTS, rel=1e-3)
    shares = sum(site.share(cohort) for cohort in site.cohorts)
    np.testing.assert_allclose(shares, 1)
    assert len(site.cohorts) == 3 + RINGS


def test_racks_hold_every_host_and_agree_with_the_cohorts():
    site = fleet(SMALL)
    all_racks = racks(site.clusters)
    population = Population([cluster.name for cluster in site.clusters])
    settle(population, all_racks)
    assert [sum(rack.hosts for rack in column) for column in all_racks] == site.hosts.tolist()
    for cohort in site.cohorts:
        np.testing.assert_allclose(population.share("cohort", cohort), site.share(cohort))


# --- learning, copies, trials


def test_a_copy_forgets_what_was_done_to_it(learned):
    before = learned.world.minute

    def spoil():
        learned.world.advance(60)
        return learned.world.minute, os.getpid()

    minute, process = in_a_copy(spoil)
    assert (minute, learned.world.minute) == (before + 60, before) and process != os.getpid()


def test_a_copy_that_fails_is_trouble(learned, capfd):
    with pytest.raises(RuntimeError, match="a trial failed"):
        in_a_copy(lambda: 1 / 0)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_strong_burst_is_found_where_it_is_and_none_is_found_where_none_is(learned):
    strong = run(burst(), learned)
    assert strong.found and strong.excess > 100 and strong.error_deg < 30 and max(strong.peers) > 20
    assert strong == run(burst(), learned), "the same seed, the same outcome"
    nothing = run(burst(amplitude=0.0), learned)
    assert not nothing.found and nothing.excess == 0 and nothing.error_deg is None
    assert all(quiet < loud for quiet, loud in zip(nothing.peers, strong.peers, strict=True))


def test_what_is_not_prompt_is_not_seen(learned):
    whole, half = run(burst(), learned), run(burst(prompt=0.5), learned)
    assert half.excess == pytest.approx(whole.excess / 2, rel=0.2)
    assert run(burst(prompt=0.0), learned).excess == 0


def test_a_burst_seen_minute_by_minute_has_a_delay_and_ends_alike(learned):
    live, once = run(burst(each_minute=True), learned), run(burst(), learned)
    assert 1 <= live.delay_min <= 10 and live.found
    assert (live.last_label, live.error_deg) == (once.last_label, once.error_deg)


def test_silence_skew_and_backlog(learned):
    assert run(burst(silent=1.0), learned).excess == 0
    assert run(burst(silent=0.5), learned).excess < run(burst(), learned).excess
    assert run(burst(skew_min=3), learned).found
    late = run(burst(backlog_min=30), learned)
    assert late.found and late.same


def test_every_incident_can_be_tried(learned):
    for kind in KINDS:
        tried = run(Trial(kind=kind, hosts=SMALL, seed=1, each_minute=True), learned)
        assert tried.raised == bool(tried.first_label) and tried.error_deg is None
        if kind.startswith("rack"):
            assert tried.found and tried.last_label in KINDS[kind].causes
        if kind == "device":
            assert not tried.raised


def test_directions_are_spread_evenly():
    first = np.stack([spread_direction(number) for number in range(60)])
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1)
    assert np.abs(first.mean(axis=0)).max() < 0.06 and np.abs((first**2).mean(axis=0) - 1 / 3).max() < 0.06


def test_a_region_holds_the_fewest_pixels():
    sky = np.zeros(768)
    sky[:4] = (0.5, 0.35, 0.1, 0.05)
    inside = [in_region(sky, direction, 0.9) for direction in directions(768)[:5]]
    assert inside == [True, True, True, False, False]


def test_stepping_a_quarter_of_a_day_ends_in_the_same_bursts_as_minute_by_minute():
    def bursts(step_min):
        site = twelve(hosts=4000)
        world = World(site, 1.5e-4, RESTLESS, 20_089 * DAY_MIN, seed=8)
        correlator = Correlator(site, false_alarms_per_year=2000.0)
        feed(correlator.minutes, *counted(world, 15 * DAY_MIN))
        correlator.step(world.minute * MINUTE_NS - 1)
        last = {}
        for _ in range(DAY_MIN // step_min):
            feed(correlator.minutes, *counted(world, step_min))
            last |= {r.burst_id: r for r in correlator.step(world.minute * MINUTE_NS - 1)}
        return {(r.t_start_ns, r.t_end_ns, r.label, r.statistic_nats) for r in last.values() if r.kind != "retract"}

    def counted(world, minutes):
        begin, parts = world.minute, [world.advance(min(10, minutes)) for _ in range(-(-minutes // 10))]
        counts = np.concatenate([np.random.default_rng(part.first_minute).poisson(part.expected) for part in parts])
        watching, expected = (np.concatenate([getattr(p, name) for p in parts]) for name in ("watching", "expected"))
        return replace(parts[0], first_minute=begin, watching=watching, expected=expected), counts

    every = bursts(10)
    assert every and bursts(360) == every


# --- the parts


def test_quiet_days_of_learning_are_not_live():
    run = quiet_run(SMALL, seed=1, days=1)
    assert run == QuietRun(SMALL, (), 0, 0) and run.expected(12.0) == 0


def test_due_alarms_are_a_third_while_history_is_short():
    run = QuietRun(SMALL, ((0.5, "local"), (11.0, "none"), (13.0, "none")), young_days=36.525, old_days=365.25)
    assert run.expected(1.0) == pytest.approx(1 + 0.1 / 3) and (run.found(1.0), run.found(12.0)) == (1, 2)


def test_planted_factors_are_named_and_nothing_else():
    counts = {one.attribute: one for one in factor_counts(SMALL, seed=1, trials=4)}
    assert counts["rack"].first == 4 and counts["part"].first >= 3
    assert counts["none"].named <= 1


def test_a_step_takes_time_on_the_given_clock():
    ticks = iter(range(1000))
    assert step_ms(12, lambda: next(ticks)) == 1000.0


def test_trials_are_the_same_whichever_parts_want_them():
    def trials(*parts):
        return {trial for job in jobs(FULL, parts) if isinstance(job, TrialsJob) for trial in job.trials}

    assert trials("power", "peers", "confounders") == trials("power") | trials("peers") | trials("confounders")
    assert trials("peers") < trials("power")
    assert {trial.hosts for trial in trials("power")} == {50_000, 400_000, 4_000_000}
    sizes = [len(job.trials) for job in jobs(FULL, ["confounders"])]
    assert max(sizes) - min(sizes) <= 1


# --- summaries


def test_poisson_bounds_are_the_published_ones():
    # Garwood's table at 95 %
    assert summary.poisson_bounds(0) == (0, pytest.approx(3.689, abs=1e-3))
    assert summary.poisson_bounds(10) == (pytest.approx(4.795, abs=1e-3), pytest.approx(18.391, abs=1e-3))


def test_the_bound_of_a_weighted_sum_is_that_of_a_plain_one_if_all_weigh_the_same():
    assert summary.weighted_upper_bound([4, 6], [0.5, 0.5]) == pytest.approx(18.391 / 2, rel=0.01)
    assert summary.weighted_upper_bound([0, 0], [0.5, 0.1]) == pytest.approx(3.689 / 2, rel=0.01)


def test_the_excess_for_power_is_read_off_a_logistic_curve():
    random = np.random.default_rng(1)
    excess = random.integers(0, 60, 4000)
    chance = 1 / (1 + np.exp(-(np.log(excess + 0.5) - np.log(10)) * 3))
    fifty, ninety = summary.excess_for_power(excess, random.random(4000) < chance)
    assert fifty == pytest.approx(10, rel=0.05) and ninety == pytest.approx(10 * 9 ** (1 / 3), rel=0.05)
    assert summary.excess_for_power([1, 2], [True, True]) == (None, None)


def test_wrong_sky_labels_follow_from_shares_and_the_mix():
    kinds = [kind for _, kinds in summary.MIX.values() for kind in kinds]
    outcomes = [
        outcome(kind=kind, first_label="fleet", trial={"each_minute": True}) for kind in kinds for _ in range(9)
    ]
    outcomes += [outcome(kind=kind, first_label="celestial", trial={"each_minute": True}) for kind in kinds]
    wrong = summary.wrong_sky_labels(outcomes)
    assert wrong["wrong_sky_labels_per_year"] == pytest.approx(16.6)  # a tenth of 166 incidents
    assert 20 < wrong["wrong_sky_labels_upper_bound"] < 40
    with pytest.raises(KeyError, match="needs trials of staged"):
        summary.wrong_sky_labels([one for one in outcomes if one.trial.kind != "staged"])


def test_causes_are_right_among_those_raised_and_silence_is_right_where_nothing_should_be():
    rows = summary.confounder_rows(
        [
            outcome(kind="region", raised=True, first_label="celestial", last_label="region"),
            outcome(kind="region", raised=True, first_label="local", last_label="local"),
            outcome(kind="region", found=False),
            outcome(kind="device", found=False),
        ]
    )
    assert [row["name"] for row in rows] == ["device", "region"], "in the order of KINDS"
    device, region = rows
    assert (device["cause_right"], device["raised"]) == (1, 0)
    assert region["cause_right"] == 0.5 and region["celestial"] == region["raised"] / 2 == pytest.approx(1 / 3)


def test_peers_are_held_to_the_rate_that_was_asked_for():
    quiet = np.random.default_rng(1).exponential(1.0, (1, 20_000))  # hours; exceeded once a year at ln 8766
    trial = {"amplitude": 8.0}
    outcomes = [outcome(peers=(value,), trial=trial) for value in (8.0, 8.3, 9.8, 10.0)]
    ours, theirs = summary.peer_rows(["one"], quiet, 1.0, outcomes)
    assert ours["name"] == "flipwatch" and ours["power"] == 1
    assert theirs["threshold"] == pytest.approx(np.log(8766), abs=0.5) and theirs["power"] == 0.5


# --- the document and the command


def test_the_document_has_every_promised_key(learned):
    trials = [burst(), burst(amplitude=0.0), burst(each_minute=True)]
    trials += [Trial(kind=kind, hosts=SMALL, seed=1, each_minute=True) for kind in KINDS]
    outcomes = tuple(
        replace(one, trial=replace(one.trial, hosts=HOSTS)) for one in (run(trial, learned) for trial in trials)
    )
    tried = Tried(outcomes, learned.peers.names, np.concatenate(learned.quiet, axis=1))
    parts = ("null", "power", "peers", "confounders", "delay", "robustness")
    made = document.assembled(QUICK, parts, [tried, QuietRun(HOSTS, (), 1, 0)])
    assert json.loads(json.dumps(made)) == made
    keys = {
        "null": {"nominal_per_year", "live_years", "expected", "alarms"},
        "power": {"hosts", "amplitude", "window_min", "response", "power", "error50_deg", "error90_deg", "coverage90"},
        "peers": {"name", "amplitude", "power"},
        "confounders": {"name", "trials", "celestial", "cause_right"},
        "delay": {"delay50_min"},
        "robustness": {"silent", "skew_min", "backlog_min"},
    }
    for part, wanted in keys.items():
        for row in made[part]:
            assert wanted | {"hosts"} <= set(row), part
    assert len(made["power"]) == 2 and len(made["confounders"]) == len(KINDS)
    told = "\n".join(document.text(made | {"plan": "quick", "clusters": 40, "step_ms": {"40": 1.5}}))
    assert "| 400000 | 1000 | 10 | 1 |" in told and "wrong sky labels" in told and "1.50 ms" in told


def test_the_command_writes_one_document_and_adds_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(commands_evaluate, "QUICK", TINY)
    monkeypatch.setattr(commands_evaluate, "CLUSTERS", (12,))
    out = tmp_path / "evaluation.json"
    result = CliRunner().invoke(evaluate, ["--quick", "--json", "--only", "null,factors", "--out", str(out)])
    assert result.exit_code == 0, result.output
    first = json.loads(result.stdout)
    assert json.loads(out.read_bytes()) == first and "3 of 3 jobs" in result.stderr
    assert [row["nominal_per_year"] for row in first["null"]] == [12.0, 1.0]
    result = CliRunner().invoke(evaluate, ["--quick", "--only", "steps", "--out", str(out)])
    assert result.exit_code == 0 and "a step of 12 clusters" in result.stdout
    both = json.loads(out.read_bytes())
    assert both["factors"] == first["factors"] and set(both["step_ms"]) == {"12"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "power,luck"], "'luck' is none of null"),
        (["--only", "steps", "--out", "broken"], "holds no evaluation that could be added to"),
        (["--only", "steps", "--out", "other"], "holds no evaluation of the full plan"),
    ],
)
def test_senseless_options_are_one_sentence(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").write_text("{")
    (tmp_path / "other").write_text('{"plan": "quick"}')
    result = CliRunner().invoke(evaluate, arguments)
    assert result.exit_code == 2 and words in result.output and "Traceback" not in result.output
