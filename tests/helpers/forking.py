"""Starts Python commands as forks of a process that has imported torch, TRL and dqo already.

    forking.run([sys.executable, "-m", "dqo", "train", "recipe.yaml"], capture_output=True, text=True)

`Popen` and `run` are those of `subprocess`: the command is a process of its own, a child of the caller, with its own
arguments, environment, folder, session and pipes. Only the start of an interpreter and its imports are spared, which
take ten seconds of a processor each. `accelerate launch` forks its ranks in the same way, so a launcher and two ranks
start at the price of none. What is about the start itself needs a real interpreter: `subprocess` still has it.
"""

import atexit
import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from functools import cache
from pathlib import Path

LAUNCHER = "accelerate.commands.launch"
_real = subprocess.Popen._execute_child
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2): orphaned descendants become children of the caller
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class Popen(subprocess.Popen):
    """A Popen whose process is forked by the server; a command that is no Python starts as ever."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest):
        *_, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = rest[:9]
        session = rest[-2]
        if args[0] != sys.executable:
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest)
            return
        started, begun = os.pipe()
        job = {
            "command": [str(part) for part in args], "cwd": str(cwd or Path.cwd()), "session": session,
            "env": dict(os.environ if env is None else env), "parent": os.getpid(),
        }  # fmt: skip
        streams = [os.open(os.devnull, os.O_RDONLY) if p2cread == -1 else p2cread]
        streams += [fd if given == -1 else given for fd, given in ((1, c2pwrite), (2, errwrite))]
        socket.send_fds(_server(), [json.dumps(job).encode()], [*streams, begun])
        os.close(begun)
        with os.fdopen(started) as pipe:
            self.pid = int(pipe.read())
        self._child_created = True
        if p2cread == -1:
            os.close(streams[0])
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def run(command, *, capture_output=False, timeout=None, **options):
    """Runs a command to its end, as `subprocess.run` does without `check`."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(list(map(str, command)), **options) as process:
        try:
            said, wrong = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, said, wrong)


@cache
def _server():
    """The socket of this process's server, which ends with it."""
    # A fork is made by a child of the server that ends at once, so that it becomes a child of this process.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | _ENVIRONMENT,
            start_new_session=True,
        )
    return ours


# What the server does.


def _serve(requests):
    """Forks for every request until the other side is gone."""
    while True:
        request, streams, *_ = socket.recv_fds(requests, 1 << 20, 4)
        if not request:
            return
        middle = os.fork()
        if not middle:
            if not os.fork():
                _begin(json.loads(request), streams)
            os._exit(0)
        os.waitpid(middle, 0)
        for stream in streams:
            os.close(stream)


def _begin(job, streams):
    while os.getppid() != job["parent"]:  # until the process in between has ended
        time.sleep(0.001)
    if job["session"]:
        os.setsid()
    for number, stream in enumerate(streams[:3]):
        os.dup2(stream, number)
    os.write(streams[3], str(os.getpid()).encode())
    _become(job["command"], job["env"], job["cwd"])


def _fork_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest):
    """What a forked launcher starts its ranks with, in the place of subprocess's own."""
    if args[0] != sys.executable:
        _real(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest)
        return
    *_, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = rest[:9]
    session = rest[-2]
    sys.stdout.flush(), sys.stderr.flush()
    self.pid = os.fork()
    if not self.pid:
        if session:
            os.setsid()
        for number, stream in ((0, p2cread), (1, c2pwrite), (2, errwrite)):
            if stream != -1:
                os.dup2(stream, number)
        _become(list(map(str, args)), dict(os.environ if env is None else env), cwd or Path.cwd())
    self._child_created = True
    self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def _become(command, env, cwd):
    """Runs a Python command in this fork as a new interpreter would, and ends the process."""
    gc.freeze()  # nothing of the parent's is to be finalised here, such as a file whose number is used anew
    os.closerange(3, 4096)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    status = 0
    try:
        _run_python(command)
    except SystemExit as left:
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException as error:
        traceback.print_exc()
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def _run_python(command):
    sys.orig_argv = list(command)
    first, *rest = [part for part in command[1:2] if part != "-u"] + command[2:]
    if first == "-c":
        sys.argv, sys.path[:0] = ["-c", *rest[1:]], [""]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        if rest[0] == LAUNCHER:  # others may have done much before they start a process, which would come along
            subprocess.Popen._execute_child = _fork_child
        sys.argv, sys.path[:0] = rest, [str(Path.cwd())]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:0] = [first, *rest], [str(Path(first).resolve().parent)]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    from accelerate.commands import launch  # noqa: F401  (imported before the first fork)
    from torch.distributed import run as torchrun  # noqa: F401  (imported before the first fork)

    from dqo.cli import evaluate, main  # noqa: F401  (imported before the first fork)
    from dqo.sweep import run as sweep  # noqa: F401  (imported before the first fork)
    from dqo.train import run as train  # noqa: F401  (imported before the first fork)

    _serve(socket.socket(fileno=int(sys.argv[1])))
