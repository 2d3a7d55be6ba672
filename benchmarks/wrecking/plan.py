"""The plan of a chaos run: lives of a project, each with the faults that are put into its runs one after another."""

import random
from dataclasses import dataclass

PIPELINE = ("data", "teacher", "encode", "evaluator", "trunk", "baseline", "pairs", "train", "evaluate")
START, PUBLISH = "start", "publish"  # before the first stage; after the last one: publishing and registering
MOMENTS = (START, *PIPELINE, PUBLISH)

KILL, KILL_STAGE, KILL_ALL = "SIGKILL to the command", "SIGKILL to the stage", "SIGKILL to every process"
TERM, TERM_GROUP, INTERRUPT, INTERRUPT_TWICE = "SIGTERM", "SIGTERM to the group", "SIGINT", "SIGINT twice"
PAUSE, FULL_DISK, READ_ONLY = "SIGSTOP, SIGCONT", "full disk", "read-only mount"
KILL_MLFLOW, KILL_PREFECT = "SIGKILL to MLflow's server", "SIGKILL to Prefect's server"
KILLS = (KILL, KILL_STAGE, KILL_ALL)
OTHERS = (TERM, TERM_GROUP, INTERRUPT, INTERRUPT_TWICE, PAUSE)

FLOW, SERVERS, SEARCH = "flow", "flow with servers", "search"  # what a life runs
PER_LIFE = 6  # SIGKILLs of a life
LATEST = 0.7  # largest share: a stage that resumes takes less time than one without faults


@dataclass(frozen=True)
class Fault:
    """A fault: what is done, in which part of a run, and after which share of that part."""

    kind: str
    moment: str
    share: float


@dataclass(frozen=True)
class Life:
    """A copy of the project, the command that runs in it, and the faults of its runs, in the order of the pipeline."""

    command: str
    faults: tuple[Fault, ...]


def make_plan(seed: int, kills: int) -> list[Life]:
    """Return lives with this number of SIGKILLs in all, spread over all moments, and every other kind of fault.

    The kills are dealt to the moments in turn, so that eleven of them meet each moment once. A sixth of the lives run
    with servers, and one runs a search.
    """
    rng = random.Random(seed)
    moments = [MOMENTS[k % len(MOMENTS)] for k in range(kills)]
    rng.shuffle(moments)
    lives = []
    for k, first in enumerate(range(0, kills, PER_LIFE)):
        own = moments[first : first + PER_LIFE]
        faults = [Fault(rng.choice(KILLS), moment, LATEST * rng.random()) for moment in own]
        faults.append(Fault(OTHERS[k % len(OTHERS)], rng.choice(MOMENTS), LATEST * rng.random()))
        if k % 6 == 2:
            faults += [Fault(kind, rng.choice(PIPELINE), LATEST * rng.random()) for kind in (KILL_MLFLOW, KILL_PREFECT)]
        if k % 6 == 4:
            faults.insert(0, Fault((READ_ONLY, FULL_DISK)[k // 6 % 2], START, rng.random()))
        lives.append(Life(SERVERS if k % 6 == 2 else SEARCH if k == 5 else FLOW, _in_order(faults)))
    if not any(fault.kind == FULL_DISK for life in lives for fault in life.faults):
        lives += [Life(FLOW, (Fault(kind, START, rng.random()),)) for kind in (FULL_DISK, READ_ONLY)]
    return lives


def _in_order(faults: list[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=lambda fault: (MOMENTS.index(fault.moment), fault.share)))
