"""A cluster on one machine: a network and a host name for each of some hosts, joined by a switch. It wants root, and Linux.

Each host is a network namespace with one card; the switch is one more, so that the machine's own network is left alone. Open MPI
reaches a host by a script in place of ssh, and believes that it is another machine: its messages are real TCP.
"""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.patience import FIRST, build

if TYPE_CHECKING:
    from conftest import Finished, Launch

NETWORK = "10.213.77"
NAMES = Path("/etc/netns")
"""What lies here in a folder named like a namespace is seen in /etc by what runs there."""
MESSAGES = ("--prtemca", "prte_if_include", f"{NETWORK}.0/24", "--mca", "pml", "ob1")
MESSAGES += ("--mca", "btl", "tcp,self,sm", "--mca", "btl_tcp_if_include", f"{NETWORK}.0/24")
FRAME, PAYLOAD = 1514, 1448
"""Bytes of an Ethernet frame as the kernel counts them, and of a message in it: the rest are headers."""
LATE = 100
"""Microseconds."""
QUEUE = 64 * 2**20
ENTER = 'hostname "$0"; exec "$@"'


@dataclass(frozen=True)
class Cluster:
    """Hosts that are there while `cluster` is open."""

    hosts: tuple[str, ...]
    agent: Path
    """The script that Open MPI starts in place of ssh."""
    patience: Path | None = None
    """What makes ranks wait without using a core, where that can be built."""

    def inside(self, host: str, *command: str) -> list[str]:
        """The command line that runs a command on a host."""
        return ["ip", "netns", "exec", host, "unshare", "--uts", "sh", "-c", ENTER, host, *command]

    def mpirun(self, launch: "Launch", ranks_per_host: int, *arguments: str, **options: Any) -> "Finished":
        """Run `mpiexec ... python ARGUMENTS` on the first host, with ranks on all of them; options are those of `finish`."""
        from conftest import finish

        if self.patience:
            arguments = "-c", FIRST, *arguments
            options["environment"] = {"LD_PRELOAD": str(self.patience), **options.get("environment", {})}

        hosts = ",".join(f"{host}:{ranks_per_host}" for host in self.hosts)
        started = [launch.launcher, "--host", hosts, "-n", str(ranks_per_host * len(self.hosts))]
        started += ["--map-by", f"ppr:{ranks_per_host}:node:oversubscribe"]
        reached = ["--prtemca", "plm_ssh_agent", str(self.agent), *MESSAGES]
        command = self.inside(self.hosts[0], *started, *reached, launch.python, *arguments)
        return finish(command, **{"timeout": 100, **options})


@contextmanager
def cluster(count: int, folder: Path, megabits: float | None = None) -> Iterator[Cluster]:
    """So many hosts; whatever happens, nothing of them is left. `folder`: for what they need. `megabits`: a second, of each cable
    in each direction; without it as many as the machine manages."""
    mark = secrets.token_hex(3)
    switch, *hosts = (f"distsgd-{mark}-{place}" for place in ("switch", *range(count)))
    known = "127.0.0.1 localhost\n" + "".join(f"{address(n)} {host}\n" for n, host in enumerate(hosts))
    with ExitStack() as stack:
        stack.enter_context(_namespace(switch))
        _in(switch, "ip", "link", "add", "bridge", "type", "bridge")
        _in(switch, "ip", "link", "set", "bridge", "up")
        for number, host in enumerate(hosts):
            stack.enter_context(_namespace(host))
            stack.enter_context(_names(host, known))
            _wire(switch, host, number)
            if megabits:
                _limit(switch, f"port{number}", megabits)
                _limit(host, "card", megabits)
        agent = folder / "agent"
        agent.write_text(
            f"#!/bin/sh\nhost=$1; shift\nexec ip netns exec $host unshare --uts sh -c '{AGENT}' $host \"$*\"\n"
        )
        agent.chmod(0o700)
        yield Cluster(tuple(hosts), agent, build(folder) if megabits else None)


AGENT = 'hostname "$0"; exec sh -c "$1"'


def address(number: int) -> str:
    return f"{NETWORK}.{number + 1}"


def _wire(switch: str, host: str, number: int) -> None:
    """A cable from a host's card to the switch."""
    ends = f"port{number}", "card"
    run("ip", "link", "add", ends[0], "netns", switch, "type", "veth", "peer", "name", ends[1], "netns", host)
    _in(switch, "ip", "link", "set", ends[0], "master", "bridge")
    _in(switch, "ip", "link", "set", ends[0], "up")
    _in(host, "ip", "address", "add", f"{address(number)}/24", "dev", ends[1])
    for card in ("lo", ends[1]):
        _in(host, "ip", "link", "set", card, "up")


def _limit(namespace: str, card: str, megabits: float) -> None:
    """What a card sends leaves it at this rate: frame by frame, as cables carry them, and none is lost in the queue.

    The bucket holds, beside a frame, what the cable carries until the kernel looks again: with less, some of the rate is lost.
    """
    _in(namespace, "ip", "link", "set", "dev", card, "gso_max_segs", "1", "gso_max_size", "1514")
    _in(namespace, "ip", "link", "set", "dev", card, "gro_max_size", "1514")
    bucket = FRAME + max(FRAME, round(megabits / 8 * LATE))
    rate = ("rate", f"{round(megabits * 1e6)}bit", "burst", str(bucket), "limit", str(QUEUE))
    _in(namespace, "tc", "qdisc", "add", "dev", card, "root", "tbf", *rate)
    _in(namespace, "sysctl", "-q", "-w", "net.ipv4.tcp_congestion_control=reno")


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    run("ip", "netns", "add", name)
    try:
        yield
    finally:
        try:
            for process in run("ip", "netns", "pids", name).split():
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(int(process), signal.SIGKILL)
        finally:
            run("ip", "netns", "delete", name)


@contextmanager
def _names(host: str, known: str) -> Iterator[None]:
    """The hosts' addresses, where the host looks for them."""
    folder = NAMES / host
    folder.mkdir(parents=True)
    (folder / "hosts").write_text(known)
    try:
        yield
    finally:
        (folder / "hosts").unlink()
        folder.rmdir()
        with suppress(OSError):  # another cluster's hosts are there
            NAMES.rmdir()


def _in(namespace: str, *command: str) -> None:
    run("ip", "netns", "exec", namespace, *command)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def skip_unless_possible() -> None:
    """Skip, and say so, where this machine lets nobody make hosts."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("NOT TESTED ON SEVERAL HOSTS: network namespaces want Linux and root")
    try:
        with _namespace(f"distsgd-{secrets.token_hex(3)}-try"):
            run("unshare", "--uts", "true")
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"NOT TESTED ON SEVERAL HOSTS: this machine makes none ({error})")
