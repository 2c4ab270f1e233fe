"""What users talk to: the HTTP API, the dispatcher that hands jobs to Ray, the store, the client and the command line.

Of `worker` it imports `worker.spec`, `worker.architecture` and `worker.events`; only `service.dispatcher.cluster`, the
one file that knows Ray, also imports `worker.process.actor`. Nothing here imports torch.
"""
