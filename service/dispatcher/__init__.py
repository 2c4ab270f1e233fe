"""The dispatcher: starts queued jobs on training workers of a Ray cluster, and records what they report.

One dispatcher is active, by a lease in the database; others stand by. It is the only writer of results and the only
driver of Ray. Only `cluster` imports ray. An attempt goes through `dispatcher` (claim), `attempt` (prepare, launch,
follow, decide, release), `storage` (all that it reads and writes) and `outcome` (how it ended).
"""
