"""The cache of machine code: never stale, filled by one process, private, whole after a kill; and the same bits from any code.

What the cache does is tried on a copy of compiled.py in a package of three small kernels, which compiles in a moment.
"""

import hashlib
import importlib
import os
import pkgutil
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import numpy as np
import psutil
import pytest
from conftest import clean_environment, end, finish

import distsgd.kernels
from distsgd.kernels import compiled, fixedpoint, update
from distsgd.kernels.batch import draw_windows
from distsgd.kernels.vector import FUSED, VECTOR, aligned
from distsgd.layers import (
    Convolution,
    Dense,
    Dropout,
    MaxPool,
    Rectifier,
    ResponseNormalization,
    convolution_passes,
    convolution_patches,
)
from distsgd.network import Network, initialize, plan, tensors
from distsgd.optim import Adam, Sgd

SCALED = """
import os
from distsgd.kernels.compiled import inlined

@inlined
def scaled(x):
    return 2.0 * x

def note(kernel):
    if sum(kernel.stats.cache_misses.values()):
        with open(os.environ["TOY_LOG"], "a") as log:
            print(kernel.__name__, file=log)
"""
TWICE = """
from distsgd.kernels.compiled import compiled
from distsgd.kernels.scaled import note, scaled

@compiled("float64(float64)")
def twice(x):
    return scaled(x)

note(twice)
"""
THRICE = """
import os, time
from distsgd.kernels.compiled import compiled
from distsgd.kernels.scaled import note, scaled

if os.environ.get("TOY_FAILS"):
    raise ImportError("as asked")
if os.environ.get("TOY_STOPS"):
    print("stopped", flush=True)
    time.sleep(60)

@compiled("float64(float64)")
def thrice(x):
    return scaled(x) + x

note(thrice)
"""
PRODUCT = """
from distsgd.kernels.compiled import compiled
from distsgd.kernels.scaled import note
from distsgd.kernels.thrice import thrice
from distsgd.kernels.twice import twice

@compiled("float64(float64)")
def product(x):
    return twice(x) * thrice(x)

note(product)
"""
PACKAGE = """
import importlib
from distsgd.kernels.compiled import filled_once, modules_to_compile

with filled_once(("twice", "scaled thrice"), ("product",)):
    for module in modules_to_compile() or ("twice", "thrice", "product"):
        importlib.import_module(f"distsgd.kernels.{module}")
"""
SHOW = "from distsgd.kernels import twice, thrice; print(twice.twice(10.0), thrice.thrice(10.0))"
ALL = ["product", "thrice", "twice"]
"""The first in the second round: its code names the others."""


class Toy:
    """A package of that name with three kernels, a cache of its own, and processes that import it."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.kernels, self.log = folder / "cache", folder / "distsgd" / "kernels", folder / "log"
        self.environment = {
            "PYTHONPATH": str(folder),
            "DISTSGD_CACHE": str(self.cache),
            "TOY_LOG": str(self.log),
        }
        self.kernels.mkdir(parents=True)
        (self.kernels.parent / "__init__.py").touch()  # or an installed package of that name would win
        self.cache.mkdir(mode=0o700)
        shutil.copy(str(compiled.__file__), self.kernels / "compiled.py")
        texts = {"__init__": PACKAGE, "scaled": SCALED, "twice": TWICE, "thrice": THRICE, "product": PRODUCT}
        for name, text in texts.items():
            (self.kernels / f"{name}.py").write_text(text)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Begin a process that imports the package and prints what its kernels make of 10."""
        return begin(SHOW, {**self.environment, **environment}, cwd=self.cache.parent)

    def run(self, **environment: str) -> str:
        return output(self.start(**environment))

    def compiled(self) -> list[str]:
        """What was compiled since this was last asked, by whichever process."""
        names = sorted(self.log.read_text().split()) if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return names

    @property
    def folder(self) -> Path:
        """The one folder in the cache."""
        (only,) = self.cache.iterdir()
        return only


def begin(code: str, environment: dict[str, str], cwd: Path | None = None) -> subprocess.Popen[str]:
    """Begin a Python. No .pyc: it would be as stale as what is tested."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        env=clean_environment({}) | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def started(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """A process and the children that compile for it, which are in sessions of their own."""
    return [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]


def kill(process: subprocess.Popen[str]) -> None:
    """End a process and all it started."""
    if process.poll() is None:
        end(started(process))
    process.communicate()


def output(process: subprocess.Popen[str], timeout: float = 600) -> str:
    try:
        out, error = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert process.returncode == 0, error
    return out.strip()


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_changed_code_is_compiled_anew_even_where_nothing_but_its_text_shows_it(toy: Toy) -> None:
    # It changes in another file than the kernels', keeping size and time: Numba's own cache sees nothing.
    assert toy.run() == "20.0 30.0"
    assert toy.compiled() == ALL
    source = toy.kernels / "scaled.py"
    times = source.stat()
    source.write_text(SCALED.replace("2.0", "5.0"))
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert toy.run() == "50.0 60.0"
    assert toy.compiled() == ALL
    source.write_text(SCALED)
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert toy.run() == "20.0 30.0"
    assert toy.compiled() == []


@pytest.mark.parametrize("ranks", [1, 5])
def test_of_many_cold_processes_one_compiles_and_the_others_load(toy: Toy, ranks: int) -> None:
    shown = [output(process) for process in [toy.start() for _ in range(ranks)]]
    assert shown == ["20.0 30.0"] * ranks
    assert toy.compiled() == ALL


def stopped(toy: Toy) -> subprocess.Popen[str]:
    """A process that holds the lock, with one of three kernels compiled."""
    process = toy.start(TOY_STOPS="1")
    assert process.stdout is not None
    assert process.stdout.readline() == "stopped\n"
    while not list(toy.cache.rglob("*twice*.nbc")):
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("all_of_it", [True, False], ids=["with its children", "alone"])
def test_a_process_waits_for_the_one_that_compiles_and_takes_over_when_that_is_killed(
    toy: Toy, all_of_it: bool
) -> None:
    first = stopped(toy)
    processes, waiting = started(first), toy.start()
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(2)
    assert toy.compiled() == ["twice"]
    end(processes if all_of_it else processes[-1:])
    assert output(waiting) == "20.0 30.0"
    assert toy.compiled() == ["product", "thrice"]
    assert toy.run() == "20.0 30.0"
    assert toy.compiled() == []
    end(processes)
    first.communicate()


def test_a_second_installation_of_the_same_package_is_compiled_by_one_process_too(
    toy: Toy, tmp_path: Path
) -> None:
    # Numba keeps code by the sources' place: a cache that is full for one place is empty for the other.
    toy.run()
    toy.compiled()
    shutil.copytree(tmp_path / "distsgd", tmp_path / "second" / "distsgd")
    there = {"PYTHONPATH": str(tmp_path / "second")}
    assert [output(process) for process in [toy.start(**there) for _ in range(3)]] == ["20.0 30.0"] * 3
    assert toy.compiled() == ALL


def test_children_do_not_import_what_lies_in_the_current_folder(toy: Toy, tmp_path: Path) -> None:
    decoy = tmp_path / "here" / "distsgd" / "kernels"
    decoy.mkdir(parents=True)
    (decoy.parent / "__init__.py").touch()
    (decoy / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert output(begin(SHOW, toy.environment, cwd=tmp_path / "here")) == "20.0 30.0"
    assert not (tmp_path / "ran").exists()


def test_children_use_the_folder_that_stands_in_for_a_refused_one(toy: Toy, tmp_path: Path) -> None:
    spare = tmp_path / "spare"
    (spare / f"distsgd-{os.getuid()}").mkdir(parents=True)
    (spare / f"distsgd-{os.getuid()}").chmod(0o777)
    assert toy.run(TMPDIR=str(spare), DISTSGD_CACHE="") == "20.0 30.0"
    assert toy.compiled() == ALL
    assert len(list(spare.iterdir())) == 2


def test_a_full_cache_makes_nobody_wait(toy: Toy) -> None:
    toy.run()
    inside = stopped(toy)
    assert output(toy.start(), timeout=20) == "20.0 30.0"
    assert toy.compiled() == ALL
    kill(inside)


def test_a_kill_between_index_and_code_leaves_a_cache_that_works(toy: Toy) -> None:
    toy.run()
    (toy.folder / "full").unlink()
    codes = list(toy.cache.rglob("*.nbc"))
    assert len(codes) == len(ALL)
    for code in codes:
        code.unlink()
    toy.compiled()
    for again in (ALL, []):
        assert toy.run() == "20.0 30.0"
        assert toy.compiled() == again


def test_a_failed_import_shows_why_and_does_not_call_the_cache_full(toy: Toy) -> None:
    failed = toy.start(TOY_FAILS="1")
    assert "as asked" in failed.communicate()[1]
    assert failed.returncode != 0
    assert not (toy.folder / "full").exists()
    toy.compiled()
    assert toy.run() == "20.0 30.0"
    assert toy.compiled() == ["product", "thrice"]
    assert (toy.folder / "full").exists()


def test_numbas_own_cache_is_where_it_was_afterwards(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTSGD_CACHE", str(toy.cache))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "elsewhere")
    with compiled.filled_once():
        inside = numba.config.CACHE_DIR
    assert inside == str(compiled.cache_folder())
    assert numba.config.CACHE_DIR == "elsewhere"
    with pytest.raises(KeyError), compiled.filled_once():
        raise KeyError
    assert numba.config.CACHE_DIR == "elsewhere"


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "features": lambda patch: patch.setattr(numba.config, "CPU_FEATURES", "+sse2"),
    "processor": lambda patch: patch.setattr(numba.config, "CPU_NAME", "skylake"),
    "vector": lambda patch: patch.setenv("DISTSGD_VECTOR", "2"),
    "numba": lambda patch: patch.setattr(numba, "__version__", "0.0"),
    "llvmlite": lambda patch: patch.setattr(compiled.llvmlite, "__version__", "0.0"),
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private folder, chosen by DISTSGD_CACHE."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("DISTSGD_CACHE", str(folder))
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_other_surroundings_have_another_folder(
    cache: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    before = compiled.cache_folder()
    assert before.parent == cache
    assert compiled.cache_folder() == before
    CHANGES[change](monkeypatch)
    assert compiled.cache_folder() != before
    assert compiled.cache_folder().parent == cache


def test_every_source_is_in_the_folders_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "kernels"
    shutil.copytree(Path(str(compiled.__file__)).parent, copy)
    monkeypatch.setattr(compiled, "__file__", str(copy / "compiled.py"))
    names = {compiled.cache_folder()}
    sources = sorted(copy.glob("*.py"))
    for source in sources:
        source.write_bytes(source.read_bytes() + b"\n")
        names.add(compiled.cache_folder())
    assert len(names) == 1 + len(sources)


def is_private(folder: Path) -> bool:
    seen = folder.stat()
    return seen.st_uid == os.getuid() and not seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is used where none is chosen."""
    monkeypatch.delenv("DISTSGD_CACHE", raising=False)
    monkeypatch.setattr(compiled.tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"distsgd-{os.getuid()}"
    folder.mkdir(mode=0o700)
    return folder


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702, 0o1777])
def test_a_folder_that_others_can_write_to_is_not_used(usual: Path, mode: int) -> None:
    assert compiled.cache_folder().parent == usual
    usual.chmod(mode)
    used = compiled.cache_folder().parent
    assert used != usual
    assert is_private(used)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_used(usual: Path) -> None:
    os.chown(usual, 12345, 12345)
    used = compiled.cache_folder().parent
    assert used != usual
    assert is_private(used)


def test_a_folder_that_was_chosen_is_used_whoever_may_write_to_it(cache: Path) -> None:
    cache.chmod(0o775)
    assert compiled.cache_folder().parent == cache


def test_without_a_choice_the_folder_is_private_and_in_the_temporary_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTSGD_CACHE", raising=False)
    monkeypatch.setattr(compiled.tempfile, "tempdir", str(tmp_path))
    before = os.umask(0)
    try:
        used = compiled.cache_folder().parent
    finally:
        os.umask(before)
    assert used.parent == tmp_path
    assert is_private(used)
    assert compiled.cache_folder().parent == used


SCALAR = "distsgd.kernels.scalar"
"""For one benchmark, which compiles it when it is asked for."""


def kernels() -> Iterator[numba.core.dispatcher.Dispatcher]:
    """Every compiled function of the package, not those that are a part of others."""
    for module in pkgutil.iter_modules(distsgd.kernels.__path__):
        names = vars(importlib.import_module(f"distsgd.kernels.{module.name}"))
        for thing in names.values():
            if isinstance(thing, numba.core.dispatcher.Dispatcher) and thing._can_compile is False:
                yield thing


def test_every_kernel_has_one_signature_and_no_fast_math() -> None:
    found = list(kernels())
    assert len(found) > 10
    for kernel in found:
        assert len(kernel.signatures) == 1
        assert not kernel.targetoptions.get("fastmath")
        assert kernel.targetoptions["_nrt"] is False  # it could not allocate an array
        assert kernel.targetoptions["nogil"] is True  # or a thread that prefetches would wait for it


# Recorded once, with fused multiply-adds. It changes only if every experiment's results may change.
GOLDEN_MOVED = "69f6daef91446ec1d8613f390b213d7c75466f9e3a7fa7211789297d1cac8c41"
GOLDEN_WEIGHTS = "4c3ae1304edd2629c8712553f7a21d19783e4b759a0ee81c16ee8857719821c2"


def trained(moved: bool = False) -> str:
    """The SHA-256 of a small network's weights after some steps: every kind of kernel, wide and narrow; `moved`: windows too."""
    stack = [Convolution(4, 3, "same"), Rectifier(), MaxPool(2), Convolution(3, 5, "same"), Rectifier()]
    stack += [Convolution(6, 2, "same"), Rectifier(), Convolution(24, 5, "same"), Rectifier(), MaxPool(2)]
    stack += [Dropout(0.3), Convolution(5, 3), Rectifier(), Dense(21), Rectifier(), Dropout(0.5), Dense(7)]
    stages, random = plan(stack, (2, 16, 24)), np.random.Philox(key=3)
    images = random.random_raw(60 * 96).view(np.uint8).reshape(60, 16, 24, 2)
    labels, order = (random.random_raw(60) % 7).astype(np.int64), np.arange(60)
    state = aligned(3 * sum(tensor.size for tensor in tensors(stages)))
    network = Network(stages, 23, state[: state.size // 3])
    initialize(network.parameters, stages, 9)
    steps = Adam(0.01, 0.9, 0.999, 1e-8).bind(state, network.gradient)
    network.class_weights[:] = np.arange(7) / 3 if moved else 1
    windows, draw = np.zeros((23, 3), np.int64), np.arange(3, dtype=np.uint64)
    for number in range(8):
        draw_windows(draw, number * 4, 0, 0, 2, True, windows)
        seen = windows if moved else None
        network.batches[0].fill(
            images, labels, order, number * 4, 23, np.float32([[127, 120], [0.01, 0.02]]), seen
        )
        network.learn(1, 2, number)
        steps.step(number + 1)
    return hashlib.sha256(state).hexdigest()


def updated() -> str:
    """The SHA-256 of norms and of what both optimizers make of a state with clipping, decay and Nesterov's momentum."""
    hashes, tensors = hashlib.sha256(), [(900, True), (7, False), (93, True)]
    for settings in (Sgd(0.1, 0.9, True, 0.01, 3.0), Adam(0.01, 0.9, 0.99, 1e-8, 0.1, 3.0)):
        numbers = np.random.Philox(key=4).random_raw(5000).astype(np.float32) / np.float32(
            2**63
        ) - np.float32(1)
        state, gradient = numbers[: 1000 * (1 + settings.moments)], numbers[4000:]
        state[2000:] = abs(state[2000:])
        steps = settings.bind(state, gradient, tensors, lambda number: 0.1 / number)
        for number in range(1, 4):
            steps.step(number)
        hashes.update(state)
        hashes.update(np.float64([update.norm(state[:n], np.zeros(update.CHAINS)) for n in range(1, 1000)]))
    return hashes.hexdigest()


def normalized() -> str:
    """The SHA-256 of the gradient of a network with response normalizations, by two roots and by many."""
    stack = [Convolution(6, 2, "same"), Rectifier(), ResponseNormalization(alpha=0.5), MaxPool(3, 2)]
    stages = plan([*stack, ResponseNormalization(4, 0.3, 0.6, 1.5), Dense(7)], (2, 9, 12))
    images = np.random.Philox(key=5).random_raw(23 * 27).view(np.uint8).reshape(23, 9, 12, 2)
    network = Network(stages, 23, aligned(sum(tensor.size for tensor in tensors(stages))))
    initialize(network.parameters, stages, 9)
    scaling = np.float32([[127, 120], [0.01, 0.02]])
    network.batches[0].fill(images, np.arange(23) % 7, np.arange(23), 0, 23, scaling)
    network.learn(1, 2, 3)
    return hashlib.sha256(network.gradient).hexdigest()


def by_patches() -> str:
    """The SHA-256 of the gradient of a network that reads windows by patches, and sums these in runs."""
    stages = plan(
        [
            Convolution(32, 3, "same"),
            Rectifier(),
            Convolution(36, 3, "same"),
            Rectifier(),
            MaxPool(2),
            Dense(7),
        ],
        (1, 16, 18),
    )
    pooled = stages[1]
    assert isinstance(pooled.layer, Convolution)
    assert convolution_passes.reads_windows(pooled.layer, pooled.shape)
    window = convolution_passes.window_forward(pooled.layer, pooled.shape, 16)
    assert convolution_patches._runs(window, pooled.layer.filters) > 1
    images = np.random.Philox(key=7).random_raw(23 * 39).view(np.uint8)[: 23 * 288].reshape(23, 16, 18, 1)
    network = Network(stages, 23, aligned(sum(tensor.size for tensor in tensors(stages))))
    initialize(network.parameters, stages, 9)
    network.batches[0].fill(images, np.arange(23) % 7, np.arange(23), 0, 23, np.float32([[127], [0.01]]))
    network.learn(1, 2, 3)
    return hashlib.sha256(network.gradient).hexdigest()


def averaged() -> str:
    """The SHA-256 of sums in fixed point, large and small ones, with ties and with refused values, and of their mean."""
    numbers = np.random.Philox(key=6).random_raw(3 * 91).view(np.int64)
    states = (numbers.astype(np.float64) / 2.0**60).astype(np.float32).reshape(3, 91)
    states[:, ::5] = np.round(4 * states[:, ::5]) / 4  # times 2 and an odd weight: halves
    total, mean, largest = np.full(91, 11), np.zeros(91, np.float32), np.zeros(2, np.float32)
    segments, limits, scales = np.array([37, 54]), np.array([4.0, 7.0]), np.array([2.0, 2.0**24])
    told = []
    for worker, state in enumerate(states):
        told.append(
            fixedpoint.add_fixed(state, 60_001 + 2 * worker, segments, limits, scales, worker == 0, total)
        )
    assert all(told)
    fixedpoint.divide_fixed(total, 180_009, segments, scales, largest, mean)
    return hashlib.sha256(total.tobytes() + mean.tobytes() + f"{told} {largest}".encode()).hexdigest()


def compiled_here() -> int:
    """How many of the package's kernels this process compiled itself."""
    own = (kernel for kernel in kernels() if kernel.__module__ != SCALAR)
    return sum(sum(kernel.stats.cache_misses.values()) for kernel in own)


def fewer_features() -> str:
    """The processor's features as LLVM has them, less the widest family of vectors."""
    features = compiled.processor_features().split(",")
    widest = "+avx512" if "+avx512f" in features else "+avx2"
    return ",".join(f"-{name[1:]}" if name.startswith((widest, "+evex512")) else name for name in features)


OTHER_WIDTHS = [width for width in (4, 8, 16) if width != VECTOR]
LESSER = 8 if VECTOR == 16 else VECTOR
"""The width of processors that have some features fewer."""
WIDER = "+avx2" in compiled.processor_features().split(",")
"""Whether there are features to do without."""
RANKS = 4
TRAIN = (
    "from test_compiled import averaged, by_patches, compiled_here, normalized, trained, updated;"
    " print(trained(), trained(True), updated(), normalized(), averaged(), by_patches(), compiled_here())"
)


def right() -> str:
    """What that prints where it compiles nothing itself."""
    return f"{trained()} {trained(True)} {updated()} {normalized()} {averaged()} {by_patches()} 0"


def train(cache: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Begin a process that compiles the kernels or waits for them; it prints its hash and how many it compiled itself."""
    root = Path(__file__).resolve().parent
    path = os.pathsep.join([str(root.parent), str(root)])
    return begin(TRAIN, {"PYTHONPATH": path, "DISTSGD_CACHE": str(cache), **environment})


def kill_halfway(cache: Path, environment: dict[str, str]) -> None:
    """Compile the package's kernels until some are in the cache, then kill the process."""
    process = train(cache, environment)
    while len(list(cache.rglob("*.nbc"))) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    kill(process)
    assert not list(cache.rglob("full"))


@pytest.fixture(scope="module")
def hashes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What other code finds, each compiled cold: one after a kill, one by four processes at once."""
    cache = tmp_path_factory.mktemp("cache")
    cache.chmod(0o700)
    fewer = {"NUMBA_CPU_FEATURES": fewer_features()} if WIDER else {}
    one, other = (
        {"DISTSGD_VECTOR": str(width), **(fewer if width == LESSER else {})} for width in OTHER_WIDTHS
    )
    kill_halfway(cache, one)
    running = {"killed": [train(cache, one)], "together": [train(cache, other) for _ in range(RANKS)]}
    if WIDER and LESSER == VECTOR:
        running["fewer features"] = [train(cache, fewer)]
    return {name: [output(process) for process in processes] for name, processes in running.items()}


def test_bits_do_not_depend_on_the_vectors_width(hashes: dict[str, list[str]]) -> None:
    assert {hashes["killed"][0], hashes["together"][0]} == {right()}


def test_bits_do_not_depend_on_the_processors_features(hashes: dict[str, list[str]]) -> None:
    if not WIDER:
        pytest.skip("NOT SHOWN: this processor has no AVX2 with fused multiply-adds to switch off")
    of_width = dict(zip(OTHER_WIDTHS, ("killed", "together"), strict=True))
    assert hashes[of_width.get(LESSER, "fewer features")][0] == right()


def test_four_cold_ranks_at_once_are_all_right_and_compile_nothing_themselves(
    hashes: dict[str, list[str]],
) -> None:
    assert hashes["together"] == [right()] * RANKS


def test_a_compilation_that_was_killed_leaves_a_cache_that_works(hashes: dict[str, list[str]]) -> None:
    assert hashes["killed"] == [right()]


@pytest.mark.skipif(not FUSED, reason="NOT SHOWN: without fused multiply-adds the bits are others")
def test_the_weights_are_what_they_always_were() -> None:
    assert trained() == GOLDEN_WEIGHTS
    assert trained(moved=True) == GOLDEN_MOVED


BOUND = """
import os
from distsgd.kernels.compiled import _on_all_cores
one = {min(os.sched_getaffinity(0))}
os.sched_setaffinity(0, one)
with _on_all_cores():
    print(sorted(os.sched_getaffinity(0)))
print(os.sched_getaffinity(0) == one)
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="NOT SHOWN: processes are not bound here")
def test_compilers_are_not_bound_to_the_core_of_the_rank_that_starts_them() -> None:
    done = finish([sys.executable, "-c", BOUND])
    assert done.stdout.splitlines() == [str(sorted(os.sched_getaffinity(0))), "True"]
