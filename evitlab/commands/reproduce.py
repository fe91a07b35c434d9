"""The command `reproduce`: run what the paper's claims still need, judge them, write one page."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from evitlab.commands.options import Device, Smoke
from evitlab.commands.pruning import prune_plainly
from evitlab.commands.run import Json, Results, run_file
from evitlab.commands.training import DataRoot

if TYPE_CHECKING:
    from evitlab.agenda import Job
    from evitlab.report.reproduction.verdicts import Reproduction

Budget = Annotated[
    float | None,
    typer.Option(
        min=1,
        metavar="MINUTES",
        help="Run what is missing, as much as fits into so many minutes of this machine, by claims judged a minute. "
        "Without it nothing is run: what there is is judged, and what is missing is named with its command.",
    ),
]
Studies = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the study files.")]


def reproduce(
    budget: Budget = None,
    results: Results = Path("results"),
    studies: Studies = Path("studies"),
    data_root: DataRoot = None,
    device: Device = "cpu",
    smoke: Smoke = False,
    as_json: Json = False,
) -> None:
    """Judge the paper's claims one by one, by all results there are, and write one page of it.

    Behind Fig. 2-5 and 7, Tables 1 and 6 and the supplement's figures stand studies and prunings. Each claim gets the
    paper's evidence, ours with interval, n and conditions, and a verdict: holds, does not hold, not separable at this
    budget, or not measured. Killed at any moment, the same command goes on; what fails does not stop the others.

    Examples:

    evitlab reproduce                                     # judge what is there, name what is missing

    evitlab reproduce --budget 30                         # half an hour on embedded data first

    evitlab reproduce --budget 600 --data-root DIR        # with the studies on Tiny-ImageNet in DIR
    """
    from evitlab.report.reproduction.page import write_reproduction
    from evitlab.report.reproduction.verdicts import judge_claims, list_folders

    folders = list_folders()
    failures = [] if budget is None else _run_within(budget, folders, results, studies, data_root, device, smoke)
    jobs = _list_jobs(folders, results, studies, data_root, smoke)
    found = judge_claims(results, smoke=smoke, studies=studies)
    offers = {name: _describe(job) for name, job in jobs.items() if not job.done}
    page = write_reproduction(found, results, offers=offers)
    _print(found, offers, failures, page, as_json=as_json)
    raise typer.Exit(1 if failures else 0)


def _list_jobs(
    folders: Sequence[str], results: Path, studies: Path, data_root: str | None, smoke: bool
) -> "dict[str, Job]":
    from evitlab.agenda import list_jobs

    return list_jobs(folders, results=results, studies=studies, data_root=data_root, smoke=smoke)


def _run_within(
    budget: float,
    folders: Sequence[str],
    results: Path,
    studies: Path,
    data_root: str | None,
    device: str,
    smoke: bool,
) -> list[str]:
    """Run what fits, one after the other; what failed, in a sentence each.

    Estimates may be wrong: what no longer fits when its turn comes is left out.
    """
    from evitlab.agenda import choose_jobs, find_pace, list_jobs
    from evitlab.claims import CLAIMS
    from evitlab.problems import UserError

    if not studies.is_dir():
        raise UserError(f"--studies must be a folder of study files, but got {str(studies)!r}")
    started = time.monotonic()
    notes = Console(stderr=True)
    with notes.status("loading torch", spinner="dots"):
        from evitlab.environment import describe_environment

        here = describe_environment(device)
    asked = {"results": results, "studies": studies, "data_root": data_root}
    jobs = list_jobs(folders, smoke=smoke, conditions=here.conditions, **asked)  # type: ignore[arg-type]
    pace = find_pace(jobs, results, here.machine, here.device)
    chosen = choose_jobs(CLAIMS, jobs, minutes=budget, pace=pace)
    failures = []
    for number, job in enumerate(chosen, start=1):
        needs = pace * (job.minutes or 0.0)
        spent = (time.monotonic() - started) / 60
        if spent + needs > budget:
            _say(f"{job.folder}: left out, as it needs {_minutes(needs)} and {_minutes(budget - spent)} are left")
            continue
        _say(f"{number} of {len(chosen)}, {job.folder}: {_minutes(needs)} expected")
        failures += _run_job(job, results, data_root, device, smoke)
    return failures


def _run_job(job: "Job", results: Path, data_root: str | None, device: str, smoke: bool) -> list[str]:
    """Make one folder of results; what failed, if anything. A stop by the user ends the command."""
    from evitlab.claims import COMMANDS

    try:
        if job.study is None:
            model = COMMANDS[job.folder].model
            return [
                f"{job.folder}: {text}" for text in prune_plainly(model, results=results, device=device, smoke=smoke)
            ]
        ran = run_file(job.study, results=results, data_root=data_root, device=device, smoke=smoke)
        return [] if ran.done else [f"{job.folder}: some of its measurements failed; its page says which"]
    except KeyboardInterrupt as stop:
        _say("interrupted; what was measured is kept: the same command goes on")
        raise typer.Exit(143 if str(stop) == "SIGTERM" else 130) from None
    except typer.Exit:
        raise
    except Exception as error:  # whatever it is, the other results do not depend on it
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        return [f"{job.folder}: {type(error).__name__}: {reason}"]


def _describe(job: "Job") -> str:
    """How results are made, and what that takes."""
    if not job.command:
        return job.obstacle
    needs = "minutes not known" if job.minutes is None else f"about {_minutes(job.minutes)}"
    return f"{job.command} ({needs}" + (f"; {job.obstacle})" if job.obstacle else ")")


def _minutes(minutes: float) -> str:
    number = f"{minutes:.0f}" if minutes >= 2 else f"{max(minutes, 0.0):.1f}"
    return f"{number} {'minute' if number == '1' else 'minutes'}"


def _print(
    found: "Reproduction", offers: Mapping[str, str], failures: Sequence[str], page: Path, *, as_json: bool
) -> None:
    from evitlab.report.reproduction.verdicts import as_plain, render_claims

    for failure in failures:
        _say(f"error: {failure}")
    if as_json:
        print(json.dumps({"claims": as_plain(found), "missing": dict(offers), "failed": list(failures)}))
        return
    console = Console()
    console.print(render_claims(found))
    if offers:
        console.print("\nNot measured, or not wholly:")
    for name, text in offers.items():
        console.print(f"  {name}: {text}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"page: {page}", highlight=False, soft_wrap=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
