"""Starts app.py's server and a worker in C++ beside it, asks both for the same, and streams from the one in C++."""

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from anyserve import AnyserveClient
from examples._running import Server, arguments, run

WORKERS = 2
REGISTERED_SECONDS = 30.0
ENDED_SECONDS = 40.0


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--worker", metavar="PROGRAM", help="the worker in C++, as the README says how to build it")
    options = parser.parse_args()
    with contextlib.ExitStack() as running:
        address = options.address
        if address is None:
            if options.worker is None:
                parser.error("--worker is needed: README.md says how to build it")
            server = running.enter_context(Server("examples.cpp_worker.app:app"))
            running.enter_context(cpp_worker(options.worker, server.management))
            wait_for_workers(server)
            address = server.address
        ask(running.enter_context(AnyserveClient(address)))


@contextlib.contextmanager
def cpp_worker(program: str, management: str) -> Iterator[None]:
    """The worker's process: it registers by itself, and on SIGTERM takes its leave."""
    process = subprocess.Popen([program], env={**os.environ, "ANYSERVE_MANAGEMENT": management})
    try:
        yield
    finally:
        process.terminate()
        status = process.wait(ENDED_SECONDS)
    if status != 0:
        raise SystemExit(f"the worker in C++ ended with status {status}")


def wait_for_workers(server: Server) -> None:
    """Waits until both workers are there."""
    give_up = time.monotonic() + REGISTERED_SECONDS
    with AnyserveClient(server.address, management_address=server.management) as client:
        while len(client.workers()) < WORKERS:
            if time.monotonic() > give_up:
                raise SystemExit("the worker in C++ did not register")
            time.sleep(0.05)


def ask(client: AnyserveClient) -> None:
    """Sends requests that either worker may serve, and one that only the one in C++ does."""
    vectors = np.array([[3, 4], [0, 2]], dtype=np.float32)
    served: Counter[str] = Counter()
    answers = set()
    for _ in range(10):
        reply = client.infer("normalize", {"vectors": vectors}).tensors()
        served[reply["served_by"][0].decode()] += 1
        answers.add(str(reply["vectors"].tolist()))
    print("normalize:", *sorted(answers))
    print("served by:", ", ".join(f"{name} {count}" for name, count in sorted(served.items())))
    for response in client.stream("primes", {}, parameters={"below": 100}):
        print("primes:", *response.tensors()["primes"])


if __name__ == "__main__":
    run(main)
