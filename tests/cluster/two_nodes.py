"""A Ray cluster of two nodes on this machine, in a process of its own: `two_nodes.py DASHBOARD`.

Prints its address when it is up, and ends with its standard input.
"""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": int(sys.argv[1])}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    # Else both would unpack what a job brings along over one another: they share a machine.
    cluster.add_node(num_cpus=2, runtime_env_dir_name="runtime_resources_of_second")
    sys.stdout.write(f"up {cluster.address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    cluster.shutdown()
