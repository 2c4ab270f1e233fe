#!/bin/sh
# Runs a process of the Ray cluster once its token exists: the head (which takes no work), a worker node, or the
# dispatcher; `health` checks whether Ray answers. Each waits for the head, and restarts if Ray fails to start or ends,
# because restart policies of containers wait longer each time, and some give up.
set -eu
token=/run/ray/token
until [ -s "$token" ]; do sleep 0.2; done
RAY_AUTH_TOKEN=$(cat "$token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
role=${1:-}
head=${NORMLAB_RAY_ADDRESS:-ray-head:6379}
# With detached actors alive, Ray would take half a minute to stop.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
# By default Ray lowers the priority of its workers, and other processes slow the training down.
export RAY_worker_niceness=0
set -- --disable-usage-stats --object-store-memory="${RAY_OBJECT_STORE_BYTES:-500000000}"

head_listens() {
  python -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)' \
    "${head%:*}" "${head##*:}" 2>/dev/null
}

# The files of earlier starts would fill the disk over time.
clear_sessions() { rm -rf /tmp/ray; }

# Ends the process $1, `ray start`, once the raylet of its node has started and exited. A raylet exits when one of its
# agents dies; `ray start` treats this as a requested shutdown and keeps running.
watch_raylet() {
  there=''
  while kill -0 "$1" 2>/dev/null; do
    if grep -qsx raylet /proc/[0-9]*/comm; then there=yes
    elif [ -n "$there" ]; then kill -TERM "$1" 2>/dev/null || true; return
    fi
    sleep 2
  done
}

# Runs a command once Ray's head listens, and repeats it until it succeeds or a signal arrives.
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
  # A driver needs a node of the cluster on its host; this node takes no work.
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
