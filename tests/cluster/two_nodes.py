"""A Ray cluster of two nodes on this machine, in a process of its own: `two_nodes.py DASHBOARD`.

Prints its address when it is up, and ends with its standard input.
"""

import sys

from ray.cluster_utils import Cluster

from tests.faults.processes import free_port

ATTEMPTS = 3  # Ray gives a node 30 s to come up, fixed, which a busy machine may miss


def up(dashboard: int) -> Cluster:
    """The cluster, once both nodes are there."""
    for attempt in range(1, ATTEMPTS + 1):
        cluster = Cluster()
        try:
            # Ports and folders of their own: they share this machine, with a Ray that just ends.
            cluster.add_node(
                num_cpus=2,
                include_dashboard=True,
                dashboard_port=dashboard,
                dashboard_agent_listen_port=free_port(),
            )
            cluster.add_node(
                num_cpus=2,
                dashboard_agent_listen_port=free_port(),
                runtime_env_dir_name="runtime_resources_of_second",
            )
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
