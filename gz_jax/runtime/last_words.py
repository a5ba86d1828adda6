"""A filter for a process's native stderr: one line instead of the stack trace with which JAX ends it.

When another process dies, JAX's C++ writes twenty lines and aborts; no Python code of the process runs any more. So
`distributed` starts this file as a script that reads those lines. Everything else is passed on as it is.
"""

import io
import json
import signal
import sys

LOST = (
    "another process of this run has stopped; its own output says why. "
    "The same command goes on from the last checkpoint, with any number of processes"
)
NOT_MET = "not all processes came; --num_processes of them must be started, and reach process 0's host and port"
FATAL = b"JAX distributed service detected fatal errors"
PRELUDE = b"Polled an error from coordination service"  # JAX 0.10 logs it, without the error, before FATAL
OWN = b"gz_jax: "  # begins a line of JSON: what the process itself says, and better than any that others have gone


def own(text: str) -> bytes:
    """Text for the filter to show, whatever JAX says beside it."""
    return OWN + json.dumps(text).encode() + b"\n"


def main() -> None:
    said = False
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when what it reads from does
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
