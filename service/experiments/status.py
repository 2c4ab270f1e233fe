"""The status of an experiment, which follows from those of its jobs, and what may be done in each."""

from service.jobs import Described


class ExperimentStatus(Described):
    """The status of an experiment."""

    QUEUED = "queued", "Every job waits for a free worker."
    RUNNING = "running", "Some jobs have started, and some have not ended."
    PAUSING = "pausing", "The workers were asked to save checkpoints and stop."
    PAUSED = "paused", "No job runs until the experiment is resumed."
    CANCELLING = "cancelling", "The workers were asked to stop."
    CANCELLED = "cancelled", "Stopped for good on request. Jobs that had ended keep their results."
    FINISHED = "finished", "Every job has ended, and no more seeds are needed."


class ExperimentAction(Described):
    """What a client may ask of an experiment."""

    PAUSE = "pause", "Have every job save a checkpoint and stop until the experiment is resumed."
    RESUME = "resume", "Return every paused job to the queue."
    CANCEL = "cancel", "Stop every job for good. Jobs that have ended keep their results."
    EXTEND = "extend", "Add seeds or other values to the grid. An experiment with sequential seeds cannot be extended."
    DELETE = "delete", "Delete the experiment with all its jobs and their checkpoints."


ENDED = frozenset({ExperimentStatus.CANCELLED, ExperimentStatus.FINISHED})
"""The statuses of an experiment of which every job has ended."""

EXPERIMENT_ACTIONS: dict[ExperimentStatus, frozenset[ExperimentAction]] = {
    ExperimentStatus.QUEUED: frozenset({ExperimentAction.EXTEND, ExperimentAction.PAUSE, ExperimentAction.CANCEL}),
    ExperimentStatus.RUNNING: frozenset({ExperimentAction.EXTEND, ExperimentAction.PAUSE, ExperimentAction.CANCEL}),
    ExperimentStatus.PAUSING: frozenset({ExperimentAction.EXTEND, ExperimentAction.CANCEL}),
    ExperimentStatus.PAUSED: frozenset({ExperimentAction.EXTEND, ExperimentAction.RESUME, ExperimentAction.CANCEL}),
    ExperimentStatus.CANCELLING: frozenset(),
    ExperimentStatus.CANCELLED: frozenset({ExperimentAction.DELETE}),
    ExperimentStatus.FINISHED: frozenset({ExperimentAction.EXTEND, ExperimentAction.DELETE}),
}
"""The actions that change an experiment in each status."""
