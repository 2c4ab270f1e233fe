"""The status of an experiment, which follows from those of its jobs, and what may be done in each."""

from service.jobs import Action, Described


class ExperimentStatus(Described):
    """The status of an experiment."""

    QUEUED = "queued", "Every job waits for a free worker."
    RUNNING = "running", "Some jobs have started, and some have not ended."
    PAUSING = "pausing", "The workers were asked to save checkpoints and stop."
    PAUSED = "paused", "No job runs until the experiment is resumed."
    CANCELLING = "cancelling", "The workers were asked to stop."
    CANCELLED = "cancelled", "Stopped for good on request. Jobs that had ended keep their results."
    FINISHED = "finished", "Every job has ended, and no more seeds are needed."


ENDED = frozenset({ExperimentStatus.CANCELLED, ExperimentStatus.FINISHED})
"""The statuses of an experiment of which every job has ended."""

EXPERIMENT_ACTIONS: dict[ExperimentStatus, frozenset[Action]] = {
    ExperimentStatus.QUEUED: frozenset({Action.PAUSE, Action.CANCEL}),
    ExperimentStatus.RUNNING: frozenset({Action.PAUSE, Action.CANCEL}),
    ExperimentStatus.PAUSING: frozenset({Action.RESUME, Action.CANCEL}),
    ExperimentStatus.PAUSED: frozenset({Action.RESUME, Action.CANCEL}),
    ExperimentStatus.CANCELLING: frozenset(),
    ExperimentStatus.CANCELLED: frozenset({Action.DELETE}),
    ExperimentStatus.FINISHED: frozenset({Action.DELETE}),
}
"""The actions that change an experiment in each status."""
