"""An S3 server on loopback, `rclone serve s3`: a bucket is a folder, signatures are checked."""

import contextlib
import shutil
import socket
import socketserver
import subprocess
import sysconfig
import threading
import time

KEY, SECRET = "sharkstore-tests", "not-a-secret"
# the shell ends the server when its standard input ends: with this process, however it dies
GUARDED = '"$@" & read -r _; kill $!'


class S3Server:
    """Serves the folders in `folder` as buckets, from a process of its own, until closed."""

    def __init__(self, folder, log):
        rclone = shutil.which("rclone", path=sysconfig.get_path("scripts"))
        command = [rclone, "serve", "s3", str(folder), "--addr", "127.0.0.1:0", "--config", ""]
        command += ["--auth-key", f"{KEY},{SECRET}", "--dir-cache-time", "0s"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["sh", "-c", GUARDED, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
        self.port = self._wait(log)
        self.url = f"http://127.0.0.1:{self.port}"

    def _wait(self, log):
        for _ in range(400):
            _, found, port = log.read_text().partition("[http://127.0.0.1:")
            if found and "/]" in port:
                return int(port.partition("/")[0])
            time.sleep(0.05)
        self.close()
        raise RuntimeError(log.read_text())

    def close(self):
        self._process.stdin.close()
        self._process.wait(20)


class Relay(socketserver.ThreadingTCPServer):
    """Passes connections on to a port of this machine, and counts what passes.

    Attributes:
        requests: pieces that were sent; a request without a body is one.
        received: bytes that came back.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), Passing)
        self.target = port
        self.requests = 0
        self.received = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.sockets = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        """End the connections that are open, and refuse new ones."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Passing(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.target)) as other:
            self.server.sockets += [self.request, other]
            forward = threading.Thread(target=self.forward, args=(other,), daemon=True)
            forward.start()
            while got := _received(other):
                self.server.received += len(got)
                self.request.sendall(got)

    def forward(self, other):
        while got := _received(self.request):
            self.server.requests += 1
            other.sendall(got)


def _received(connection):
    try:
        return connection.recv(1 << 16)
    except OSError:
        return b""
