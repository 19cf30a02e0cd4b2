"""What the processor computes with: threads, vectors, fused arithmetic."""

from collections.abc import Mapping

from distsgd import launcher
from distsgd.doctor.finding import Finding


def threads(environ: Mapping[str, str]) -> Finding:
    """One thread a rank: variables that say otherwise let ranks push each other off their cores."""
    other = {name: environ[name] for name in launcher.THREADS if environ.get(name, "1") != "1"}
    if other:
        seen = f"{', '.join(f'{name}={value}' for name, value in other.items())}; ranks want one thread each"
        return Finding("threads", "note", seen, f"unset {' '.join(other)}")
    return Finding("threads", "ok", "one a rank")


def arithmetic(environ: Mapping[str, str]) -> Finding:
    """The vectors that kernels use; without fused multiply-add they are slower and give other bits."""
    from distsgd.kernels.vector import FUSED, VECTOR

    seen = f"vectors of {VECTOR} float32"
    chosen = [
        name for name in ("DISTSGD_VECTOR", "NUMBA_CPU_FEATURES", "NUMBA_CPU_NAME") if environ.get(name)
    ]
    if not FUSED:
        seen += ", without fused multiply-add: slower, and other bits than on processors that have it"
        cure = (
            f"unset {' '.join(chosen)}" if chosen else "run on x86-64 with FMA (since 2013) or on 64-bit ARM"
        )
        return Finding("arithmetic", "note", seen, cure)
    if chosen:
        seen += f", fused; not what the processor has, but what is set: {', '.join(chosen)}"
        return Finding("arithmetic", "note", seen, f"unset {' '.join(chosen)}")
    return Finding("arithmetic", "ok", f"{seen}, fused multiply-add")
