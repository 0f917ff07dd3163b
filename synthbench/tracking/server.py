"""MLflow's web server as a child process, on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from synthbench import console
from synthbench.types import UserError


def serve(uri: str, runs: Path, port: int, page: str) -> None:
    """Start the server on the store `uri`, print the link to `page` once it answers, and wait for Ctrl-C or SIGTERM.

    Raises UserError when the port is taken, and with the server's last words when it dies.
    """
    _require_free(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1"]  # the default of four takes 40 s to start on two cores, one takes 12
    command += ["--default-artifact-root", (runs / "mlflow-artifacts").as_uri()]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    secret = {"MLFLOW_BACKEND_STORE_URI": uri}  # not an argument: `ps` shows those, and a URI may hold a password
    log = runs / "mlflow-server.log"
    console.note("starting MLflow, about 15 s")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends when we do
    with open(log, "w") as output:
        server = subprocess.Popen(
            command, env={**quiet, **os.environ, **secret}, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while not _answers(port):
            _require_alive(server, log)
            time.sleep(0.25)
        console.note(f"http://127.0.0.1:{port}{page}   (Ctrl-C ends it)")
        server.wait()
        _require_alive(server, log)
    except KeyboardInterrupt:
        console.note("MLflow stopped")
    finally:
        _end(server)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UserError(f"port {port} of 127.0.0.1 cannot be used: {error}. Take another, such as --port {port % 60000 + 1}") from None


def _require_alive(server: subprocess.Popen[bytes], log: Path) -> None:
    if server.poll() is not None:
        last = (log.read_text("utf-8", errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"the MLflow server ended with code {server.returncode}: {last}. All it said: {log}")


def _answers(port: int) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never ask a proxy for loopback
    with contextlib.suppress(OSError), direct.open(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
        return bool(reply.status == 200)
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers, a process group of their own: politely, then not."""
    group = hasattr(os, "killpg")  # not on Windows
    for alone, how in ((server.terminate, "SIGTERM"), (server.kill, "SIGKILL")):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.Signals[how]) if group else alone()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
