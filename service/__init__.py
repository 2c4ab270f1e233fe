"""The service: the HTTP API, the dispatcher of jobs to Ray, the store, the client and the command line.

From `worker` it imports `worker.spec`, `worker.architecture` and `worker.events`. The one module that imports Ray,
`service.dispatcher.cluster`, also imports `worker.process.actor`. No module of the service imports torch.
"""
