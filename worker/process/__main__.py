"""`python -m worker.process FD`: the training process, connected to its actor by the file descriptor FD."""

import signal
import sys
from multiprocessing.connection import Connection

if __name__ == "__main__":
    # Ctrl-C in a terminal signals every process of its group, but this one ends when its connection is closed. The
    # signal is ignored before the import of torch, which takes seconds.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from worker.process.child import Child

    Child(Connection(int(sys.argv[1]))).run()
