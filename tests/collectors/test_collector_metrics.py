"""The collector's metrics: names, zeros from the start, persisted counters, and promtool's opinion."""

import subprocess

from collectors import metrics
from collectors.changes import RollOut
from collectors.correlator import Status
from collectors.factors import Factor
from collectors.overview import ClusterView, Health, Overview
from collectors.stepper import Step
from collectors.store import Total
from tests.collectors.bursts import CELESTIAL
from tests.conftest import require

FACTOR = Factor("rack", "r17", 14, 20, 40, 4000, 1e-9, 1e-7)
STATUS = Status("live", 15.0, 3.5, 12.0, 14.0, 1)


def overview(**changes) -> Overview:
    agents = {"ok": 1, "silent": 1, "slow": 0, "garbage": 0, "refused": 0, "conflict": 0}
    view = ClusterView("fra", 2, agents, {"dram": 1, "gpu": 1}, {"dram": 0.01}, 4.5, 7, (50.11, 8.68))
    values = {
        "now_ns": 1,
        "clusters": (view,),
        "agents": (),
        "agents_in_trouble": 0,
        "totals": {("fra", "dram"): Total(9, 30, 5, 1.25)},
        "losses": (),
        "burst_totals": {("celestial", "new"): 2},
        "roll_outs": (RollOut("kernel-6.9", "canary", 5, None), RollOut("bios", "old", 1, 2)),
        "warnings": (),
        "step": Step(STATUS, (CELESTIAL,), {("fra", "dram"): 0.01}, 0.25, (FACTOR,)),
        "health": Health(alerts_wanted=True),
    }
    return Overview(**(values | changes))


def lines(**changes) -> list[str]:
    text = metrics.render(overview(**changes)).decode()
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_values_under_the_names_that_others_build_on():
    shown = lines()
    for line in (
        'flipwatch_cluster_novel_faults_total{cluster="fra",stream="dram"} 5.0',
        'flipwatch_cluster_novel_faults_total{cluster="fra",stream="gpu"} 0.0',
        'flipwatch_cluster_expected_faults_total{cluster="fra",stream="dram"} 1.25',
        'flipwatch_cluster_watching_hosts{cluster="fra",stream="dram"} 1.0',
        'flipwatch_agents{cluster="fra",state="silent"} 1.0',
        'flipwatch_agents{cluster="fra",state="conflict"} 0.0',
        'flipwatch_pull_lag_seconds{cluster="fra"} 4.5',
        'flipwatch_pull_lost_faults_total{cluster="fra"} 7.0',
        'flipwatch_cluster_info{cluster="fra",latitude="50.11",longitude="8.68"} 1.0',
        'flipwatch_bursts_active{cause="celestial"} 1.0',
        'flipwatch_factor_victims{attribute="rack",value="r17"} 14.0',
        "flipwatch_changes_open 1.0",
        'flipwatch_bursts_active{cause="fleet"} 0.0',
        'flipwatch_bursts_total{cause="celestial",kind="new"} 2.0',
        "flipwatch_scan_statistic_nats 3.5",
        "flipwatch_scan_false_alarms_per_year 12.0",
        'flipwatch_correlator_state{state="live"} 1.0',
        'flipwatch_correlator_state{state="learning"} 0.0',
        "flipwatch_step_seconds 0.25",
        "flipwatch_alert_delivery_up 1.0",
        "flipwatch_store_up 1.0",
    ):
        assert line in shown
    assert not any("_created" in line for line in shown)


def test_each_active_burst_with_what_its_clusters_saw():
    shown, who = lines(), f'burst_id="{CELESTIAL.burst_id}",cause="celestial"'
    assert f"flipwatch_burst_start_timestamp_seconds{{{who}}} 1.79545362e+09" in shown
    assert f"flipwatch_burst_false_alarms_per_year{{{who}}} {CELESTIAL.far_per_year}" in shown
    for share in CELESTIAL.clusters:
        label = f'{who},cluster="{share.cluster}"'
        assert f"flipwatch_burst_observed_faults{{{label}}} {float(share.observed)}" in shown
        assert f"flipwatch_burst_expected_faults{{{label}}} {share.expected}" in shown
    assert not any("flipwatch_burst_" in line for line in lines(step=Step(STATUS, (), {}, 0.25)))


def test_trouble_is_a_zero():
    shown = lines(
        health=Health(store="disk full", inventory="bad", correlator="failed", alerts="no", alerts_wanted=True)
    )
    for name in ("flipwatch_store_up", "flipwatch_inventory_up", "flipwatch_alert_delivery_up"):
        assert f"{name} 0.0" in shown
    assert 'flipwatch_correlator_state{state="failed"} 1.0' in shown


def test_what_is_unknown_is_left_out():
    shown = lines(step=None, health=Health())
    assert 'flipwatch_correlator_state{state="starting"} 1.0' in shown
    assert not any(line.startswith(("flipwatch_scan", "flipwatch_alert")) for line in shown)


def test_promtool_finds_nothing_to_say():
    for page in (overview(), overview(step=None)):
        text = metrics.render(page)
        checked = subprocess.run([require("promtool"), "check", "metrics"], input=text, capture_output=True, timeout=30)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
