"""The Ray actor of a training worker, and the process in which it trains.

`actor` and `training_process` run in the actor and do not import torch; `child` and `warmup` run in the training
process. `messages` is what the two exchange. Imports `worker.training` and every package below it.
"""
