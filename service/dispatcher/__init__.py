"""The dispatcher: hands queued jobs to training workers on Ray, and writes down what they report.

Exactly one is active, by a lease in the database; others stand by. It is the only writer of results and the only Ray
driver; `cluster` is the only file that knows Ray.
"""
