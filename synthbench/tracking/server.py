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
from collections.abc import Callable
from pathlib import Path

from synthbench import console
from synthbench.types import UserError

ANSWER = "import sys; from synthbench.tracking.server import answer; answer(int(sys.argv[1]), sys.argv[2])"


def answer(port: int, artifacts: str) -> None:
    """What the child does: `mlflow server` without its command line, which would import MLflow twice, in two processes."""
    from mlflow import server

    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    os.environ |= {
        server.BACKEND_STORE_URI_ENV_VAR: uri,
        server.REGISTRY_STORE_URI_ENV_VAR: uri,
        server.ARTIFACT_ROOT_ENV_VAR: artifacts,
        server.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    import uvicorn

    uvicorn.run("mlflow.server.fastapi_app:app", host="127.0.0.1", port=port, log_level="warning")


def serve(uri: str, runs: Path, port: int, page: Callable[[], str]) -> None:
    """Start the server on the store `uri`, print the link to `page` once it answers, and wait for Ctrl-C or SIGTERM.

    `page` is asked for while the server starts. Raises UserError when the port is taken, and with the server's last words when it dies.
    """
    _require_free(port)
    command = [sys.executable, "-c", ANSWER, str(port), (runs / "mlflow-artifacts").as_uri()]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    secret = {"MLFLOW_BACKEND_STORE_URI": uri}  # not an argument: `ps` shows those, and a URI may hold a password
    log = runs / "mlflow-server.log"
    console.note("starting MLflow, a few seconds")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends when we do
    with open(log, "w") as output:
        server = subprocess.Popen(
            command, env={**quiet, **os.environ, **secret}, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        link = f"http://127.0.0.1:{port}{page()}"
        while not _answers(port):
            _require_alive(server, log)
            time.sleep(0.25)
        console.note(f"{link}   (Ctrl-C ends it)")
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
