"""What Ray adds to a job: its own start, and the time between handing out and taking back.

python -m bench.ray_overhead [number of jobs]

The job ends at once (its dataset is not there), so that only the way is measured: through Ray, and
with the same function called here.
"""

import contextlib
import io
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import ray

from tenner.queue.cluster.order import Order, Result
from tenner.queue.cluster.task import do_job
from tenner.settings import load_request


def seconds(act: Callable[[], Result]) -> float:
    started = time.perf_counter()
    result = act()
    assert (result.state, result.exit_code) == ("failed", 3), result
    return time.perf_counter() - started


def main(num_jobs: int) -> None:
    """Print the medians."""
    with tempfile.TemporaryDirectory(prefix="tenner-bench-") as name:
        output = {"base_model": "tiny", "dataset": f"{name}/nowhere", "output_dir": name}
        output |= {"device": "cpu", "destinations": f"file://{name}/there"}
        request = load_request(output, {}, read_default_config=False)
        order = Order(request=request, lease_seconds=60.0, environ={})
        started = time.perf_counter()
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        start = time.perf_counter() - started
        task = ray.remote(do_job).options(num_cpus=1)
        seconds(lambda: ray.get(task.remote(order)))  # its worker process starts
        ways: dict[str, list[float]] = {"here": [], "through Ray": []}
        for _ in range(num_jobs):
            with contextlib.redirect_stderr(io.StringIO()):
                ways["here"].append(seconds(lambda: do_job(order)))
                ways["through Ray"].append(seconds(lambda: ray.get(task.remote(order))))
        ray.shutdown()
    here, through = (statistics.median(each) for each in ways.values())
    print(f"{platform.machine()}, Ray {ray.__version__}, {num_jobs} jobs each, taking turns")
    print(f"Ray's own start, once a batch   {start:.2f} s")
    print(f"a job that ends at once, here   {here:.2f} s (median)")
    print(f"the same through Ray            {through:.2f} s (median)")
    print(f"Ray's overhead for each job     {through - here:+.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
