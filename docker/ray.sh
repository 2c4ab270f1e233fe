#!/bin/sh
# What talks to Ray, once its token is there: its head (which works not itself), a worker node, the dispatcher; or whether
# Ray answers.
set -eu
token=/run/ray/token
until [ -s "$token" ]; do sleep 0.2; done
RAY_AUTH_TOKEN=$(cat "$token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
role=${1:-}
head=${NORMLAB_RAY_ADDRESS:-ray-head:6379}
# With detached actors alive, Ray would take half a minute to stop.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
# By default Ray is nice about its workers, and whatever runs beside them pushes the training aside.
export RAY_worker_niceness=0
# What an earlier start of this container left would fill the disk in time.
[ "$role" = health ] || rm -rf /tmp/ray
set -- --disable-usage-stats --object-store-memory="${RAY_OBJECT_STORE_BYTES:-500000000}"
case $role in
  head) exec ray start --head --block --port="${head##*:}" --num-cpus=0 --num-gpus=0 --include-dashboard=false "$@" ;;
  worker) exec ray start --block --address="$head" ${RAY_WORKER_CPUS:+--num-cpus=$RAY_WORKER_CPUS} "$@" ;;
  dispatcher)
    # A driver needs a node of the cluster to stand on; this one takes no work.
    ray start --address="$head" --num-cpus=0 --num-gpus=0 "$@"
    exec python -m service.dispatcher ;;
  health) exec ray health-check --address "$head" ;;
  *) echo "give one of: head, worker, dispatcher, health" >&2; exit 2 ;;
esac
