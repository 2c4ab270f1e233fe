#!/bin/sh
# What talks to Ray, once its token is there: its head (which works not itself), a worker node, the dispatcher; or whether
# Ray answers. Each waits for the head, and begins anew where Ray did not start or went away: restart policies wait ever
# longer, and some give up.
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
set -- --disable-usage-stats --object-store-memory="${RAY_OBJECT_STORE_BYTES:-500000000}"

head_listens() {
  python -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)' \
    "${head%:*}" "${head##*:}" 2>/dev/null
}

# What an earlier start left would fill the disk in time.
clear_sessions() { rm -rf /tmp/ray; }

# Ends the process $1, `ray start`, once its node's raylet has been there and is gone. A raylet leaves by itself where an
# agent of it dies; `ray start` takes that for a shutdown it was told of, and stays.
watch_raylet() {
  there=''
  while kill -0 "$1" 2>/dev/null; do
    if grep -qsx raylet /proc/[0-9]*/comm; then there=yes
    elif [ -n "$there" ]; then kill -TERM "$1" 2>/dev/null || true; return
    fi
    sleep 2
  done
}

# Runs a command again and again, once Ray's head is there, until it is told to stop or succeeds.
keep() {
  child='' stopping=''
  trap 'stopping=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM INT
  while [ -z "$stopping" ]; do
    [ "$role" = head ] || head_listens || { sleep 1; continue; }
    clear_sessions
    "$@" & child=$!
    watch_raylet "$child" &
    status=0
    wait "$child" || status=$?
    # A signal ends the first wait, not the command.
    while kill -0 "$child" 2>/dev/null; do wait "$child" && status=0 || status=$?; done
    [ "$status" -ne 0 ] || exit 0
    [ "$status" -ne 2 ] || exit 2  # wrong settings: trying again would not help
    sleep 1
  done
  exit 0
}

dispatch() {
  # A driver needs a node of the cluster to stand on; this one takes no work.
  ray stop --force >/dev/null 2>&1 || true
  ray start --address="$head" --num-cpus=0 --num-gpus=0 "$@"
  exec python -m service.dispatcher
}

case $role in
  head) keep ray start --head --block --port="${head##*:}" --num-cpus=0 --num-gpus=0 --include-dashboard=false "$@" ;;
  worker) keep ray start --block --address="$head" ${RAY_WORKER_CPUS:+--num-cpus=$RAY_WORKER_CPUS} "$@" ;;
  dispatcher) keep dispatch "$@" ;;
  health) exec ray health-check --address "$head" ;;
  *) echo "give one of: head, worker, dispatcher, health" >&2; exit 2 ;;
esac
