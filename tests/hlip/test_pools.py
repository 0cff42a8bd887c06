"""Workers of a pool outlive no parent."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

PARENT = """
import time
from hlip.pools import make_pool
if __name__ == "__main__":
    pool = make_pool(2)
    jobs = [pool.submit(time.sleep, 0.01 if n < 2 else 600) for n in range(4)]
    jobs[0].result(), jobs[1].result()
    print("at work", flush=True)
    time.sleep(600)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "at work\n"
    workers = psutil.Process(parent.pid).children()
    assert len(workers) >= 2
    parent.kill()
    parent.wait()
    until = time.monotonic() + 60
    while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.1)
