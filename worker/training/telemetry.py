"""Telemetry: what a training measures at the end of an epoch if its spec asks for it, without changing a bit of it."""

from worker.data.batches import TrainingData
from worker.spec import TrainingSpec
from worker.training import gradient_telemetry, layer_telemetry
from worker.training.optimization import learning_rate
from worker.training.static_step import StaticStep

SIGNIFICANT_DIGITS = 4


def measure(static_step: StaticStep, spec: TrainingSpec, data: TrainingData, step: int) -> dict[str, float]:
    """Measure the telemetry of a training; its network is left in evaluation mode and is otherwise unchanged.

    The layers are measured with the weights that are evaluated, the gradient with those that are trained.

    Args:
        static_step: Has the network.
        spec: The training.
        data: Its images.
        step: Completed steps, one at least.

    Returns:
        The values of the row, by metric or by `layer/metric`.
    """
    images, labels = next(data.eval_batches(data.splits[0]))
    with static_step.evaluated_weights():
        values = layer_telemetry.measure(static_step.model, spec, images, labels, precision=static_step.precision)
    batches = gradient_telemetry.probe(spec, data)
    values |= gradient_telemetry.measure(static_step.model, spec, batches, learning_rate(spec, step - 1))
    return {name: float(f"{value:.{SIGNIFICANT_DIGITS}g}") for name, value in values.items()}
