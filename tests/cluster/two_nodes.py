"""A Ray cluster of two nodes on this machine, in a process of its own: `two_nodes.py DASHBOARD`.

Prints its address when it is up, and ends with its standard input.
"""

import sys

from ray.cluster_utils import Cluster

ATTEMPTS = 3  # Ray gives a node 30 s to come up, fixed, which a busy machine may miss


def up(dashboard: int) -> Cluster:
    """The cluster, once both nodes are there."""
    for attempt in range(1, ATTEMPTS + 1):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=2, include_dashboard=True, dashboard_port=dashboard)
            # Else both would unpack what a job brings along over one another: they share a machine.
            cluster.add_node(num_cpus=2, runtime_env_dir_name="runtime_resources_of_second")
            return cluster
        except Exception as error:  # Ray raises no narrower type for it
            cluster.shutdown()
            sys.stderr.write(f"attempt {attempt}: {error}\n")
    raise SystemExit(f"no cluster after {ATTEMPTS} attempts")


if __name__ == "__main__":
    cluster = up(int(sys.argv[1]))
    sys.stdout.write(f"up {cluster.address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    cluster.shutdown()
