"""A filter for a process's native stderr: it prints one line in place of the stack trace with which JAX aborts.

If another process dies, JAX's C++ code writes twenty lines and aborts, and no Python code of this process runs any
more. Therefore `distributed` starts this file as a script that reads those lines. All others are passed on unchanged.
"""

import io
import json
import signal
import sys

LOST = (
    "another process of this run has stopped; its own output says why. "
    "Start the same command again to continue from the last checkpoint, with any number of processes"
)
NOT_MET = (
    "not all processes have connected: start --num_processes of them, each of which must be able to reach process 0's "
    "host and port"
)
FATAL = b"JAX distributed service detected fatal errors"
PRELUDE = b"Polled an error from coordination service"  # JAX 0.10 logs it, without the error, before FATAL
OWN = b"gz_jax: "  # begins a line of JSON: the process's own message, shown in place of LOST


def own(text: str) -> bytes:
    """A line for the filter, which then shows `text` whatever else JAX writes."""
    return OWN + json.dumps(text).encode() + b"\n"


def main() -> None:
    said = False
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the process that it reads from ends
    for line in sys.stdin.buffer:
        if FATAL in line:
            rest = sys.stdin.buffer.readlines()
            last = [shown for line in rest if (shown := _own(line))]
            if not last and not said:
                last = [f"error: {NOT_MET if b'RegisterTask' in b''.join(rest) else LOST}"]
            print("\n".join(last), end="\n" if last else "")
            return
        if shown := _own(line):
            said = True
            print(shown, flush=True)
        elif PRELUDE not in line:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


def _own(line: bytes) -> str:
    try:
        return json.loads(line.removeprefix(OWN)) if line.startswith(OWN) else ""
    except ValueError:
        return line.decode(errors="replace").rstrip()


if __name__ == "__main__":
    main()
