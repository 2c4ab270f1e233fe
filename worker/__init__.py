"""One training attempt: a CIFAR-10 model with a chosen normalization, trained at a chosen batch size.

The modules at the top and `normalizations` are light: they need the standard library, pydantic and psutil alone, so
that the service reads a job and its reports without torch. `normalizations.layers` is not. The packages import
downwards only:

    process                the Ray actor and the process in which it trains
    training               the loop, its optimizer, evaluation and telemetry
    checkpoints            saved trainings
    models                 the networks
    normalizations.layers  the normalization layers
    distributed            the process group of a job with several workers
    data                   datasets and batches
    numerics               precision, memory format, random numbers
    spec, recipes, architecture, normalizations, events, metrics, validation, folders, stopped

`worker` imports `gn` and no other package of this project; only `worker.process.actor` imports Ray.
"""
