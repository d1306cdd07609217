"""A Slurm of two nodes on this host, with accounting: real daemons in a temporary folder.

    python tests/slurm/cluster.py sinfo          runs a command on it
    python tests/slurm/cluster.py bash           for looking around
    python tests/slurm/cluster.py --install      installs Debian's packages, where it can
    python tests/slurm/cluster.py --serve        for tests: says its environment as JSON,
                                                 then does what lines on stdin name

Nothing of the machine's own is used or left: munged has a key and a socket of its own,
MariaDB a data folder and a socket, and every port is free at the start. All daemons are
children of this process, which adopts whatever they leave behind (a child subreaper), and
ends it all, then removes the folder: when the command ends, on a signal, and when stdin
ends, which happens when the tests are killed.
"""

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from getpass import getuser
from pathlib import Path

PACKAGES = ("munge", "slurm-wlm", "slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server")
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
COMMANDS = ("mariadb-install-db", "sacctmgr", "sbatch", "scontrol", "setpriv", "sinfo")
NODES = ("n1", "n2")
CPUS = 2  # of each node, whatever the host has
ARRAY = 2001  # one more than an array may have tasks
START_S = 20.0  # seconds that a daemon may take until it answers
STOP_S = 10.0  # seconds that daemons have to end by themselves
SUBREAPER = 36  # of prctl
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # not on every user's PATH


class Broken(Exception):
    """The cluster cannot be started; a line, and the end of a daemon's log."""


def missing() -> list[str]:
    """Programs of the packages that are not there."""
    path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
    return [name for name in (*DAEMONS, *COMMANDS) if shutil.which(name, path=path) is None]


def install() -> None:
    """Installs the packages; raises Broken where that cannot be done."""
    if not missing():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Broken(
            f"a real Slurm needs {', '.join(missing())}; as root on Debian or Ubuntu: "
            f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        )
    policy = Path("/usr/sbin/policy-rc.d")  # asked before a package starts its service
    own = not policy.exists()
    if own:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        wanted = ["install", "-y", "--no-install-recommends", *PACKAGES]
        for arguments in (["update"], wanted):
            done = subprocess.run(
                ["apt-get", "-q", *arguments], env=environment, stdout=sys.stderr
            )
            if done.returncode:
                raise Broken(f"apt-get {' '.join(arguments)} failed: {done.returncode}")
    finally:
        if own:
            policy.unlink()
    if missing():
        raise Broken(f"the packages are there, but not {', '.join(missing())}")


class Cluster:
    """The daemons in `folder`; use as a context manager."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{os.environ.get('PATH', os.defpath)}:{SBIN}",
            "SLURM_CONF": str(folder / "slurm.conf"),
            "MYSQL_UNIX_PORT": str(folder / "mariadb.socket"),
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        if missing():
            raise Broken(
                f"there is no {', '.join(missing())}; make slurm installs what it can"
            )
        ctypes.CDLL(None).prctl(SUBREAPER, 1)
        try:
            self._write()
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what is running ---

    def start_node(self, name: str) -> None:
        """Starts a node's slurmd and waits until it takes jobs."""
        configured = self.environment["SLURM_CONF"]
        self._start(name, "slurmd", "-D", "-N", name, "-f", configured)
        self._wait(name, lambda: self._state(name) in ("idle", "mixed", "allocated"))

    def kill_node(self, name: str) -> None:
        """Ends a node's slurmd and every process of a job on it, as a power cut does;
        returns when the controller knows."""
        process = self.running.pop(name)
        process.kill()
        process.wait()
        for pid in self._of_node(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._run("scontrol", "update", f"nodename={name}", "state=down", "reason=killed")

    def resume_node(self, name: str) -> None:
        """Starts a killed node again."""
        self._run("scontrol", "update", f"nodename={name}", "state=resume")
        self.start_node(name)

    def stop(self) -> None:
        """Ends every process that this one, or a daemon of it, has started."""
        self._ended(reversed(list(self.running)), signal.SIGTERM)
        self.running.clear()
        deadline = time.monotonic() + STOP_S
        while (left := _children()) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.02)
        if left:
            print(f"processes that cannot be ended: {left}", file=sys.stderr)

    def _ended(self, names: Iterable[str], signum: signal.Signals) -> None:
        """Sends a signal to daemons, one after the other, and waits for each."""
        for name in names:
            process = self.running[name]
            process.send_signal(signum)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            process.wait()

    def _of_node(self, name: str) -> list[int]:
        """Processes of jobs on a node, those that watch over them first."""
        mine = {f"SLURMD_NODENAME={name}", f"SLURM_CONF={self.environment['SLURM_CONF']}"}
        tasks, watchers = [], set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mine <= set(path.read_text(errors="replace").split("\0")):
                    pid = int(path.parent.name)
                    tasks.append(pid)
                    parent = _parent(pid)
                    if Path(f"/proc/{parent}/comm").read_text().strip() == "slurmstepd":
                        watchers.add(parent)
        return [*watchers, *tasks]

    # --- how it starts ---

    def _write(self) -> None:
        """Configurations, keys and folders."""
        host, user = socket.gethostname(), getuser()
        folder = self.folder
        ports = dict(zip(("slurmctld", "slurmdbd", *NODES), _free_ports(4), strict=True))
        munge = folder / "munge.socket"
        nodes = "\n".join(
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 "
            f"Port={ports[name]} CPUs={CPUS} RealMemory=4000"
            for name in NODES
        )
        self._file("munge.key", secrets.token_bytes(128))
        self._file(
            "slurm.conf",
            f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports["slurmctld"]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={munge},cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=30
SlurmdTimeout=30
MaxArraySize={ARRAY}
MaxJobCount=5000
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,sched_interval=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports["slurmdbd"]}
AccountingStoragePass={munge}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
""".encode(),
        )
        self._file("cgroup.conf", b"CgroupPlugin=cgroup/v1\n")
        self._file(
            "slurmdbd.conf",
            f"""\
AuthType=auth/munge
AuthInfo=socket={munge}
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports["slurmdbd"]}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
PidFile={folder}/slurmdbd.pid
""".encode(),
        )
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (folder / name).mkdir()

    def _file(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(0o600 if name != "slurm.conf" else 0o644)

    def _start_all(self) -> None:
        folder, user = self.folder, getuser()
        database = folder / "mariadb"
        self._start(
            *("munged", "munged", "--foreground", "--force"),
            *(f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"),
            *(f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log"),
            f"--seed-file={folder}/munge.seed",
        )
        self._run(
            *("mariadb-install-db", "--no-defaults", f"--datadir={database}"),
            *(f"--user={user}", "--auth-root-authentication-method=normal"),
            "--skip-test-db",
        )
        self._start(
            *("mariadbd", "mariadbd", "--no-defaults", f"--datadir={database}"),
            *(f"--user={user}", f"--socket={folder}/mariadb.socket", "--skip-networking"),
            *("--skip-log-bin", "--innodb-buffer-pool-size=64M"),
            *("--innodb-log-file-size=64M", "--innodb-lock-wait-timeout=900"),
        )
        self._wait("mariadbd", (folder / "mariadb.socket").exists)
        self._wait("munged", (folder / "munge.socket").exists)
        self._start("slurmdbd", "slurmdbd", "-D")
        self._wait("slurmdbd", lambda: self._says("sacctmgr", "-n", "list", "cluster"))
        self._run("sacctmgr", "-i", "add", "cluster", "test")
        self._start("slurmctld", "slurmctld", "-D", "-i")
        self._wait("slurmctld", lambda: "UP" in (self._says("scontrol", "ping") or ""))
        for name in NODES:
            self.start_node(name)

    def _start(self, name: str, *command: str) -> None:
        """A daemon in the foreground, which dies with this process, whatever ends it."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                env={**self.environment, "SLURM_CONF": str(self.folder / "slurm.conf")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )

    def _run(self, *command: str) -> None:
        """Raises Broken where a command fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, cwd=self.folder
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-2000:]
            raise Broken(f"{command[0]} failed with exit code {done.returncode}: {said}")

    def _says(self, *command: str) -> str | None:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout.strip() or "nothing" if done.returncode == 0 else None

    def _state(self, node: str) -> str:
        said = self._says("sinfo", "-h", "-n", node, "-o", "%T")
        return (said or "").split("\n")[0]

    def _wait(self, name: str, answers: Callable[[], object]) -> None:
        """Until a daemon answers; raises Broken where it ends, or takes too long."""
        deadline = time.monotonic() + START_S
        while not answers():
            ended = self.running[name].poll()
            if ended is not None or time.monotonic() > deadline:
                how = "does not answer" if ended is None else f"ended with code {ended}"
                logs = (self.folder / f"{name}.log", self.folder / "slurmctld.log")
                tails = [p.read_text(errors="replace")[-1500:] for p in logs if p.exists()]
                raise Broken("\n".join([f"{name} {how}:", *tails]))
            time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _children() -> list[int]:
    """Processes whose parent is this one."""
    content = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in content.split()]


def _parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1])


def serve(cluster: Cluster) -> None:
    """Carries out lines on stdin, `kill n1` or `resume n1`, until it ends; answers each by
    a line of its own."""
    print(json.dumps(cluster.environment), flush=True)
    does = {"kill": cluster.kill_node, "resume": cluster.resume_node}
    for line in sys.stdin:
        word, node = line.split()
        does[word](node)
        print("done", flush=True)


def main(arguments: list[str]) -> int:
    """The exit code of the command that was run on the cluster."""

    def ends(signum: int, _: object) -> None:
        raise SystemExit(128 + signum)

    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, ends)
    try:
        if arguments == ["--install"]:
            install()
            return 0
        with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
            with Cluster(Path(folder)) as cluster:
                if arguments == ["--serve"]:
                    serve(cluster)
                    return 0
                command = arguments or ["sinfo"]
                return subprocess.run(command, env=cluster.environment).returncode
    except Broken as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
