#!/bin/sh
# Run one role of the Ray cluster once its token exists: the head (which trains nothing), a worker node, the dispatcher,
# or a health check. Each role waits for the head, and is restarted if Ray fails to start or exits.
# Restart policies of containers are not enough: they back off exponentially, and some give up.
set -eu
token=/run/ray/token
until [ -s "$token" ]; do sleep 0.2; done
RAY_AUTH_TOKEN=$(cat "$token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
role=${1:-}
head=${NORMLAB_RAY_ADDRESS:-ray-head:6379}
# Otherwise Ray waits 30 s for detached actors when it stops.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
# By default Ray raises the niceness of its workers, and other processes then take CPU time from the trainings.
export RAY_worker_niceness=0
# Every connection between Ray's processes is an open file.
ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)" 2>/dev/null || true
set -- --disable-usage-stats --object-store-memory="${RAY_OBJECT_STORE_BYTES:-500000000}"

head_listens() {
  python -c 'import socket, sys; socket.create_connection((sys.argv[1].strip("[]"), int(sys.argv[2])), 2)' \
    "${head%:*}" "${head##*:}" 2>/dev/null
}

# Sessions of earlier starts would eventually fill the disk.
clear_sessions() { rm -rf /tmp/ray; }

# Terminate the process $1, `ray start`, when the raylet of its node has exited. A raylet exits by itself if one of its
# agents dies; `ray start` treats this as a requested shutdown and keeps running. If it stops its processes for the same
# reason when the signal arrives, its handler waits for a lock that it holds itself: it is killed.
watch_raylet() {
  there=''
  while kill -0 "$1" 2>/dev/null; do
    # A raylet that `ray start` has not waited for is a zombie.
    if grep -qs '^[0-9]* (raylet) [^ZX]' /proc/[0-9]*/stat; then there=yes
    elif [ -n "$there" ]; then
      kill -TERM "$1" 2>/dev/null || return 0
      sleep 10
      kill -KILL "$1" 2>/dev/null || true
      return 0
    fi
    sleep 2
  done
}

# Run a command whenever Ray's head is reachable, until it succeeds or a signal requests to stop.
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
    # A signal interrupts the first `wait`, not the command.
    while kill -0 "$child" 2>/dev/null; do wait "$child" && status=0 || status=$?; done
    [ "$status" -ne 0 ] || exit 0
    [ "$status" -ne 137 ] || ray stop --force >/dev/null 2>&1 || true  # it was killed, and its processes may remain
    [ "$status" -ne 2 ] || exit 2  # invalid settings: a retry would fail as well
    sleep 1
  done
  exit 0
}

dispatch() {
  # A Ray driver needs a node on its machine; this one offers no resources.
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
