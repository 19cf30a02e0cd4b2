"""Ranks on several hosts, with real messages over TCP between them: the same bits, and what a node's ranks share."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.hosts import NAMES, Cluster, cluster, run, skip_unless_possible

if TYPE_CHECKING:
    from conftest import Launch

TRAIN = ("-m", "distsgd", "train", "--set", "network.name=rendon", "--set", "data.train_images=487")
TRAIN += ("--set", "averaging.workers=5", "--set", "train.epochs=1", "--set", "train.batch=23")
NODES = """
import socket
from distsgd.comm import world
import os, numpy as np
ranks = world(os.environ)
memory = ranks.shared(10, np.int64)
place = f"{socket.gethostname()} {ranks.on_node()} {memory is not None}"
places = ranks.gather_bytes(place.encode())
if ranks.rank == 0:
    print("\\n".join(text.decode() for text in places))
"""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    skip_unless_possible()
    with cluster(3, tmp_path_factory.mktemp("cluster")) as hosts:
        yield hosts


def test_ranks_know_who_is_on_their_node(three: Cluster, openmpi: "Launch") -> None:
    done = three.mpirun(openmpi, 2, "-c", NODES)
    assert done.rc == 0, done.stderr
    wanted = [f"{host} ({place}, 2) False" for host in three.hosts for place in (0, 1)]
    assert done.stdout.splitlines() == wanted


def weights(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["weights_sha256"])


@pytest.mark.parametrize(
    "mode", [("allreduce", "parameters"), ("master", "parameters"), ("allreduce", "gradients")]
)
def test_the_same_bits_on_three_hosts(
    three: Cluster, openmpi: "Launch", tmp_path: Path, mode: tuple[str, str]
) -> None:
    chosen = ("--set", f"averaging.topology={mode[0]}", "--set", f"averaging.what={mode[1]}")
    alone = openmpi.alone(*TRAIN, *chosen, "--out", str(tmp_path / "alone"))
    done = three.mpirun(openmpi, 1, *TRAIN, *chosen, "--out", str(tmp_path / "three"))
    assert (alone.rc, done.rc) == (0, 0), done.stderr
    assert weights(tmp_path / "three") == weights(tmp_path / "alone")


def test_a_wrong_setting_is_told_once_and_ends_all_hosts(three: Cluster, openmpi: "Launch") -> None:
    done = three.mpirun(openmpi, 1, *TRAIN, "--set", "network.name=nothing")
    assert done.rc == 2
    assert done.stderr.count("nothing") == 1


def test_nothing_of_a_cluster_is_left(tmp_path: Path) -> None:
    """Of this one: others may be on the same machine."""
    skip_unless_possible()
    with ExitStack() as stack:
        hosts = stack.enter_context(cluster(2, tmp_path)).hosts
        mark = hosts[0].removesuffix("0")
        begun = subprocess.Popen(["ip", "netns", "exec", hosts[1], "sleep", "60"])
        until = time.monotonic() + 10
        while (
            str(begun.pid) not in run("ip", "netns", "pids", hosts[1]).split()
        ):  # on a busy machine it takes a while
            assert time.monotonic() < until
        assert run("ip", "netns", "list").count(mark) == 3
    assert begun.wait(10) != 0
    assert mark not in run("ip", "netns", "list")
    assert not list(NAMES.glob(f"{mark}*"))
