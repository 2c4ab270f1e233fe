"""When a training reports a row, measures telemetry and takes a checkpoint: functions of the spec and the position."""

from worker.spec import TrainingSpec

TRAIN_ROWS_PER_EPOCH = 10


def is_train_row_due(spec: TrainingSpec, step_in_epoch: int) -> bool:
    """Return whether a row of train metrics is due: up to ten times per epoch, evenly, the last at its end."""
    steps, step = spec.steps_per_epoch, step_in_epoch
    return step * TRAIN_ROWS_PER_EPOCH // steps > (step - 1) * TRAIN_ROWS_PER_EPOCH // steps


def is_telemetry_due(spec: TrainingSpec, epoch: int) -> bool:
    """Return whether telemetry is measured at the end of `epoch`, from 1."""
    return spec.telemetry is not None and (epoch % spec.telemetry.every_epochs == 0 or epoch == spec.epochs)


def is_epoch_checkpoint_due(spec: TrainingSpec, epoch: int) -> bool:
    """Return whether a checkpoint is taken at the end of `epoch`, from 1."""
    return epoch % spec.checkpoint.every_epochs == 0 or epoch == spec.epochs
