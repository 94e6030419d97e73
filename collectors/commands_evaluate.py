"""The command `evaluate`: how well the correlator does, on worlds whose truth is known.

Enters: the command line. Leaves: tables or one JSON document on stdout, progress on stderr. It owns the clock and the
processes that share the jobs; what is tried stands in evaluation/plan.py.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click

from checksum import durable
from collectors.command_line import PATH, Trouble
from collectors.evaluation.document import Result, assembled, text
from collectors.evaluation.fleets import fleet
from collectors.evaluation.plan import FULL, HOSTS, PARTS, QUICK, QUICK_PARTS, Job, jobs
from collectors.evaluation.steps import CLUSTERS, step_ms


class Parts(click.ParamType):
    """Parts of the evaluation, joined by commas."""

    name = "PARTS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        parts = tuple(str(value).split(","))
        for part in parts:
            if part not in PARTS:
                self.fail(f"'{part}' is none of {', '.join(PARTS)}", param, ctx)
        return parts


@click.command()
@click.option("--quick", is_flag=True, help=f"Less of everything, and only {', '.join(QUICK_PARTS)}.")
@click.option("--only", type=Parts(), help=f"Some parts, joined by commas, of {', '.join(PARTS)}.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of tables.")
@click.option("--out", type=PATH, help="Also write the document here; an older one keeps its other parts.")
@click.option("--processes", type=click.IntRange(1, 64), default=os.cpu_count(), show_default=True)
def evaluate(quick: bool, only: tuple[str, ...] | None, as_json: bool, out: Path | None, processes: int) -> None:
    """Detection power, false alarms, localisation, confusion of causes: measured on simulated fleets.

    All of it is 31 quiet years and 14,600 trials; --only does it part by part. The same plan gives the same figures
    each time, but for times.
    """
    plan, parts = (QUICK, only or QUICK_PARTS) if quick else (FULL, only or PARTS)
    document: dict[str, Any] = {
        "plan": "quick" if quick else "full",
        "clusters": len(fleet(HOSTS).clusters),
        "hosts": HOSTS,
    }
    document |= _earlier(out, document) if out is not None else {}
    begun_s = time.monotonic()
    if "steps" in parts:  # first, while nothing else runs
        document["step_ms"] = {str(clusters): step_ms(clusters, time.perf_counter) for clusters in CLUSTERS}
    document |= assembled(plan, parts, _results(jobs(plan, parts), processes))
    document["seconds"] = round(time.monotonic() - begun_s, 1)
    if out is not None:
        _write(out, document)
    click.echo(json.dumps(document, indent=1) if as_json else "\n".join(text(document)))


def _results(wanted: Sequence[Job], processes: int) -> Iterator[Result]:
    """What the jobs bring back, in the order of the plan, so that the figures don't depend on who was faster."""
    begun_s = time.monotonic()
    # a fresh process has no other thread, so a trial may fork it
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures: list[Future[Result]] = [pool.submit(job.run) for job in wanted]
        for number, _ in enumerate(as_completed(futures), start=1):
            click.echo(f"{number} of {len(wanted)} jobs, {time.monotonic() - begun_s:.0f} s", err=True)
        yield from (future.result() for future in futures)


def _earlier(out: Path, document: dict[str, Any]) -> dict[str, Any]:
    """The parts that were evaluated before by the same plan."""
    try:
        earlier: dict[str, Any] = json.loads(out.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Trouble(f"{out}: holds no evaluation that could be added to: {error}") from error
    if not isinstance(earlier, dict) or earlier.get("plan") != document["plan"]:
        raise Trouble(f"{out}: holds no evaluation of the {document['plan']} plan; choose another file")
    return earlier


def _write(out: Path, document: dict[str, Any]) -> None:
    try:
        with durable.replace_file(out) as file:
            file.write(json.dumps(document, indent=1).encode() + b"\n")
    except OSError as error:
        raise Trouble(f"{out}: can't write the document: {error.strerror}") from error
