"""One Ray session: started on this machine or joined, and ended with all that it started."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from o3rl.config import Cluster

START_ATTEMPTS = 3
logger = logging.getLogger(__name__)


@contextmanager
def ray_session(cluster: Cluster) -> Iterator[None]:
    """Start Ray here (`cluster.address` empty) or join the cluster at that address.

    A Ray that was started here is stopped at the end, whatever ended the block.
    """
    if not cluster.gpus_per_rank:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed looks at its first import
    if cluster.address:
        ray.init(address=cluster.address, log_to_driver=False)
    else:
        _start_here(cluster)
    try:
        yield
    finally:
        ray.shutdown()


def _start_here(cluster: Cluster) -> None:
    """Start Ray on this machine. Its nodes get 30 s to come up, fixed, which a busy machine may
    miss: that is tried again.
    """
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                num_cpus=cluster.cpus or None,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:  # Ray raises no narrower type for it
            ray.shutdown()
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS:
                raise
            logger.warning("Ray did not start within its 30 s, attempt %d: %s", attempt, error)
