"""One training attempt: a CIFAR-10 model with a chosen normalization, trained at a chosen batch size.

Imports `gn` and no other package of this project; only `worker.process.actor` imports Ray. `worker.spec`,
`worker.recipes`, `worker.events`, `worker.metrics` and `worker.architecture` import pydantic alone, so that the
service reads and checks a job without torch.
"""
