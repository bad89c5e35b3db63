"""The manifests, offline: KubeRay's kinds by a schema written from its API reference, all else and
every pod template by Kubernetes' own schemas, strictly; and what they say of this project is true.
"""

import json
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from cluster.commands.cli import _parser
from o3rl.config import RunConfig, load
from o3rl.config.shipped import find

ROOT = Path(__file__).parents[2]
DEPLOY = Path(str(files("cluster"))) / "deploy"
MANIFESTS = sorted(DEPLOY.glob("*.yaml"))
SCHEMA = json.loads((ROOT / "tests/data/kuberay.schema.json").read_text())
KUBERNETES = "1.31"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def cluster_of(document: dict[str, Any]) -> dict[str, Any]:
    spec = document["spec"]
    return spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec


def groups(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield cluster["headGroupSpec"]
    yield from cluster["workerGroupSpecs"]


def check(document: dict[str, Any]) -> None:
    """Raises ValidationError."""
    if not document["apiVersion"].startswith("ray.io/"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    jsonschema.validate(document, SCHEMA)
    for group in groups(cluster_of(document)):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def ray() -> list[dict[str, Any]]:
    [job], [cluster] = (documents(DEPLOY / f"{name}.yaml") for name in ("rayjob", "raycluster"))
    return [job, cluster]


def test_all_that_is_promised_is_there():
    kinds = sorted(document["kind"] for path in MANIFESTS for document in documents(path))
    assert kinds == [
        "Deployment",
        "PersistentVolumeClaim",
        "PersistentVolumeClaim",
        "RayCluster",
        "RayJob",
        "Service",
    ]
    assert (DEPLOY / "Dockerfile").is_file()


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_are_what_kubernetes_and_kuberay_take(path):
    for document in documents(path):
        check(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "backofLimit"), 3),
        (("spec", "backoffLimit"), "3"),
        (("spec", "rayClusterSpec", "enableInTreeAutoscaling"), "yes"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1, "maxReplica"), 3),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1, "rayStartParams", "num-cpus"), 6),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "container"), []),
    ],
    ids=str,
)
def test_a_typo_is_refused(path, value):
    broken = deepcopy(ray()[0])
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(broken)


def test_job_and_cluster_have_the_same_pods():
    job, cluster = ray()
    assert cluster_of(job) == cluster_of(cluster)


def test_versions_are_ours():
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for document in ray():
        cluster = cluster_of(document)
        assert cluster["rayVersion"] == version("ray")
        assert cluster["authOptions"] == {"mode": "token"}
        images = {
            container["image"]
            for group in groups(cluster)
            for container in group["template"]["spec"]["containers"]
        }
        assert images == {f"o3rl:{ours}"}


def job_run() -> RunConfig:
    """What the job's command line trains with."""
    words = ray()[0]["spec"]["entrypoint"].split()
    assert words.pop(0) == "o3rl"
    options, rest = _parser().parse_known_args(words)
    assert options.again
    return load(find(options.config), [*options.overrides, *rest])


def test_the_job_is_a_command_of_ours_whose_resources_the_nodes_have():
    run = job_run()
    workers = {group["groupName"]: group for group in cluster_of(ray()[0])["workerGroupSpecs"]}
    offers = {
        name: json.loads(json.loads(group["rayStartParams"]["resources"]))
        for name, group in workers.items()
    }
    assert offers == {
        "learners": {run.cluster.learner_resource: 1},
        "rollouts": {run.rollouts.resource: 1},
    }
    gpus = {
        name: int(
            group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
        )
        for name, group in workers.items()
    }
    assert gpus["learners"] >= run.learning.ranks * run.cluster.gpus_per_rank
    assert gpus["rollouts"] == run.rollouts.gpus
    assert workers["rollouts"]["maxReplicas"] == run.rollouts.max_replicas
    assert run.tracking.uri == "http://mlflow:5000"


def test_what_the_pods_share_is_where_the_job_looks():
    run = job_run()
    shared = [run.folder, run.data.train, run.data.validation, run.data.media]
    assert all(path.startswith("/shared/") for path in shared)
    [claim] = documents(DEPLOY / "storage.yaml")
    for group in groups(cluster_of(ray()[0])):
        spec = group["template"]["spec"]
        mounts = {m["name"]: m["mountPath"] for m in spec["containers"][0]["volumeMounts"]}
        assert mounts == {"shared": "/shared", "memory": "/dev/shm"}
        names = {
            v["persistentVolumeClaim"]["claimName"]
            for v in spec["volumes"]
            if "persistentVolumeClaim" in v
        }
        assert names == {claim["metadata"]["name"]}
