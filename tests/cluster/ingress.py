"""An Ingress controller: nginx, configured from the cluster's Ingress objects of one class.

As small as the tests allow. It honours the annotations of ingress-nginx that the chart and the Router
set, so that a wrong or missing one shows; without them nginx's own limits hold (1 MiB, 60 s).

A reload closes connections that wait for their next request, also when that is on its way, and the published
SDK does not send it again. So a connection of a client serves one request here."""

import contextlib
import http.client
import json
import pathlib
import shutil
import tempfile
import threading

import testbed
from harness import free_port, wait_for

WORKERS = 2
ANNOTATION = "nginx.ingress.kubernetes.io/"
# annotation, directive, unit
DIRECTIVES = (
    ("proxy-body-size", "client_max_body_size", ""),
    ("proxy-read-timeout", "proxy_read_timeout", "s"),
    ("proxy-send-timeout", "proxy_send_timeout", "s"),
    ("proxy-buffering", "proxy_buffering", ""),
    ("proxy-request-buffering", "proxy_request_buffering", ""),
)

HEAD = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_processes {workers};
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_timeout 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server_names_hash_bucket_size 128;
    server {{ listen 127.0.0.1:{port} default_server; return 404; }}
"""

SERVER = """
    server {{
        listen 127.0.0.1:{port};
        server_name {host};
{directives}
        location {path} {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto http;
        }}
    }}
"""


def backend_of(ingress, path):
    """ADDRESS:PORT of the Service that a path leads to; None when it is not there (yet)."""
    wanted = path["backend"]["service"]
    service = testbed.get("service", wanted["name"], "-n", ingress["metadata"]["namespace"])
    if not service:
        return None
    for port in service["spec"]["ports"]:
        if port["port"] == wanted["port"].get("number") or port.get("name") == wanted["port"].get("name", ""):
            return f"{service['spec']['clusterIP']}:{port['port']}"
    return None


def render(ingresses, class_name, folder, port):
    text = HEAD.format(workers=WORKERS, folder=folder, port=port)
    for ingress in ingresses:
        if ingress["spec"].get("ingressClassName") != class_name:
            continue
        annotations = ingress["metadata"].get("annotations", {})
        directives = "\n".join(f"        {directive} {annotations[ANNOTATION + name]}{unit};" for name, directive, unit in DIRECTIVES
                               if ANNOTATION + name in annotations)
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                upstream = backend_of(ingress, path)
                if upstream:
                    text += SERVER.format(port=port, host=rule["host"], directives=directives, path=path.get("path", "/"), upstream=upstream)
    return text + "}\n"


class IngressController:
    def __init__(self, class_name="test"):
        self.class_name = class_name
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="at-ingress-", dir="/tmp"))
        self.file = self.folder / "nginx.conf"
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.served = ""  # the configuration that nginx goes by

    def wanted(self):
        """The configuration for the Ingress objects as they are now."""
        found = json.loads(testbed.kubectl("get", "ingress", "-A", "-o", "json"))
        return render(found["items"], self.class_name, self.folder, self.port)

    def workers(self):
        """The processes of nginx that take connections; not those that only end what they began before a reload."""
        found = set()
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cmdline").read_bytes().rstrip(b"\0 ") != b"nginx: worker process":
                    continue
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                if parent == str(self.nginx.process.pid):
                    found.add(process.name)
        return found

    def look(self):
        """Makes nginx do what the Ingress objects say. When it returns nobody goes by an earlier configuration."""
        with self.lock:
            text = self.wanted()
            if text == self.served:
                return
            before = self.workers()
            self.file.write_text(text)
            testbed.run("nginx", "-c", self.file, "-s", "reload")
            wait_for(lambda: (now := self.workers()) and not now & before, testbed.PATIENCE, 0.02, "nginx reloaded")
            self.served = text

    def watch(self):
        while not self.ended.wait(0.5):
            with contextlib.suppress(AssertionError):  # the API server is away: what is configured stays
                self.look()

    def wait_for(self, host):
        def served():
            self.look()
            return f"server_name {host};" in self.served
        wait_for(served, testbed.PATIENCE, 0.3, f"an Ingress for {host}")

    def answers(self):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
            try:
                connection.request("GET", "/")
                return connection.getresponse().status == 404  # of no host that is served
            except OSError:
                return False

    def __enter__(self):
        self.served = self.wanted()
        self.file.write_text(self.served)
        self.nginx = testbed.Process("nginx", "-c", self.file).start()
        wait_for(lambda: self.answers() and len(self.workers()) == WORKERS, testbed.PATIENCE, what="nginx")
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join(testbed.PATIENCE)
        self.nginx.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
