"""What a sum over ranks consists of, by the algorithm that makes it: messages begun, bytes sent, bytes added.

Each is what the slowest rank does, one behind the other, so that seconds are startups * alpha + sent * beta + added * gamma. For
several ranks on each of several hosts only what crosses a host's cable counts, all ranks of the host sharing it; ranks of a host
are neighbours. Formulas as in Thakur, Rabenseifner and Gropp (2005), for arrays of `size` bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """What alpha (seconds), beta and gamma (seconds per byte) are multiplied with."""

    startups: float
    sent: float
    added: float


@dataclass(frozen=True)
class Layout:
    """Ranks, as many on each of the hosts."""

    ranks: int
    hosts: int

    @property
    def far(self) -> int:
        """Those that meet over the network; all of them on one host, where they meet in memory."""
        return self.hosts if self.hosts > 1 else self.ranks

    @property
    def sharing(self) -> float:
        """Ranks that share a host's cable."""
        return self.ranks / self.hosts if self.hosts > 1 else 1.0


def ring(size: float, layout: Layout) -> Terms:
    """Parts go around twice; of a host's ranks only one sends to another host."""
    ranks = layout.ranks
    share = (ranks - 1) / ranks
    return Terms(2 * (ranks - 1), 2 * share * size, share * size)


def recursive_doubling(size: float, layout: Layout) -> Terms:
    """Partners swap all they have; beyond a power of two, ranks give all to a neighbour first and get it back in the end."""
    rounds, extra = _rounds(layout.far)
    sent = rounds * layout.sharing * size
    return Terms(rounds + 3 * extra, sent + 2 * extra * size, (rounds + extra) * size)


def rabenseifner(size: float, layout: Layout) -> Terms:
    """Partners swap halves, quarters and so on, and then what they know; near ones first, so that the least leaves a host."""
    rounds, extra = _rounds(layout.far)
    share = 1 - 0.5**rounds
    return Terms(2 * rounds + 3 * extra, 2 * (share + extra) * size, (share + extra) * size)


def binomial(size: float, layout: Layout) -> Terms:
    """Rank 0 collects along a tree and sends back along it: log2(ranks) rounds each way, all bytes in each (S1's tree)."""
    rounds = (layout.far - 1).bit_length()
    return Terms(2 * rounds, 2 * rounds * size, rounds * size)


def linear(size: float, layout: Layout) -> Terms:
    """Rank 0 takes from every other one, and sends to every other one."""
    others = layout.far - 1
    return Terms(2 * others, 2 * others * layout.sharing * size, others * size)


def shared(size: float, layout: Layout) -> Terms:
    """Memory that a node's ranks share: two barriers, and between them each rank reads its part of all arrays and writes their sum.

    What it reads and writes is told as sent.
    """
    ranks = layout.ranks
    return Terms(2 * (ranks - 1).bit_length(), (1 + 1 / ranks) * size, 0.0)


def whole(size: float, layout: Layout) -> Terms:
    """One message that takes as long as it does: for sums whose algorithm is not known, on ranks that were measured."""
    return Terms(1.0, size, 0.0)


def ended(name: str, layout: Layout) -> float:
    """When a rank has ended, in the mean over ranks, as a part of when the last one has; counted in bytes alone."""
    ranks = layout.far
    if name == "binomial" and ranks > 1:
        rounds = (ranks - 1).bit_length()
        ends = _ends(0, 1 << rounds, rounds, ranks)
        return sum(ends) / len(ends) / (2 * rounds)
    if name in ("recursive-doubling", "rabenseifner"):
        folded = 2 * (ranks - (1 << _rounds(ranks)[0]))
        early = 1 - folded / ranks if folded else 0.0  # these do not give anything back in the end
        return 1 - early / max(FORMULAS[name](1.0, layout).sent, 1.0)
    return 1.0


def _ends(rank: int, distance: int, began: int, ranks: int) -> list[int]:
    """When a rank of a tree has sent to all below it, and when they have to those below them, in messages of all bytes."""
    below = []
    while distance > 1:
        distance //= 2
        if rank + distance < ranks:
            began += 1
            below += _ends(rank + distance, distance, began, ranks)
    return [began, *below]


def _rounds(ranks: int) -> tuple[int, int]:
    """The power of two that ranks hold, and whether there are more."""
    rounds = ranks.bit_length() - 1
    return rounds, int(ranks > 1 << rounds)


Formula = Callable[[float, Layout], Terms]
FORMULAS: dict[str, Formula] = {
    "ring": ring,
    "recursive-doubling": recursive_doubling,
    "rabenseifner": rabenseifner,
    "binomial": binomial,
    "linear": linear,
    "shared": shared,
    "whole": whole,
}
"""By name."""

OURS = ("ring", "recursive-doubling", "rabenseifner", "binomial")
"""Those that `comm.links` sums by; others are a library's."""
