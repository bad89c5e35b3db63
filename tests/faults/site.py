"""Where chaos strikes: a Ray of some nodes, an MLflow server, a driver, all on this machine.

    site ── starts ──► node 1: driver's side, a replica     all carry one token in their
                       node 2: a replica                    environment, by which they are
                       MLflow's server                      found in /proc
                       `o3rl train`, again and again

Nothing in the run knows of it: processes are struck from outside. All that is started imports a
copy of the source, made first: a run's processes compare digests of it, and somebody may edit the
checkout meanwhile.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from o3rl.code_digest import PACKAGES
from o3rl.config.shipped import folder as shipped_configurations
from tests.faults.processes import carrying, free_port, kill, session_of, title_of

ACTORS = {  # of a run, by the beginning of their process's title
    "replica": "ray::Replica",
    "scorer": "ray::_Actor",
    "learner": "ray::_Rank",
    "store": "ray::StoreActor",
    "media": "ray::MediaActor",
    "controller": "ray::Controller",
}
RAYS_OWN = (  # parts of titles: what a node starts beside actors, when it likes to
    "ray::IDLE",
    "ray::SPILL_",
    "ray::RESTORE_",
    "ray::DELETE_",
    "ray::DashboardAgent",
    "ray::RuntimeEnvAgent",
    "ray::dump_stacks",
    "ray-dashboard-",
    "/ray/core/src/ray/",  # raylet, gcs_server
    "/ray/dashboard/",
    "/ray/_private/",  # default_worker.py, log_monitor.py, runtime_env, the reaper
)
MLFLOWS_OWN = "mlflow.server"  # its job runners, should they leave its session
MARK = "O3RL_CHAOS"
RANKS = "o3rl_ranks"  # Ray's name for what the first node has: the learner is there
CPUS = 1  # of each node, as Ray is told; two replicas have no room on one
STORE_BYTES = 200 * 2**20  # of a node's object store
START_ATTEMPTS = 3  # Ray gives a node 30 s to come up, fixed, which a busy machine may miss
SERVER_SECONDS = 120.0
END_SECONDS = 30.0


class Site:
    """Started by `with`; everything that carries its token is ended with the block."""

    def __init__(self, folder: Path, *, nodes: int = 2):
        self.folder = folder.absolute()
        self._source = self.folder / "source"
        self._nodes = nodes
        self._token = uuid.uuid4().hex
        self._cluster: Any = None
        self._last: Any = None
        self._port = free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self._driver: subprocess.Popen[bytes] | None = None
        self._own: frozenset[int] = frozenset()  # what was there before the first driver
        self._servers: set[int] = set()  # sessions of MLflow's

    def __enter__(self) -> "Site":
        self.folder.mkdir(parents=True, exist_ok=True)
        copy_source(self._source)
        try:
            self._start_nodes()
            self.start_server()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Of Ray."""
        return self._cluster.address

    @property
    def settings(self) -> list[str]:
        """What a run is told of the site."""
        return [
            f"cluster.address={self.address}",
            f"tracking.uri=http://127.0.0.1:{self._port}",
            f"cluster.learner_resource={RANKS}",
            "rollouts.cpus=0.51",
            "cluster.cpus_per_rank=0.35",
        ]

    @property
    def driver(self) -> subprocess.Popen[bytes]:
        """The last one."""
        assert self._driver is not None
        return self._driver

    def drive(self, arguments: Sequence[str], log: Path) -> None:
        """`o3rl train` with `arguments`, in a process of its own.

        Its working directory is the copy of the source: Python looks there first, and Ray has a
        job's workers look in its driver's directory first.
        """
        if self._driver is None:
            self._own = frozenset(self._pids())
        with log.open("ab") as file:
            self._driver = subprocess.Popen(
                [sys.executable, "-m", "cluster.commands.cli", "train", *arguments],
                stdout=file,
                stderr=file,
                env=self._environment(),
                cwd=self._source,
                start_new_session=True,
            )

    def start_server(self) -> None:
        """MLflow's, for the first time or again; back when it answers."""
        uri = f"sqlite:///{self.folder / 'mlflow.db'}"
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--workers",
            "1",
        ]
        command += ["--port", str(self._port), "--backend-store-uri", uri]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "mlflow.log").open("ab") as log:
            self._server = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=self._environment(),
                cwd=self.folder,
                start_new_session=True,
            )
        self._servers.add(self._server.pid)
        deadline = time.monotonic() + SERVER_SECONDS
        while not self._server_answers():
            if time.monotonic() > deadline or self._server.poll() is not None:
                raise TimeoutError(f"MLflow's server did not start; see {self.folder}/mlflow.log")
            time.sleep(0.2)

    def strike_server(self, signal_: int) -> None:
        """All of the server's processes.

        Raises RuntimeError where they had ended by themselves.
        """
        assert self._server is not None
        if self._server.poll() is not None:
            status, log = self._server.returncode, self.folder / "mlflow.log"
            raise RuntimeError(f"MLflow's server has ended by itself, status {status}; see {log}")
        os.killpg(self._server.pid, signal_)
        if signal_ == signal.SIGKILL:
            self._server.wait()

    def lose_node(self) -> None:
        """The node that was added last, with all that is on it, without a word."""
        self._cluster.remove_node(self._last, allow_graceful=False)

    def add_node(self) -> None:
        """A node more, for replicas. Ray's own error where it does not come up, each time."""
        for attempt in range(1, START_ATTEMPTS + 1):
            nodes, raylets = set(self._cluster.worker_nodes), set(self._raylets())
            try:
                self._last = self._node()
                return
            except Exception:  # Ray raises no narrower type for it
                for node in set(self._cluster.worker_nodes) - nodes:
                    self._cluster.remove_node(node, allow_graceful=False)
                kill(set(self._raylets()) - raylets)  # of a node that Ray has no name for yet
                if attempt == START_ATTEMPTS:
                    raise

    def find(self, title: str) -> list[int]:
        """The site's living processes whose title begins so."""
        return [pid for pid in self._pids() if title_of(pid).startswith(title)]

    def left_of_run(self) -> list[str]:
        """Titles of what belongs to a run: actors, drivers, and what these have started."""
        return [title_of(pid) for pid in self._pids() if not self._is_own(pid)]

    def close(self) -> None:
        """End everything."""
        try:
            if self._cluster is not None:
                self._cluster.shutdown()
        finally:
            self._end_all()

    def _end_all(self) -> None:
        deadline = time.monotonic() + END_SECONDS
        while pids := list(self._pids()):
            kill(pids)
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ended: {[title_of(pid) for pid in pids]}")
            time.sleep(0.1)

    def _start_nodes(self) -> None:
        from ray.cluster_utils import Cluster

        for attempt in range(1, START_ATTEMPTS + 1):
            self._cluster = Cluster()
            try:
                self._node(include_dashboard=False, resources={RANKS: 1})
                break
            except Exception:  # Ray raises no narrower type for it
                self._cluster.shutdown()
                kill(self._raylets())
                if attempt == START_ATTEMPTS:
                    raise
        for _ in range(self._nodes - 1):
            self.add_node()

    def _node(self, **keywords: Any) -> Any:
        # A folder of its own: else both nodes would unpack what a job brings over one another.
        folder = f"runtime_{uuid.uuid4().hex[:8]}"
        with _environment(self._environment()):
            return self._cluster.add_node(
                num_cpus=CPUS,
                object_store_memory=STORE_BYTES,
                runtime_env_dir_name=folder,
                **keywords,
            )

    def _environment(self) -> dict[str, str]:
        paths = [str(self._source), *filter(None, [os.environ.get("PYTHONPATH")])]
        return os.environ | {MARK: self._token, "PYTHONPATH": os.pathsep.join(paths)}

    def _server_answers(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _is_own(self, pid: int) -> bool:
        """Whether a process is Ray's or MLflow's, also of a node or a server that came later."""
        title = title_of(pid)
        if not title:  # it ends just now
            return True
        return (
            pid in self._own
            or session_of(pid) in self._servers
            or any(part in title for part in (*RAYS_OWN, MLFLOWS_OWN))
        )

    def _raylets(self) -> Iterator[int]:
        return (pid for pid in self._pids() if "/raylet/raylet " in title_of(pid))

    def _pids(self) -> Iterator[int]:
        """Of the processes that live and carry the token."""
        return carrying(MARK, self._token)


IGNORED = shutil.ignore_patterns("__pycache__")


def copy_source(folder: Path) -> None:
    """The project's packages and the shipped configurations, as a checkout has them."""
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None, package
        assert spec.submodule_search_locations, package
        place = spec.submodule_search_locations[0]
        shutil.copytree(place, folder / package, ignore=IGNORED)
    shutil.copytree(Path(__file__).parent, folder / "tests" / "faults", ignore=IGNORED)
    if not (folder / "o3rl" / "configs").is_dir():  # a wheel has them there
        shutil.copytree(shipped_configurations(), folder / "configs")


@contextmanager
def _environment(environment: dict[str, str]) -> Iterator[None]:
    """This process's, while Ray starts others from it."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
