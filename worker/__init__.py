"""One training attempt: a CIFAR-10 model with a chosen normalization, trained at a chosen batch size.

Imports `gn` and nothing else of ours; Ray only in `worker.actor`. `worker.spec`, `worker.recipes`, `worker.events` and
`worker.architecture` need pydantic alone, so that the service can read and check a job without torch.
"""
