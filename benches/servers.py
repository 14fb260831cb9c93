"""The servers that are measured, and what loads them. Used by the scripts beside this file."""

import contextlib
import glob
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = os.path.abspath(os.environ.get("CARGO_TARGET_DIR") or os.path.join(HERE, "..", "target"))
HELPERS = os.path.join(TARGET, "benches")
PATIENCE = 120  # seconds until something counts as hanging
QUIET = 5  # seconds after which viewers that have sent something count as quiet again, and their memory is given back


class Process:
    """A program that is measured, or that loads one."""

    def __init__(self, command, **options):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **{**pipes, **options})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def hear(self):
        return self.process.stdout.readline().strip() or sys.exit(f"{self.process.args[0]} ended")

    def tell(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def pids(self):
        """Its own and its children's, as nginx has them."""
        children = read(f"/proc/{self.process.pid}/task/{self.process.pid}/children").split()
        return [self.process.pid, *map(int, children)]

    def cpu(self):
        """Processor time of all threads so far, in seconds."""
        return self.schedstat(0)

    def waited(self):
        """The time for which its threads could have run, but no processor was free for them, in seconds."""
        return self.schedstat(1)

    def schedstat(self, column):
        threads = (thread for pid in self.pids() for thread in glob.glob(f"/proc/{pid}/task/*/schedstat"))
        return sum(int(read(thread).split()[column]) for thread in threads) / 1e9

    def kib(self):
        """Memory in KiB; of a page shared with other processes, this one's part."""
        rollups = (read(f"/proc/{pid}/smaps_rollup") for pid in self.pids())
        return sum(int(re.search(r"^Pss:\s+(\d+)", rollup, re.M).group(1)) for rollup in rollups)

    def kib_after_texts(self, swarms):
        """Its memory after each viewer has sent a text and was left alone for a while."""
        for swarm in swarms:
            swarm.tell("text\n")
        for swarm in swarms:
            swarm.hear()
        time.sleep(QUIET)
        return self.kib()


class Helper(Process):
    """One of the C programs."""

    def __init__(self, name, *arguments, **options):
        super().__init__([os.path.join(HELPERS, name), *map(str, arguments)], **options)


class Receiver(Helper):
    """libzmq's ROUTER, which only counts."""

    def __init__(self, _options):
        super().__init__("receiver")
        self.brokers = int(self.hear())

    def await_marker(self):
        self.hear()


class Floor(Helper):
    """One write per message and viewer."""

    subscribes = "path"

    def __init__(self, _options, fan):
        super().__init__("floor", fan.viewers, text())
        self.viewers = int(self.hear())

    def task(self, _channel):
        return b"."

    def publish(self, data):
        self.process.stdin.buffer.write(data)
        self.process.stdin.flush()


class Monitor(Process):
    """The daemon, on free ports."""

    subscribes = "message"
    config = ""

    def __init__(self, options, _fan=None):
        with tempfile.TemporaryDirectory() as directory:
            config, log = os.path.join(directory, "config.yml"), os.path.join(directory, "log")
            with open(config, "w") as file:
                file.write('websocket_uri: ["127.0.0.1", 0]\nzeromq_uri: ["127.0.0.1", 0]\n')
                file.write("user: nobody\n" + self.config)  # whom it becomes if this runs as root
            with open(log, "w") as file:
                super().__init__([options.binary, "-c", config], stderr=file)
            self.viewers, self.brokers = (self.port(log, side) for side in ("viewers", "brokers"))
        self.publish = Broker(self.brokers).send

    def task(self, channel):
        return message(channel, "TASK", stamp(), "COMPLETED")

    def port(self, log, side):
        deadline = time.monotonic() + PATIENCE
        while not (said := re.search(rf"listening for {side} on \S*:(\d+)\b", read(log))):
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the daemon did not start:\n" + read(log))
            time.sleep(0.01)
        return int(said.group(1))

    def await_marker(self, marker="marker"):
        """Subscribes to the marker's channel, and so gets it, now or from the history."""
        with connect(self.viewers) as viewer:
            viewer.sendall(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                + bytes([0x81, 0x80 | len(marker), 0, 0, 0, 0])
                + marker.encode()
            )
            answer = b""
            while b"FINISHED" not in answer:
                answer += receive(viewer)


class Http(Process):
    """Another server, which is published to over one HTTP connection."""

    def __init__(self, command):
        super().__init__(command)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.link = connect(self.viewers)
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{command} did not start")
                time.sleep(0.01)
        threading.Thread(target=self.drain, daemon=True).start()

    def __exit__(self, *_):
        self.process.terminate()  # or its children would stay
        self.process.wait()

    def drain(self):
        """Its answers, which nobody waits for."""
        with contextlib.suppress(OSError):
            while self.link.recv(1 << 16):
                pass

    def task(self, channel):
        body = text()
        return f"POST /pub/{channel} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    def publish(self, data):
        self.link.sendall(data)


class Peer(Http):
    """A server that --peer names."""

    subscribes = "after"
    command = ""

    def __init__(self, _options, _fan):
        self.viewers = free_port()
        super().__init__(["sh", "-c", "exec " + self.command.replace("{port}", str(self.viewers))])


def peer(argument):
    """Makes a kind of server from NAME=CMD."""
    name, _, command = argument.partition("=")
    return type(name, (Peer,), {"command": command})


class Nchan(Http):
    """nginx with nchan, one worker."""

    subscribes = "path"
    module = "/usr/lib/nginx/modules/ngx_nchan_module.so"

    def __init__(self, _options, _fan):
        self.directory = tempfile.TemporaryDirectory()
        self.viewers = free_port()
        os.chmod(self.directory.name, 0o755)
        config = os.path.join(self.directory.name, "nginx.conf")
        temporary = "".join(f"{name}_temp_path {name}; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        with open(config, "w") as file:
            # It closes idle connections when only a sixteenth of worker_connections is left.
            file.write(
                f"load_module {self.module}; daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid pid;"
                f" error_log stderr crit; {'user root;' if os.getuid() == 0 else ''}"
                " events { worker_connections 25000; } http { access_log off; keepalive_requests 1000000000;"
                f" {temporary} nchan_shared_memory_size 512M; server {{ listen 127.0.0.1:{self.viewers} backlog=4096;"
                " location ~ ^/pub/(.+)$ { nchan_publisher; nchan_channel_id $1; nchan_message_buffer_length 100000;"
                " nchan_message_timeout 5m; } location ~ ^/sub/(.+)$ { nchan_subscriber websocket; nchan_channel_id $1;"
                " nchan_subscriber_first_message oldest; nchan_websocket_ping_interval 0; } } }"
            )
        super().__init__(["nginx", "-p", self.directory.name, "-c", config])

    def __exit__(self, *arguments):
        super().__exit__(*arguments)
        self.directory.cleanup()


class Broker:
    """A ROUTER that sends bytes made beforehand, so that sending costs next to nothing (ZMTP 3.0)."""

    def __init__(self, port):
        self.link = connect(port)
        self.link.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(52, b"\0"))
        ready = b"\5READY\x0bSocket-Type\0\0\0\6ROUTER\x08Identity\0\0\0\0"
        answer = b""
        while len(answer) < 64:
            answer += receive(self.link)
        self.link.sendall(bytes([4, len(ready)]) + ready)
        while b"READY" not in answer:
            answer += receive(self.link)

    def send(self, data):
        self.link.sendall(data)


def message(*parts):
    """A message as its bytes on the wire."""
    last = len(parts) - 1
    return b"".join(bytes([i < last, len(part)]) + part.encode() for i, part in enumerate(parts))


def stamp():
    """A task id that says when it was sent."""
    return f"@{time.monotonic_ns():016d}@"


def text():
    """A task as viewers get it."""
    return f'{{"command": "TASK", "task_id": "{stamp()}", "task_state": "COMPLETED"}}'


def read(path):
    with open(path) as file:
        return file.read()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def connect(port):
    link = socket.create_connection(("127.0.0.1", port), PATIENCE)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def receive(link):
    return link.recv(1 << 16) or sys.exit("a connection was closed")
