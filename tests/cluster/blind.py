"""The blind test: cables of a rate that nobody told the calibration; it finds the rate, and predicts what it has not seen.

    python -m tests.cluster.blind [--seed S] [--draws N] [--hosts 2,4] [--unseen 3,8] [--rates 10,100] [--seconds 60]
                                 [--ranks-per-host 1] [--json FILE]

Truth: what a cable carries of a message is 1448 bytes of every frame of 1514 (Ethernet 14, IP 20, TCP 20 + 12 of time stamps), so
beta is 8 / rate * 1514 / 1448 seconds per byte. Acknowledgements that go the other way take up to 2 % more and are not in it.

Where a machine of two cores is to carry 1000 Mbit/s both ways at once, frame by frame, its cables are idle in between: one way they
keep the rate, both ways they don't. So plain sockets send as many bytes, one way and both ways (probe.py), and what calibration
finds is also held against those: `stream_errors`. Of our algorithms the binomial tree sends one way, the others both ways.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distsgd.cost.algorithms import OURS
from distsgd.cost.averaging import Asked, averaging_estimate
from tests.cluster.hosts import FRAME, PAYLOAD, Cluster, address, cluster

if TYPE_CHECKING:
    from conftest import Launch

PROGRAM, PROBE = (str(Path(__file__).with_name(name)) for name in ("averages.py", "probe.py"))
PORT = "5001"


@dataclass(frozen=True)
class Scored:
    """One averaging that was predicted: its seconds and the prediction's, with the interval's ends."""

    way: tuple[str, str, str]
    ranks: int
    values: int
    measured: float
    predicted: float
    low: float
    high: float
    twice: tuple[float, float]
    """What every other repeat comes to, and the rest of them."""

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1

    @property
    def repeated(self) -> float:
        """The error of predicting these by those."""
        return self.twice[0] / self.twice[1] - 1


def on(
    hosts: Cluster, count: int, launch: "Launch", what: str, seconds: float, seed: int,
    ranks_per_host: int = 1, counts: Sequence[int] = (),
) -> Any:  # fmt: skip
    """What averages.py writes, run on so many of the hosts; other sizes on all of these hosts, if no numbers of hosts are given."""
    file = hosts.agent.with_name(f"{what}-{count}-{seed}.json")
    some = replace(hosts, hosts=hosts.hosts[:count])
    ranks = [number * ranks_per_host for number in counts or [count]]
    arguments = [PROGRAM, what, str(file), str(seconds), str(seed), *map(str, ranks)]
    done = some.mpirun(launch, ranks_per_host, *arguments, timeout=10 * seconds + 60)
    assert done.rc == 0, done.stderr
    return json.loads(file.read_text())


def true_beta(megabits: float) -> float:
    return 8e-6 / megabits * FRAME / PAYLOAD


def stream_betas(hosts: Cluster) -> dict[str, float]:
    """Seconds per byte between the first two hosts, by direction: what plain sockets need more for a larger size."""
    with subprocess.Popen(hosts.inside(hosts.hosts[0], sys.executable, PROBE, PORT)) as answering:
        calling = hosts.inside(hosts.hosts[1], sys.executable, PROBE, PORT, address(0))
        done = subprocess.run(calling, capture_output=True, text=True, timeout=200)
        assert (done.returncode, answering.wait(20)) == (0, 0), done.stderr
    found = {}
    for way, seconds in json.loads(done.stdout).items():
        sizes = list(map(int, seconds))
        found[way] = float(np.polyfit(sizes, list(seconds.values()), 1)[0])
    return found


def direction(algorithm: str) -> str:
    return "one_way" if algorithm == "binomial" else "both_ways"


def betas(messages: dict[str, Any]) -> dict[str, float]:
    """Of each algorithm of ours, for its longest messages."""
    return {
        entry["algorithm"]: entry["fits"][-1]["pieces"][-1]["beta"]
        for entry in messages["exchanges"]
        if entry["algorithm"] in OURS
    }


def guessed(messages: dict[str, Any], one: dict[str, Any]) -> bool:
    """Whether the library chose, on ranks that were not measured."""
    return one["algorithm"] == "library" and [one["ranks"], one["hosts"]] not in messages["layouts"]


def scored(messages: dict[str, Any], seen: Sequence[dict[str, Any]]) -> tuple[list[Scored], int]:
    """Each averaging that was measured, predicted; and how many are not: what the library chooses on other ranks."""
    found, unknown = [], 0
    for one in seen:
        if guessed(messages, one):
            unknown += 1
            continue
        way = one["topology"], one["algorithm"], one["reduction"]
        try:
            estimate = averaging_estimate(messages, Asked(*way, one["values"], one["ranks"], one["hosts"], 2))
        except LookupError:
            unknown += 1
            continue
        measured = sum(one[call] for call in CALLED)
        low, high = estimate.whole.interval
        seconds = measured, estimate.whole.seconds, low, high
        found.append(Scored(way, one["ranks"], one["values"], *seconds, tuple(one["twice"])))
    return found, unknown


def without(messages: dict[str, Any], algorithm: str) -> dict[str, Any]:
    """What a calibration would have found that never saw an algorithm."""
    kept = [entry for entry in messages["exchanges"] if entry["algorithm"] != algorithm]
    return {**messages, "exchanges": kept}


def held_out(messages: dict[str, Any], averages: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Each algorithm of ours, predicted from what messages took in the others, on ranks and for sizes that were not seen either;
    and all of them together.
    """
    found = {
        name: scored(without(messages, name), [one for one in averages if one["algorithm"] == name])[0]
        for name in OURS
    }
    every = [one for scores in found.values() for one in scores]
    return {name: summary(scores) for name, scores in {**found, "all": every}.items()}


def summary(scores: Sequence[Scored]) -> dict[str, float]:
    """Of the errors: median and 95th percentile of their size, bias, and how many intervals hold what was measured.

    repeated_...: of predicting by the same measurement.
    """
    errors = np.array([one.error for one in scores])
    repeated = np.abs([one.repeated for one in scores])
    inside = [one.low <= one.measured <= one.high for one in scores]
    return {
        "median": float(np.median(np.abs(errors))),
        "p95": float(np.quantile(np.abs(errors), 0.95)),
        "bias": float(np.median(errors)),
        "coverage": float(np.mean(inside)),
        "repeated_median": float(np.median(repeated)),
        "repeated_p95": float(np.quantile(repeated, 0.95)),
        "count": len(scores),
    }


CALLED = ("begin", "add", "again", "exchange", "finish")


def advised(messages: dict[str, Any], seen: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For the largest average that was measured: how many times as fast as the library each way is said to be, and was.

    Each way was measured with one reduction, or with both: it is compared with the library of the same.
    """
    values = max(one["values"] for one in seen)
    seconds = {
        (one["topology"], one["algorithm"], one["reduction"]): sum(one[call] for call in CALLED)
        for one in seen
        if one["values"] == values
    }
    first = next(one for one in seen if one["values"] == values)

    def told(topology: str, algorithm: str, reduction: str) -> float:
        asked = Asked(topology, algorithm, reduction, values, first["ranks"], first["hosts"], 2)
        return averaging_estimate(messages, asked).whole.seconds

    library = "allreduce", "library"
    return {
        " ".join(way): {
            "predicted": told(*library, way[2]) / told(*way),
            "measured": seconds[*library, way[2]] / taken,
        }
        for way, taken in seconds.items()
        if way[:2] != library
    }


def blind(
    launch: "Launch", megabits: float, seen: Sequence[int], unseen: Sequence[int], seconds: float, seed: int,
    ranks_per_host: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """One draw: calibrate on the most hosts that may be seen, predict other sizes there, and what unseen host counts do."""
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster(max((*seen, *unseen)), Path(folder), megabits) as hosts,
    ):
        streams = stream_betas(hosts)
        found = on(hosts, max(seen), launch, "calibrate", seconds, seed, ranks_per_host, seen)
        messages, averages = found["messages"], found["averages"]
        known, _ = scored(messages, averages)
        advice = advised(messages, [one for one in averages if one["hosts"] == max(seen)])
        for count in unseen:
            averages += on(hosts, count, launch, "held-out", seconds, seed + count, ranks_per_host)[
                "averages"
            ]
    counted = {}
    for count in (*seen, *unseen):
        scores, unknown = scored(messages, [one for one in averages if one["hosts"] == count])
        counted[count] = {**summary(scores), "unpredicted": unknown}
    beta, true = betas(messages), true_beta(megabits)
    return {
        "megabits": megabits,
        "ranks_per_host": ranks_per_host,
        "beta_errors": {name: beta[name] / true - 1 for name in beta},
        "stream_errors": {name: beta[name] / streams[direction(name)] - 1 for name in beta},
        "streams": {way: stream / true - 1 for way, stream in streams.items()},
        "seen": summary(known),
        "by_hosts": counted,
        "advice": advice,
        "held_out_algorithms": held_out(messages, averages),
    }


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--hosts", type=numbers, default=[2, 4])
    parser.add_argument("--unseen", type=numbers, default=[3, 8])
    parser.add_argument("--rates", type=numbers, default=[10, 100], help="megabits a second, least and most")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--ranks-per-host", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sys.path.append(str(Path(__file__).parent.parent))
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    from conftest import library

    launch = library("Open MPI", sys.executable, "Open MPI")
    rng = np.random.default_rng(given.seed)
    results = []
    for draw in range(given.draws):
        megabits = float(np.exp(rng.uniform(*np.log(given.rates))))
        counts = [int(count) for count in given.hosts], [int(count) for count in given.unseen]
        results.append(blind(launch, megabits, *counts, given.seconds, 100 * draw, given.ranks_per_host))
        print(json.dumps(results[-1], indent=1), flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
