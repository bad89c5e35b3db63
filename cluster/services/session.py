"""One Ray session: started on this machine or joined, and ended with all that it started."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from cluster.services.reachability import knock, one_line
from o3rl.config import ClusterConfig
from o3rl.ray_calls import in_a_line

START_ATTEMPTS = 3
logger = logging.getLogger(__name__)


class Session:
    """A Ray that was started here (`cluster.address` empty) or joined: one Ray job, until it is
    renewed.
    """

    def __init__(self, cluster: ClusterConfig):
        self._cluster = cluster
        self._begin()

    def renew(self) -> None:
        """End it with all actors and placement groups in it, and begin another one."""
        ray.shutdown()
        self._begin()

    def _begin(self) -> None:
        if self._cluster.address:
            join_ray(self._cluster.address, logging.WARNING)
        else:
            _start_here(self._cluster)


@contextmanager
def ray_session(cluster: ClusterConfig) -> Iterator[Session]:
    """Start Ray here, or join the cluster at `cluster.address`.

    A Ray that was started here is stopped at the end, whatever ended the block.
    """
    if not cluster.gpus_per_rank:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed looks at its first import
    session = Session(cluster)
    try:
        yield session
    finally:
        ray.shutdown()


def join_ray(address: str, level: int) -> None:
    """Join the cluster at `address`; Ray speaks from `level` on. ValueError if there is none."""
    with one_line(address):
        knock(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=level)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = f"{in_a_line(error):.300}"
        raise ValueError(f"the Ray cluster at {address} cannot be joined: {said}") from error


def _start_here(cluster: ClusterConfig) -> None:
    """Start Ray on this machine. Its nodes get 30 s to come up, fixed, which a busy machine may
    miss: that is tried again.
    """
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",  # not a cluster that happens to run on this machine
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
