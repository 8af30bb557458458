"""A kube-apiserver in memory that can be told to misbehave.

Lists (selectors, pages), watches (bookmarks, 410), create, replace, merge-patch, delete with finalizers, owners
and preconditions behave as the real one's; TokenReview and SelfSubjectAccessReview answer from tables. Tests then
script what a bad day looks like:

    with FakeApiserver() as api:
        api.on("PATCH", r"/sandboxes/", status(429, headers={"Retry-After": "1"}), times=1)
        api.forbidden.add(("create", "services"))
        api.cut_watches(); api.silent = True; api.compact(); api.go_away(); api.come_back()
        api.kubeconfig(path)

Others add paths of their own with `api.route(regex, handler)`; a handler gets the Request and the Connection."""

import base64
import bisect
import contextlib
import copy
import datetime
import json
import re
import socket
import ssl
import threading
import time
import urllib.parse
import uuid

from harness import free_port, wait_for

KINDS = {  # plural -> group, version, kind, namespaced, has a status subresource
    "sandboxes": ("agenttier.io", "v1alpha1", "Sandbox", True, True),
    "sandboxtemplates": ("agenttier.io", "v1alpha1", "SandboxTemplate", True, False),
    "clustersandboxtemplates": ("agenttier.io", "v1alpha1", "ClusterSandboxTemplate", False, False),
    "secrets": ("", "v1", "Secret", True, False),
    "configmaps": ("", "v1", "ConfigMap", True, False),
    "services": ("", "v1", "Service", True, True),
    "events": ("", "v1", "Event", True, False),
    "pods": ("", "v1", "Pod", True, True),
    "nodes": ("", "v1", "Node", False, True),
    "persistentvolumeclaims": ("", "v1", "PersistentVolumeClaim", True, True),
    "networkpolicies": ("networking.k8s.io", "v1", "NetworkPolicy", True, False),
    "ingresses": ("networking.k8s.io", "v1", "Ingress", True, True),
    "leases": ("coordination.k8s.io", "v1", "Lease", True, False),
    "volumesnapshots": ("snapshot.storage.k8s.io", "v1", "VolumeSnapshot", True, True),
    "volumesnapshotclasses": ("snapshot.storage.k8s.io", "v1", "VolumeSnapshotClass", False, False),
    "namespaces": ("", "v1", "Namespace", False, True),  # the last: its path is the head of the others'
}
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")


class Refused(Exception):
    """An answer that is not what was asked for."""

    def __init__(self, code, reason, message, details=None, headers=None):
        super().__init__(message)
        self.code, self.headers = code, headers or {}
        self.body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
                     "reason": reason, "details": details or {}, "code": code}


class Request:
    def __init__(self, method, target, headers, body):
        self.method, self.target, self.headers, self.body = method, target, headers, body
        split = urllib.parse.urlsplit(target)
        self.path = urllib.parse.unquote(split.path)
        self.query = dict(urllib.parse.parse_qsl(split.query, keep_blank_values=True))
        self.at = time.monotonic()

    @property
    def token(self):
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return token if kind == "Bearer" else None

    def json(self):
        return json.loads(self.body) if self.body else None

    def __repr__(self):
        return f"<{self.method} {self.target}>"


class Connection:
    """What an action or a handler writes to."""

    def __init__(self, sock):
        self.sock = sock
        self.reader = sock.makefile("rb")
        self.writing = threading.Lock()  # a test may say something on a watch, too

    def write(self, data):
        with self.writing:
            self.sock.sendall(data)

    def answer(self, code, body, headers=None, content_type="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {code} X", f"Content-Type: {content_type}", f"Content-Length: {len(data)}"]
        lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
        self.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    def start_chunks(self):
        self.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")

    def chunk(self, data):
        self.write(b"%x\r\n%s\r\n" % (len(data), data))

    def reset(self):
        """Ends the connection with RST."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        except OSError:
            pass
        self.close()

    def close(self):
        # Also wakes a thread that reads it.
        for step in (lambda: self.sock.shutdown(socket.SHUT_RDWR), self.sock.close):
            try:
                step()
            except OSError:
                pass


class Gone(Exception):
    """The connection is not to be used again."""


# ---- actions for FakeApiserver.on: called with (api, request, connection); True: the request was dealt with ----


def status(code, reason="", message="scripted", details=None, headers=None):
    def act(api, request, connection):
        raise Refused(code, reason, message, details, headers)

    return act


def delay(seconds):
    """Does what was asked later, unless the client or the server has gone by then."""

    def act(api, request, connection):
        api.stopping.wait(seconds)
        if connection not in api.connections:
            raise Gone
        return False

    return act


def raw(data):
    """Writes bytes as they are and closes."""

    def act(api, request, connection):
        connection.write(data)
        raise Gone

    return act


def body(value, code=200):
    """Answers with a value of the test's choice: a lie."""

    def act(api, request, connection):
        connection.answer(code, value)
        return True

    return act


def cut(after=0):
    """Does what was asked, and cuts the answer after so many bytes of it."""

    def act(api, request, connection):
        code, value = api.work(request)
        data = json.dumps(value).encode()
        head = f"HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        connection.write(head + data[:after])
        raise Gone

    return act


def reset():
    def act(api, request, connection):
        connection.reset()
        raise Gone

    return act


def hang():
    """Never answers; ends when the server or the client does."""

    def act(api, request, connection):
        api.stopping.wait(120)
        raise Gone

    return act


def merge_patch(target, patch):
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def selected(obj, labels, fields):
    have = obj["metadata"].get("labels") or {}
    for term in filter(None, (labels or "").split(",")):
        if "!=" in term:
            key, value = term.split("!=", 1)
            if have.get(key) == value:
                return False
        elif "=" in term:
            key, value = term.replace("==", "=").split("=", 1)
            if have.get(key) != value:
                return False
        elif term not in have:
            return False
    for term in filter(None, (fields or "").split(",")):
        path, value = term.replace("==", "=").split("=", 1)
        at = obj
        for part in path.split("."):
            at = (at or {}).get(part)
        if (at or "") != value:
            return False
    return True


class FakeApiserver:
    def __init__(self, tls=None, tokens=None, bookmarks_every=1.0):
        """`tls`: an ssl.SSLContext. `tokens`: the bearer tokens that are accepted, None for all and none."""
        self.tls, self.tokens, self.bookmarks_every = tls, tokens, bookmarks_every
        self.kinds = dict(KINDS)
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.objects = {plural: {} for plural in self.kinds}  # (namespace, name) -> object
        self.version = 100
        self.oldest = 0  # watches from before are 410
        self.log = []  # (version, plural, type, object, the object before)
        self.snapshots = {}
        self.requests = []
        self.scripts = []  # [method, regex, action, times left or None]
        self.routes = []
        self.forbidden = set()  # (verb, plural or plural/subresource[, namespace])
        self.reviewed_tokens = {}  # token -> {"username", "uid", "groups", "audiences"}
        self.quota = None  # a message: creates are refused with it
        self.silent = False  # watches send nothing, not even bookmarks
        self.stopping = threading.Event()
        self.connections = set()
        self.watching = {}  # connection -> plural
        self.told = {}  # connection of a watch -> the version up to which it was told
        self.bookmarked = {}  # plural -> the version of the bookmark that was sent last
        self.listener = None
        self.address = None

    # ---- life ----

    def __enter__(self):
        self.come_back()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.go_away()

    def come_back(self):
        """Listens, always on the same port: nobody else gets it meanwhile (free_port)."""
        self.address = self.address or ("127.0.0.1", free_port())
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self.address)
        listener.listen(128)
        self.listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def go_away(self):
        """Refuses connections and cuts those that there are."""
        listener, self.listener = self.listener, None
        if listener:
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listener.close()
        for connection in list(self.connections):
            self.connections.discard(connection)
            connection.close()
        with self.changed:
            self.changed.notify_all()

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.address[1]}"

    def kubeconfig(self, path, user=None, cluster=None):
        """Writes a kubeconfig; `user` and `cluster` add members."""
        value = {"apiVersion": "v1", "kind": "Config", "current-context": "fake",
                 "clusters": [{"name": "fake", "cluster": {"server": self.url, **(cluster or {})}}],
                 "users": [{"name": "fake", "user": user or {"token": "fake-token"}}],
                 "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}]}
        with open(path, "w", encoding="utf-8") as f:
            json.dump(value, f)  # JSON is YAML
        return path

    # ---- scripting ----

    def on(self, method, pattern, action, times=None):
        """The next `times` requests (None: all) of that method ("*": any) whose target matches get `action`."""
        self.scripts.append([method, re.compile(pattern), action, times])

    def clear(self):
        self.scripts.clear()

    def route(self, pattern, handler):
        self.routes.append((re.compile(pattern), handler))

    def asked(self, method, pattern):
        """The requests so far that match."""
        found = re.compile(pattern)
        return [r for r in list(self.requests) if method in ("*", r.method) and found.search(r.target)]

    def watchers(self, plural):
        with self.lock:
            return sum(p == plural for p in self.watching.values())

    def wait_told(self, plural):
        """Until all watches of a kind have been told what is so now."""
        version = self.version
        wait_for(lambda: all(self.told.get(c, 0) >= version for c, its in list(self.watching.items()) if its == plural), 60, 0.005,
                 f"watches of {plural} told")

    def cut_watches(self, plural=None, how="close"):
        for connection, its in list(self.watching.items()):
            if plural in (None, its):
                with self.lock:
                    self.watching.pop(connection, None)
                getattr(connection, how)()

    def compact(self):
        """Forgets the past: a watch from before now is 410."""
        with self.changed:
            self.oldest = self.version
            self.snapshots.clear()

    def backup(self):
        """Everything as it is now, for `restore`."""
        with self.lock:
            return self.version, copy.deepcopy(self.objects)

    def restore(self, backup):
        """As an operator does who restores etcd: the apiserver ends; with `come_back` there is the past, and versions
        that were given already are given again."""
        self.go_away()
        with self.changed:
            self.version, self.objects = backup[0], copy.deepcopy(backup[1])
            self.log = [entry for entry in self.log if entry[0] <= self.version]
            self.snapshots.clear()

    def say(self, plural, line):
        """Sends one line on every watch of a kind, whatever it is."""
        for connection, its in list(self.watching.items()):
            if its == plural:
                with contextlib.suppress(OSError):  # the other side may have heard enough of it
                    connection.chunk(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")

    # ---- objects, for tests ----

    def get(self, plural, name, namespace=""):
        with self.lock:
            return copy.deepcopy(self.objects[plural].get((namespace, name)))

    def all(self, plural):
        with self.lock:
            return [copy.deepcopy(o) for _, o in sorted(self.objects[plural].items())]

    def put(self, plural, obj):
        """Creates or replaces as somebody else would, status too."""
        with self.changed:
            group, version, kind, namespaced, _ = self.kinds[plural]
            obj = copy.deepcopy(obj)
            obj.setdefault("kind", kind)
            obj.setdefault("apiVersion", f"{group}/{version}" if group else version)
            key = (obj["metadata"].get("namespace", "") if namespaced else "", obj["metadata"]["name"])
            old = self.objects[plural].get(key)
            if not old:
                obj["metadata"].setdefault("uid", str(uuid.uuid4()))
                obj["metadata"].setdefault("creationTimestamp", now())
                return self._store(plural, key, obj, "ADDED")
            obj["metadata"] = {**old["metadata"], **obj["metadata"]}
            return self._store(plural, key, obj, "MODIFIED")

    def fill(self, plural, objects):
        """Takes many objects, complete ones, that were there before anybody watched: no events, no copies."""
        with self.lock:
            for obj in objects:
                self.version += 1
                obj["metadata"]["resourceVersion"] = str(self.version)
                self.objects[plural][obj["metadata"].get("namespace", ""), obj["metadata"]["name"]] = obj

    def set_status(self, plural, name, namespace="", **members):
        with self.changed:
            obj = copy.deepcopy(self.objects[plural][(namespace, name)])
            obj["status"] = {**obj.get("status", {}), **members}
            return self._store(plural, (namespace, name), obj, "MODIFIED")

    def remove(self, plural, name, namespace=""):
        with self.changed:
            self._remove(plural, (namespace, name))

    # ---- the store ----

    def _store(self, plural, key, obj, type_):
        old = self.objects[plural].get(key)
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self.objects[plural][key] = obj
        self.log.append((self.version, plural, type_, copy.deepcopy(obj), old))
        self.changed.notify_all()
        return copy.deepcopy(obj)

    def _remove(self, plural, key):
        old = self.objects[plural].pop(key)
        self.version += 1
        last = copy.deepcopy(old)
        last["metadata"]["resourceVersion"] = str(self.version)
        self.log.append((self.version, plural, "DELETED", last, old))
        for other in self.objects:  # the garbage collector
            for k, o in list(self.objects[other].items()):
                if any(r.get("uid") == old["metadata"]["uid"] for r in o["metadata"].get("ownerReferences", [])):
                    self._remove(other, k)
        self.changed.notify_all()
        return last

    def _not_found(self, plural, name):
        group = self.kinds[plural][0]
        what = f"{plural}.{group}" if group else plural
        return Refused(404, "NotFound", f'{what} "{name}" not found', {"name": name, "group": group, "kind": plural})

    def _list(self, plural, namespace, query):
        group, version, kind, _, _ = self.kinds[plural]
        limit = int(query.get("limit", 0) or 0)
        if query.get("continue"):
            snapshot = self.snapshots.pop(query["continue"], None)
            if snapshot is None:
                raise Refused(410, "Expired", "The provided continue parameter is too old")
            items, taken_at = snapshot
        else:
            items = [o for (ns, _), o in sorted(self.objects[plural].items())
                     if (not namespace or ns == namespace)
                     and selected(o, query.get("labelSelector"), query.get("fieldSelector"))]
            taken_at = self.version
        metadata = {"resourceVersion": str(taken_at)}
        if limit and len(items) > limit:
            token = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()
            self.snapshots[token] = (items[limit:], taken_at)
            metadata["continue"] = token
            items = items[:limit]
        return 200, {"kind": kind + "List", "apiVersion": f"{group}/{version}" if group else version,
                     "metadata": metadata, "items": items}

    def _create(self, plural, namespace, obj):
        group, version, kind, namespaced, has_status = self.kinds[plural]
        obj = copy.deepcopy(obj)
        metadata = obj.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        name = metadata.get("name", "")
        if not NAME.match(name) or len(name) > 253:
            raise Refused(422, "Invalid", f'{kind} "{name}" is invalid: metadata.name: Invalid value: "{name}"',
                          {"name": name, "causes": [{"field": "metadata.name", "reason": "FieldValueInvalid"}]})
        if namespaced and metadata.setdefault("namespace", namespace) != namespace:
            raise Refused(400, "BadRequest", "the namespace of the object does not match the request")
        if self.quota and plural in ("pods", "services", "sandboxes", "persistentvolumeclaims"):
            raise Refused(403, "Forbidden", f'{plural} "{name}" is forbidden: exceeded quota: {self.quota}')
        key = (namespace if namespaced else "", name)
        if key in self.objects[plural]:
            what = f"{plural}.{group}" if group else plural
            raise Refused(409, "AlreadyExists", f'{what} "{name}" already exists', {"name": name})
        metadata.update(uid=str(uuid.uuid4()), creationTimestamp=now(), generation=1)
        metadata["managedFields"] = [{"manager": "agenttier-router", "operation": "Update"}]
        if has_status:
            obj.pop("status", None)
        if plural == "secrets":
            for k, v in (obj.pop("stringData", None) or {}).items():
                obj.setdefault("data", {})[k] = base64.b64encode(v.encode()).decode()
        if plural == "services":
            obj.setdefault("spec", {}).setdefault("clusterIP", "198.19.0.7")
        return 201, self._store(plural, key, obj, "ADDED")

    def _update(self, plural, key, obj, subresource, patched):
        """`obj` is the whole new object, also for a patch."""
        _, _, kind, _, has_status = self.kinds[plural]
        old = self.objects[plural].get(key)
        if old is None:
            raise self._not_found(plural, key[1])
        metadata = obj.get("metadata", {})
        version, uid = metadata.get("resourceVersion"), metadata.get("uid")
        conflict = f'Operation cannot be fulfilled on {plural} "{key[1]}": '
        if not version and not patched and self.kinds[plural][0] == "agenttier.io":
            raise Refused(422, "Invalid", f'{kind} "{key[1]}" is invalid: metadata.resourceVersion: must be specified')
        if uid and uid != old["metadata"]["uid"] and subresource != "status":
            if patched:
                raise Refused(422, "Invalid", f"{kind} is invalid: metadata.uid: field is immutable", {
                    "name": key[1], "causes": [{"field": "metadata.uid", "reason": "FieldValueInvalid"}]})
            raise Refused(409, "Conflict", conflict + "Precondition failed: UID in precondition")
        if version and version != old["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", conflict + "the object has been modified; please apply your changes to "
                                                      "the latest version and try again")
        new = copy.deepcopy(old)
        if subresource == "status":
            new["status"] = obj.get("status", {})
        else:
            new = copy.deepcopy(obj)
            if has_status:
                new.pop("status", None)
                if "status" in old:
                    new["status"] = copy.deepcopy(old["status"])
            kept = {k: old["metadata"][k] for k in ("uid", "creationTimestamp", "resourceVersion", "generation",
                                                    "deletionTimestamp", "managedFields") if k in old["metadata"]}
            new["metadata"] = {**metadata, **kept}
            if new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
        if new == old:
            return 200, copy.deepcopy(old)
        if "deletionTimestamp" in old["metadata"] and not new["metadata"].get("finalizers"):
            self.objects[plural][key] = new
            return 200, self._remove(plural, key)
        return 200, self._store(plural, key, new, "MODIFIED")

    def _delete(self, plural, key, options):
        old = self.objects[plural].get(key)
        if old is None:
            raise self._not_found(plural, key[1])
        wanted = (options or {}).get("preconditions", {})
        for member in ("uid", "resourceVersion"):
            if wanted.get(member) and wanted[member] != old["metadata"][member]:
                raise Refused(409, "Conflict", f"Precondition failed: {member} in precondition")
        if old["metadata"].get("finalizers"):
            if "deletionTimestamp" in old["metadata"]:
                return 200, copy.deepcopy(old)
            marked = copy.deepcopy(old)
            marked["metadata"].update(deletionTimestamp=now(), deletionGracePeriodSeconds=0)
            return 200, self._store(plural, key, marked, "MODIFIED")
        self._remove(plural, key)
        return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                     "details": {"name": key[1], "kind": plural, "uid": old["metadata"]["uid"]}}

    # ---- requests ----

    def _allowed(self, verb, resource, namespace):
        return not any(rule[0] in (verb, "*") and rule[1] in (resource, "*") and (len(rule) < 3 or rule[2] == namespace)
                       for rule in tuple(self.forbidden))  # tests change it meanwhile

    def _parse(self, path):
        """plural, namespace, name, subresource; or None."""
        for plural, (group, version, _, _, _) in list(self.kinds.items()):  # tests change it meanwhile
            root = f"/apis/{group}/{version}" if group else f"/api/{version}"
            found = re.match(re.escape(root) + r"(?:/namespaces/([^/]+))?/" + plural +
                             r"(?:/([^/]+))?(?:/([^/]+))?\Z", path)
            if found:
                return plural, found.group(1) or "", found.group(2), found.group(3)
        return None

    def _discovery(self, path):
        """What /apis and /apis/GROUP/VERSION answer; None for everything else, and for groups that are not there."""
        kinds = dict(self.kinds)
        groups = {(group, version) for group, version, *_ in kinds.values() if group}
        if path == "/apis":
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [
                {"name": group, "versions": [{"groupVersion": f"{group}/{version}", "version": version}]} for group, version in sorted(groups)]}
        group, _, version = path.removeprefix("/apis/").partition("/")
        if not path.startswith("/apis/") or (group, version) not in groups:
            return None
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{group}/{version}", "resources": [
            {"name": plural, "namespaced": kind[3], "kind": kind[2], "verbs": ["get", "list", "create", "delete"]}
            for plural, kind in kinds.items() if kind[:2] == (group, version)]}

    def _review(self, request):
        spec = request.json()["spec"]
        if request.path.endswith("/tokenreviews"):
            known = self.reviewed_tokens.get(spec["token"])
            wanted = spec.get("audiences") or []
            matching = [a for a in wanted if a in known["audiences"]] if known else []
            result = {"authenticated": bool(matching)}
            if matching:
                result.update(audiences=matching, user={k: known.get(k) for k in ("username", "uid", "groups")})
            return 201, {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": result}
        a = spec["resourceAttributes"]
        resource = a["resource"] + ("/" + a["subresource"] if a.get("subresource") else "")
        return 201, {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
                     "status": {"allowed": self._allowed(a["verb"], resource, a.get("namespace", ""))}}

    def work(self, request):
        """Does what a request asks and returns status and value. For actions, too."""
        if request.path.endswith(("/tokenreviews", "/selfsubjectaccessreviews")):
            return self._review(request)
        if request.path in ("/version", "/readyz", "/healthz"):
            return 200, {"major": "1", "minor": "34", "gitVersion": "v1.34.4"}
        found = self._discovery(request.path)
        if found:
            return 200, found
        parsed = self._parse(request.path)
        if not parsed:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        plural, namespace, name, subresource = parsed
        verb = {"GET": "get" if name else "list", "POST": "create", "PUT": "update", "PATCH": "patch",
                "DELETE": "delete"}[request.method]
        resource = plural + ("/" + subresource if subresource else "")
        group = self.kinds[plural][0]
        if not self._allowed(verb, resource, namespace):
            raise Refused(403, "Forbidden", f'{plural} is forbidden: User "system:serviceaccount:agenttier:router" '
                          f'cannot {verb} resource "{resource}" in API group "{group}"', {"kind": plural})
        with self.changed:
            key = (namespace, name)
            if request.method == "GET" and not name:
                return self._list(plural, namespace, request.query)
            if request.method == "GET":
                if key not in self.objects[plural]:
                    raise self._not_found(plural, name)
                return 200, copy.deepcopy(self.objects[plural][key])
            if request.method == "POST":
                return self._create(plural, namespace, request.json())
            if request.method == "PUT":
                return self._update(plural, key, request.json(), subresource, False)
            if request.method == "DELETE":
                return self._delete(plural, key, request.json())
            if request.headers.get("content-type") != "application/merge-patch+json":
                raise Refused(415, "UnsupportedMediaType", "only merge patches are supported")
            if key not in self.objects[plural]:
                raise self._not_found(plural, name)
            patch = request.json()
            whole = copy.deepcopy(merge_patch(self.objects[plural][key], patch))
            stated = patch.get("metadata", {}).get("resourceVersion")
            whole["metadata"].pop("resourceVersion", None)
            if stated:
                whole["metadata"]["resourceVersion"] = stated
            return self._update(plural, key, whole, subresource, True)

    def _watch(self, request, connection):
        plural, namespace, _, _ = self._parse(request.path)
        if not self._allowed("watch", plural, namespace):
            raise Refused(403, "Forbidden", f'{plural} is forbidden: User "router" cannot watch resource "{plural}" '
                          f'in API group "{self.kinds[plural][0]}"')
        after = int(request.query.get("resourceVersion") or 0)
        bookmarks = request.query.get("allowWatchBookmarks") == "true"
        until = time.monotonic() + float(request.query.get("timeoutSeconds") or 3600)
        labels, fields = request.query.get("labelSelector"), request.query.get("fieldSelector")
        connection.start_chunks()
        if after < self.oldest:
            connection.chunk(json.dumps({"type": "ERROR", "object": Refused(
                410, "Expired", f"too old resource version: {after} ({self.oldest})").body}).encode() + b"\n")
            connection.write(b"0\r\n\r\n")
            return
        with self.lock:
            self.watching[connection] = plural
        try:
            marked = time.monotonic()
            while not self.stopping.is_set() and time.monotonic() < until and connection in self.connections:
                with self.changed:
                    lines, seen = [], self.version
                    if not self.silent:
                        news = bisect.bisect_right(self.log, after, key=lambda entry: entry[0])
                        for _, its, type_, obj, old in self.log[news:]:
                            if its == plural and (not namespace or obj["metadata"].get("namespace") == namespace):
                                lines += self._events(type_, obj, old, labels, fields)
                        after = max(after, seen)  # a version from the future is waited for
                    if not lines:
                        self.changed.wait(0.1)
                if bookmarks and not self.silent and not lines and after == seen and time.monotonic() - marked > self.bookmarks_every:
                    marked = time.monotonic()
                    group, version, kind, _, _ = self.kinds[plural]
                    lines = [{"type": "BOOKMARK", "object": {
                        "kind": kind, "apiVersion": f"{group}/{version}" if group else version,
                        "metadata": {"resourceVersion": str(after), "creationTimestamp": None}}}]
                for line in lines:
                    connection.chunk(json.dumps(line).encode() + b"\n")
                    if line["type"] == "BOOKMARK":
                        self.bookmarked[plural] = after
                with self.lock:
                    self.told[connection] = after
            connection.write(b"0\r\n\r\n")
        finally:
            with self.lock:
                self.watching.pop(connection, None)
                self.told.pop(connection, None)

    @staticmethod
    def _events(type_, obj, old, labels, fields):
        """An object that begins or ceases to be selected is added or deleted, for a watch with a selector."""
        is_in = selected(obj, labels, fields)
        was_in = old is not None and selected(old, labels, fields)
        if type_ == "DELETED":
            return [{"type": "DELETED", "object": obj}] if was_in or is_in else []
        if is_in:
            return [{"type": "MODIFIED" if was_in else "ADDED", "object": obj}]
        return [{"type": "DELETED", "object": obj}] if was_in else []

    # ---- connections ----

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        connection = None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
            connection = Connection(sock)
            self.connections.add(connection)
            if self.listener is None:
                return
            while not self.stopping.is_set():
                request = self._read(connection)
                if request is None:
                    return
                self.requests.append(request)
                self._handle(request, connection)
        except (OSError, Gone, ValueError):
            pass
        finally:
            if connection:
                self.connections.discard(connection)
                connection.close()
            else:
                sock.close()

    @staticmethod
    def _read(connection):
        line = connection.reader.readline(65536)
        if not line.strip():
            return None
        method, target, _ = line.decode("latin-1").split(" ", 2)
        headers = {}
        while True:
            line = connection.reader.readline(65536)
            if not line.endswith(b"\n"):
                return None
            line = line.strip()
            if not line:
                break
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        body = connection.reader.read(length)
        return Request(method, target, headers, body) if len(body) == length else None

    def _script(self, request):
        with self.lock:
            for script in self.scripts:
                method, pattern, action, times = script
                if method in ("*", request.method) and pattern.search(request.target) and times != 0:
                    if times is not None:
                        script[3] = times - 1
                    return action
        return None

    def _handle(self, request, connection):
        try:
            if self.tokens is not None and request.token not in self.tokens:
                raise Refused(401, "Unauthorized", "Unauthorized")
            action = self._script(request)
            if action and action(self, request, connection):
                return
            for pattern, handler in self.routes:
                if pattern.search(request.path):
                    handler(request, connection)
                    return
            if request.query.get("watch") in ("true", "1") and self._parse(request.path):
                self._watch(request, connection)
                return
            code, value = self.work(request)
            connection.answer(code, value)
        except Refused as refused:
            connection.answer(refused.code, refused.body, refused.headers)
