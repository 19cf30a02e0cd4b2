"""The source documents' comparisons, repeated on this machine.

Garg, Joshi and Sahu's seven ways to convolve: seconds a training iteration of their network, and the test accuracy after an epoch;
Rendon and Sanseviero's epoch of theirs; Chavan and Kulkarni's time over networks of different sizes. The layers that do not
convolve are NumPy's in all ways that are not a whole network of their own (ours, PyTorch). All start from the same parameters,
take the same batches in the same order, and come to the same parameters but for roundings.

The JSON file:
    processor, processes, vector_lanes, torch_version, images
        where this was measured (processes: of the parallel ways; torch_version: null without PyTorch), on which images
    garg, rendon, chavan
        lists of what each way came to: network, way, batch, processes; images of a step that was timed, and how many steps were;
        seconds a step of `batch` images; epoch_images, and epoch_seconds for these; test_accuracy after the epoch, null where it
        was not finished (epoch_seconds is then what the steps let expect) or there are no test images (chavan)
    garg, moreover
        speedup_over_naive, speedup_over_serial    times as fast as the naive loops, as the same way in one process (else null)
    printed
        {garg, rendon}: {way: [{seconds: {batch: value}, accuracy: {batch: value}, cores, name}]}, as in the documents: garg's
        seconds are of an iteration, rendon's of an epoch of 50,000 images; cores null where they are not told
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from distsgd import data, network, zoo
from distsgd.bench import pytorch
from distsgd.bench.convolution import contestants, figure, printed, tables
from distsgd.bench.convolution.measuring import Measured, held_out, measured
from distsgd.bench.images import images_for
from distsgd.bench.output import check_file, check_picture
from distsgd.bench.training import SGD, Task
from distsgd.comm import Alone
from distsgd.config import InputError
from distsgd.data import Description
from distsgd.kernels.vector import VECTOR
from distsgd.launcher import processors
from distsgd.machine.where import processor
from distsgd.optim import Adam, Optimizer
from distsgd.record import as_json, write_whole

GARG_BATCHES, RENDON_BATCH, CHAVAN_BATCH = (64, 32), 32, 64
GARG_ADAM = Adam(0.001, 0.95, 0.99, 1e-8)
RENDON_ADAM = Adam(0.001, 0.9, 0.999, 1e-8)
KERNELS, FILTERS, UNITS = (3, 5, 7), (10, 50, 100), (50, 100, 200)
"""The grid of Chavan and Kulkarni's networks K-F-H."""
CHAVAN_STEPS = 20


def convolution(
    source: str,
    json_path: Path | None,
    plot_path: Path | None,
    say: Callable[[str], None],
    now: Callable[[], int] = time.perf_counter_ns,
) -> None:
    """Measure all, say a line for each and then the tables; write JSON and a picture where wanted.

    source: a file of images or an embedded set. InputError before anything is measured where that or a folder is wrong.
    """
    described = data.describe(data.locate(source))
    there, wanted = described.counts["train"], 2 * max(GARG_BATCHES)  # the first step only begins
    if there < wanted:
        raise InputError(f"{source} has {there} training images; wanted are two batches, {wanted}, at least")
    check_file("--json", json_path)
    check_picture(plot_path)
    against, processes = find_spec("torch") is not None, len(processors())
    about: dict[str, Any] = {"processor": processor(), "processes": processes, "vector_lanes": VECTOR}
    about |= {"torch_version": pytorch.version(Alone()) if against else None, "images": source}
    say(tables.heading(about))
    found: dict[str, list[Measured]] = {"garg": [], "rendon": [], "chavan": []}
    with pytorch.process_group(Alone()) if against else contextlib.nullcontext():
        for name, each in _all(described, source, processes, against, now):
            say(tables.progress(each))
            found[name].append(each)
    say(tables.garg(found["garg"]))
    say(tables.rendon(found["rendon"]))
    say(tables.chavan(found["chavan"]))
    if json_path:
        write_whole(json_path, as_json(about | _facts(found)))
    if plot_path:
        figure.draw(plot_path, found)


def _all(
    described: Description, source: str, processes: int, against: bool, now: Callable[[], int]
) -> Iterator[tuple[str, Measured]]:
    """The name of the comparison, and what a way came to."""
    test, images = held_out(described), described.counts["train"]
    for batch in GARG_BATCHES:
        task = _task("garg", described, source, batch, images, GARG_ADAM)
        for way in contestants.of_garg(processes, against):
            yield "garg", measured(way, task, test, now)
    images = min(images, printed.RENDON_IMAGES)
    task = _task("rendon", described, source, RENDON_BATCH, images, RENDON_ADAM)
    for way in contestants.of_rendon(against):
        yield "rendon", measured(way, task, test, now)
    for size in product(KERNELS, FILTERS, UNITS):
        name = "chavan-{}-{}-{}".format(*size)
        task = _task(name, described, source, CHAVAN_BATCH, CHAVAN_STEPS * CHAVAN_BATCH, SGD)
        for way in contestants.of_chavan(against):
            yield "chavan", measured(way, task, None, now)


def _task(
    name: str, described: Description, source: str, batch: int, images: int, optimizer: Optimizer
) -> Task:
    """Whole batches of so many images: those that fill none are left out."""
    chosen = images_for(name, source, described, images // batch * batch, Alone())
    stages = network.plan(zoo.layers(name, chosen.classes), chosen.shape)
    return Task(name, stages, chosen, batch, Alone(), optimizer)


def _facts(found: dict[str, list[Measured]]) -> dict[str, Any]:
    facts: dict[str, Any] = {name: [asdict(each) for each in those] for name, those in found.items()}
    for each, row in zip(found["garg"], facts["garg"], strict=True):
        row["speedup_over_naive"] = tables.over_naive(found["garg"], each)
        row["speedup_over_serial"] = tables.over_serial(found["garg"], each)
    shown = {"garg": printed.GARG, "rendon": printed.RENDON}
    facts["printed"] = {
        name: {way: [asdict(one) for one in those] for way, those in ways.items()}
        for name, ways in shown.items()
    }
    return facts
