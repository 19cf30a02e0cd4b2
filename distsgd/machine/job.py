"""An experiment as a prediction sees it."""

from distsgd.plan.work import Job, Link
from distsgd.training import Experiment, replay


def job_of(experiment: Experiment, ranks: int = 1, per_node: int = 1, link: Link | None = None) -> Job:
    """On so many ranks, so many to a node. InputError where its steps are to sleep and what for can't be read."""
    train = experiment.config.train
    slept = tuple(replay.read(train.replay, train.seed).seconds.tolist()) if train.replay else ()
    about = tuple(experiment.stages), experiment.config, experiment.images, experiment.workers
    return Job(*about, ranks, per_node, link, slept=slept)
