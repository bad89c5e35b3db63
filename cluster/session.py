"""One Ray session: started on this machine or joined, and ended with all that it started."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from o3rl.config import Cluster

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
        ray.init(
            num_cpus=cluster.cpus or None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        yield
    finally:
        ray.shutdown()
