"""A Ray cluster of two nodes on this machine, in a process of its own: `two_nodes.py DASHBOARD`.

Prints its address when it is up, and ends with its standard input.
"""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": int(sys.argv[1])}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2)
    sys.stdout.write(f"up {cluster.address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    cluster.shutdown()
