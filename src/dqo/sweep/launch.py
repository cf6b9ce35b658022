"""Starts the command of a stage: on this machine, or wherever a Ray cluster has room for it."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from pydantic import Field

from dqo.errors import DQOError
from dqo.settings.checking import Strict


class Process(Protocol):
    """A command that was started and may run still."""

    state: str  # the word that is printed when it is handed over

    def wait(self, seconds: float | None = None) -> int:
        """Returns the exit status; raises subprocess.TimeoutExpired where it still runs after so many seconds."""

    def terminate(self) -> None:
        """Asks it to save its work and stop."""

    def kill(self) -> None:
        """Ends it at once, with all that it has started."""


# Variables by how their names begin: credentials, caches and paths that a training here would have, too.
_PASSED_ON = ("PYTHONPATH", "HF_", "OPENAI_", "WANDB_", "TRACKIO_", "TOKENIZERS_")

# The command, the file that its output is appended to, and variables beside those of this process.
Launch = Callable[[list[str], Path, Mapping[str, str]], Process]


class LocalProcess(subprocess.Popen):
    """A command in a process of this machine, and in a session of its own."""

    state = "started"

    def __init__(self, argv: list[str], log: Path, environment: Mapping[str, str]) -> None:
        with log.open("ab") as output:
            super().__init__(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | environment,
                start_new_session=True,  # the terminal's Ctrl-C reaches the sweep alone, which asks politely
            )  # fmt: skip

    def kill(self) -> None:
        """Ends it at once, with all that it has started."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ended just now
                os.killpg(self.pid, signal.SIGKILL)


class Resources(Strict):
    """What Ray reserves for each training and each evaluation, in Ray's own words."""

    num_cpus: float = Field(default=1, gt=0)
    num_gpus: float | None = Field(default=None, ge=0)  # one where the cluster has any
    memory: int | None = Field(default=None, gt=0)  # bytes
    resources: dict[str, float] = Field(default_factory=dict)  # custom ones by name


def connect_ray(address: str, resources: Resources) -> Launch:
    """Connects to a Ray cluster whose machines share the working folder and the Python environment.

    The address is `auto`, `HOST:PORT`, or `local` for a cluster of this machine alone. DQOError where nothing answers
    there, or no machine can ever hold what each command needs.
    """
    import ray  # slow to import

    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        raise DQOError(
            f"--ray {address!r}: expected the address of a running cluster, got: {first_line(error).rstrip('.')}; see "
            "`ray status`."
        ) from error
    wanted = resources.model_dump(exclude_none=True)
    if resources.num_gpus is None:
        wanted["num_gpus"] = float(any(node["Resources"].get("GPU") for node in ray.nodes()))
    asked = {"CPU": wanted["num_cpus"], "GPU": wanted["num_gpus"], "memory": resources.memory or 0}
    asked = {name: amount for name, amount in (asked | resources.resources).items() if amount}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
        ray.shutdown()
        raise DQOError(
            f"`resources` ask for {asked} on one machine, which none of the {len(nodes)} of the cluster has; lower "
            "them, or add a machine (see `ray status`)."
        )
    return partial(RayProcess, ray, wanted)


# Ray itself would try an address where nothing listens for minutes.
def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def first_line(error: Exception) -> str:
    """Returns the first line of what a library says, or the kind of the error where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class RayProcess:
    """A command in a process of a Ray actor, on a machine that has the resources free; it waits for one where none has.

    Paths mean the same on all machines: the working folder and the Python environment are shared.
    """

    state = "handed to Ray"

    def __init__(
        self, ray: ModuleType, options: Mapping[str, Any], argv: list[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        threads = str(max(1, int(options["num_cpus"])))
        passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} | passed | environment
        self._ray, self._taken_back = ray, False
        # One thread of the actor waits for the command, the other signals it.
        self._actor = ray.remote(_Command).options(max_concurrency=2, **options).remote()
        self._begun = self._actor.start.remote(argv, os.getcwd(), str(log), environment)
        self._ended = None

    def wait(self, seconds: float | None = None) -> int:
        """Returns the exit status; raises subprocess.TimeoutExpired where it still runs after so many seconds."""
        errors = self._ray.exceptions
        try:
            self._ray.get(self._begun, timeout=seconds)
            self._ended = self._ended or self._actor.wait.remote()
            code = self._ray.get(self._ended, timeout=seconds)
        except errors.GetTimeoutError:
            raise subprocess.TimeoutExpired("ray", seconds or 0) from None
        except errors.RayActorError as error:
            if self._taken_back:
                return -signal.SIGTERM
            raise DQOError(
                f"Ray lost the process that ran it: {first_line(error)}; start the sweep again to go on."
            ) from error
        self._ray.kill(self._actor)  # gives its resources back at once
        return code

    def terminate(self) -> None:
        """Asks it to save its work and stop; takes it back where no machine had room for it yet."""
        if self._ray.wait([self._begun], timeout=0)[0]:
            self._actor.send.remote(signal.SIGTERM)
        else:
            self._taken_back = True
            self._ray.kill(self._actor)

    def kill(self) -> None:
        """Ends it at once, with all that it has started."""
        self._actor.send.remote(signal.SIGKILL)


class _Command:
    """Runs inside a Ray actor, on whichever machine."""

    def start(self, argv: list[str], folder: str, log: str, environment: Mapping[str, str]) -> None:
        os.chdir(folder)
        self._process = LocalProcess(argv, Path(log), environment)

    def wait(self) -> int:
        return self._process.wait()

    def send(self, number: int) -> None:
        self._process.kill() if number == signal.SIGKILL else self._process.send_signal(number)
