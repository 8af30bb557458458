"""The chart without an installation: what it renders for which values, and that the API server takes it."""

import json

import pytest
import yaml

from testbed import CHART, RESTRICTED, apply, helm, install_crds, kubectl, new_namespace, run

NS = "chart"

VALUES = {
    "defaults": {},
    "dev": {"auth": {"devAuth": True}},
    "one replica": {"router": {"replicas": 1}, "optional": {"pdb": {"enabled": False}}, "templates": {"enabled": False}},
    "everything": {
        "global": {"registry": "images.example.com/team"}, "imagePullSecrets": [{"name": "pull"}],
        "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "k", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]}}},
        "router": {"replicas": 5, "threads": 8, "maxCPU": "8", "maxMemory": "16Gi", "trustedProxies": ["10.0.0.0/8", "fd00::/8"],
                   "rateLimit": {"perIPPerSecond": 10, "perUserPerSecond": 20.5}, "service": {"type": "NodePort", "port": 80, "annotations": {"a": "b"}},
                   "extraArgs": ["--log-level=debug"], "extraEnv": [{"name": "X", "value": "y"}], "podAnnotations": {"c": "d"}, "podLabels": {"e": "f"},
                   "serviceAccount": {"annotations": {"g": "h"}}},
        "controller": {"replicas": 2, "maxConcurrency": 3, "leaderElect": True, "logLevel": "debug", "image": {"repository": "mirror.example.com/ctl", "tag": "v1"}},
        "auth": {"sharingLevels": "enforced", "oidc": {"issuerUrl": "https://login.example.com", "clientId": "agenttier", "adminGroup": "ops", "groupClaim": "roles", "ca": {"configMap": "issuer-ca"}},
                 "serviceAccounts": {"namespaces": ["ci", "default"], "audiences": ["agenttier"]}},
        "cors": {"allowedOrigins": ["https://ui.example.com"]}, "networking": {"previewDomain": ".preview.example.com", "portForwardIngressClass": "nginx", "previewTLSSecret": "wildcard"},
        "security": {"gvisor": {"enabled": True}},
        "optional": {"storage": {"enabled": True, "storageClass": "fast", "size": "2Gi"}, "ingress": {"enabled": True, "className": "nginx", "host": "agenttier.example.com", "tls": [{"secretName": "t", "hosts": ["agenttier.example.com"]}]}}},
    "a history that stays": {"router": {"replicas": 1}, "optional": {"storage": {"enabled": True, "persistent": True}}},
    "scheduled backups": {"optional": {"backup": {"snapshots": {"enabled": True, "intervalHours": 12, "retentionDays": 7, "snapshotClassName": "fast"}}}},
    "only the Router": {"controller": {"enabled": False}, "router": {"networkPolicy": {"enabled": False}}},
    # A values file written for the reference chart.
    "of the reference": {
        "controller": {"replicas": 1, "manageCRDs": True, "maxConcurrency": 10}, "router": {"replicas": 2, "service": {"type": "ClusterIP", "port": 8080}},
        "webui": {"replicas": 1, "service": {"port": 80}}, "auth": {"devAuth": False, "apiKeys": {"enabled": True}, "oidc": {"clientSecretRef": {"name": "x"}}},
        "defaults": {"sandboxNamespace": "sandboxes", "sandbox": {"image": "sandbox-general", "timeout": "24h"}, "rl": {"image": "sandbox-rl", "irsaRoleArn": ""}},
        "networking": {"defaultPolicy": "deny", "gatewayName": "", "previewDomain": "p.example.com"}, "security": {"podSecurityStandard": "restricted"},
        "observability": {"otlp": {"endpoint": ""}, "prometheus": {"enabled": True}}, "costs": {"cpuHour": 0.05},
        "optional": {"pdb": {"enabled": True}, "backup": {"snapshots": {"enabled": False}}, "headroom": {"enabled": False}}},
}


@pytest.fixture(scope="module", autouse=True)
def namespace():
    install_crds()
    new_namespace(NS, *RESTRICTED)
    yield
    kubectl("delete", "namespace", NS, "--wait=false")


def template(values=None, *options, release="agenttier", check=True):
    done = run("helm", "template", release, CHART, "-n", NS, "-f", "-", *options, data=json.dumps(values or {}), check=check)
    return [d for d in yaml.safe_load_all(done.stdout) if d] if check else done.stderr


def of(objects, kind, name=None):
    return [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]


def one(objects, kind, name):
    (found,) = of(objects, kind, name)
    return found


def arguments(objects, component="router"):
    return one(objects, "Deployment", f"agenttier-{component}")["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("name", VALUES)
def test_helm_lint(name, tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(VALUES[name]))
    helm("lint", "--strict", CHART, "-f", file)


@pytest.mark.parametrize("name", VALUES)
def test_the_api_server_takes_every_manifest(name):
    text = run("helm", "template", "agenttier", CHART, "-n", NS, "-f", "-", data=json.dumps(VALUES[name])).stdout
    done = apply(text, "--dry-run=server", "--validate=strict")
    # Objects that helm has installed already lack kubectl's own mark.
    warnings = [line for line in done.stderr.splitlines() if "Warning" in line and "last-applied-configuration" not in line]
    assert not warnings, warnings


@pytest.mark.parametrize("name", VALUES)
def test_names_and_labels(name):
    for found in template(VALUES[name]):
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "agenttier" and labels["app.kubernetes.io/managed-by"] == "Helm"
        cluster_wide = found["kind"] in ("ClusterRole", "ClusterRoleBinding", "ClusterSandboxTemplate", "RuntimeClass")
        assert found["metadata"].get("namespace") == (None if cluster_wide else NS), found["metadata"]


def test_16_names_follow_the_release():
    assert one(template(release="prod"), "Service", "prod-agenttier-router")
    assert one(template(release="my-agenttier"), "Service", "my-agenttier-router")
    assert one(template({"fullnameOverride": "x"}), "Service", "x-router")


def test_tutorial_2_the_service_has_port_80_and_the_one_of_the_reference():
    ports = one(template(), "Service", "agenttier-router")["spec"]["ports"]
    assert [(p["port"], p["targetPort"]) for p in ports] == [(80, "http"), (8080, "http")]
    assert [p["port"] for p in one(template(VALUES["everything"]), "Service", "agenttier-router")["spec"]["ports"]] == [80]


@pytest.mark.parametrize("name", VALUES)
def test_every_pod_is_locked_down(name):
    objects = template(VALUES[name])
    for found in of(objects, "Deployment") + of(objects, "Pod"):
        pod = found["spec"]["template"]["spec"] if found["kind"] == "Deployment" else found["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] != 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]} and "privileged" not in security
        if found["kind"] == "Deployment":
            assert pod["containers"][0]["resources"]["limits"]["memory"]
            assert all(pod["containers"][0][probe] for probe in ("startupProbe", "livenessProbe", "readinessProbe"))
    assert not any("hostPath" in json.dumps(o) for o in objects)


def rules(objects, kind, name):
    return [(group, resource, tuple(rule["verbs"])) for rule in one(objects, kind, name)["rules"]
            for group in rule["apiGroups"] for resource in rule["resources"]]


@pytest.mark.parametrize("component", ["router", "controller"])
def test_I37_S24_no_more_rights_than_needed(component):
    objects = template()
    everywhere = rules(objects, "ClusterRole", f"agenttier-{component}")
    for group, resource, verbs in everywhere + rules(objects, "Role", f"agenttier-{component}"):
        assert "*" not in (group, resource, *verbs)
        assert resource not in ("nodes/proxy", "pods/attach", "pods/portforward", "serviceaccounts/token")
        assert group != "rbac.authorization.k8s.io" and not {"escalate", "bind", "impersonate"} & set(verbs)
    secrets = [verbs for _, resource, verbs in everywhere if resource == "secrets"]
    assert len(secrets) == 1 and not {"list", "watch", "deletecollection"} & set(secrets[0])
    if component == "router":
        assert secrets == [("get",)]
        assert not [v for _, r, v in everywhere if r in ("pods", "persistentvolumeclaims") and {"create", "update", "patch", "delete"} & set(v)]
    else:
        assert not [v for _, r, v in everywhere if r == "tokenreviews"]
        (reading,) = [rule for rule in one(objects, "Role", "agenttier-controller")["rules"] if "configmaps" in rule["resources"]]
        assert reading["resourceNames"] == ["agenttier-warmpool-config"] and reading["verbs"] == ["get", "list", "watch"]
        assert not [v for _, r, v in everywhere if r == "configmaps"]


def test_5_7_scheduled_backups_are_flags_of_the_controller_and_rights_to_go_with_them():
    name = ("snapshot.storage.k8s.io", "volumesnapshots")
    for values, verbs, expected in (({}, ("get", "create"), []),
                                    (VALUES["scheduled backups"], ("get", "list", "create", "delete"),
                                     ["--backup-snapshots=true", "--backup-interval=12h", "--backup-retention=168h", "--backup-snapshot-class=fast"])):
        objects = template(values)
        args = one(objects, "Deployment", "agenttier-controller")["spec"]["template"]["spec"]["containers"][0]["args"]
        assert [a for a in args if a.startswith("--backup")] == expected
        assert (*name, verbs) in rules(objects, "ClusterRole", "agenttier-controller")
    assert (*name, ("get", "list", "create", "delete")) in rules(template(), "ClusterRole", "agenttier-router")


def test_I15_exec_over_websocket_on_old_and_new_clusters():
    for component in ("router", "controller"):
        assert ("", "pods/exec", ("get", "create")) in rules(template(), "ClusterRole", f"agenttier-{component}")


def test_I37_an_account_for_each_program():
    objects = template()
    assert {a["metadata"]["name"] for a in of(objects, "ServiceAccount")} == {"agenttier-router", "agenttier-controller"}
    for binding in of(objects, "ClusterRoleBinding") + of(objects, "RoleBinding"):
        (subject,) = binding["subjects"]
        assert subject["name"] == binding["roleRef"]["name"] == binding["metadata"]["name"]
    without = template(VALUES["only the Router"])
    assert not [o for o in without if "controller" in o["metadata"]["name"]]


def test_dev_auth_listens_where_only_port_forward_gets():
    dev, usual = template(VALUES["dev"]), template()
    assert "--dev-auth" in arguments(dev) and "--listen-addr=localhost:8080" in arguments(dev)
    assert "--dev-auth" not in arguments(usual) and "--listen-addr=:8080" in arguments(usual)
    for objects in (dev, usual):
        container = one(objects, "Deployment", "agenttier-router")["spec"]["template"]["spec"]["containers"][0]
        assert "--probe-addr=:8081" in container["args"]
        assert {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {"probes"}
    message = template({"auth": {"devAuth": True}, "optional": {"ingress": {"enabled": True}}}, check=False)
    assert "devAuth lets everyone in" in message


def test_two_replicas_survive_a_drain():
    objects = template()
    assert one(objects, "Deployment", "agenttier-router")["spec"]["replicas"] == 2
    assert one(objects, "PodDisruptionBudget", "agenttier-router")["spec"]["minAvailable"] == 1
    assert one(objects, "Deployment", "agenttier-router")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert not of(template(VALUES["one replica"]), "PodDisruptionBudget")


def test_5_11_pods_carry_the_label_that_network_policies_of_sandboxes_select():
    labels = one(template(), "Deployment", "agenttier-router")["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == "router"


def test_W82_the_ingress_lets_files_and_long_commands_through():
    (ingress,) = of(template(VALUES["everything"]), "Ingress")
    annotations = ingress["metadata"]["annotations"]
    prefix = "nginx.ingress.kubernetes.io/"
    assert int(annotations[prefix + "proxy-body-size"].rstrip("m")) > 32
    assert int(annotations[prefix + "proxy-read-timeout"]) >= 3600 and int(annotations[prefix + "proxy-send-timeout"]) >= 3600
    assert annotations[prefix + "proxy-buffering"] == "off" and annotations[prefix + "proxy-request-buffering"] == "off"
    assert ingress["spec"]["ingressClassName"] == "nginx" and ingress["spec"]["tls"]


def test_values_reach_the_programs():
    objects = template(VALUES["everything"])
    for argument in ("--oidc-issuer=https://login.example.com", "--oidc-client-id=agenttier", "--admin-group=ops", "--group-claim=roles", "--oidc-ca-file=/etc/agenttier/oidc/ca.crt",
                     "--cors-allowed-origins=https://ui.example.com", "--preview-domain=.preview.example.com", "--ingress-class-name=nginx", "--preview-tls-secret=wildcard",
                     "--trusted-proxies=10.0.0.0/8,fd00::/8", "--ratelimit-per-ip-rate=10", "--ratelimit-per-user-rate=20.5", "--max-cpu=8",
                     "--max-memory=16Gi", "--threads=8", "--sharing-levels=enforced", "--log-level=debug"):
        assert argument in arguments(objects), argument
    assert "--max-concurrency=3" in arguments(objects, "controller")
    images = {d["metadata"]["name"]: d["spec"]["template"]["spec"]["containers"][0]["image"] for d in of(objects, "Deployment")}
    assert images == {"agenttier-router": "images.example.com/team/agenttier:v0.9.0", "agenttier-controller": "mirror.example.com/ctl:v1"}
    assert one(objects, "RuntimeClass", "gvisor")["handler"] == "runsc"


def test_16_4_bundled_templates():
    found = {t["metadata"]["name"]: t["spec"] for t in of(template(), "ClusterSandboxTemplate")}
    assert sorted(found) == ["claude-code-bedrock", "general-coding", "langgraph-agent", "openclaw-bedrock", "rl-rollout", "strands-bedrock"]
    for spec in found.values():
        assert spec["storage"]["mountPath"] == "/workspace" and spec["network"] == {"allowInternet": True}
        assert spec["harness"]["useHTTPExec"] is True and spec["timeout"] == "24h"
    assert {name for name, spec in found.items() if spec["mode"] == "agent"} == {"langgraph-agent", "rl-rollout"}
    assert found["rl-rollout"]["harness"]["agent"] == {"entrypoint": ["python", "/workspace/agent.py"], "defaultInvokeTimeout": "10m"}
    assert found["langgraph-agent"]["harness"]["agent"]["defaultInvokeTimeout"] == "30m"
    for value, image in (("x", "r.example.com/x:v0.8.1"), ("x:1", "x:1"), ("a/b", "a/b:v0.8.1"), ("a/b:2", "a/b:2")):
        objects = template({"global": {"registry": "r.example.com"}, "defaults": {"sandbox": {"image": value}}, "templates": {"only": ["general-coding"]}})
        (only,) = of(objects, "ClusterSandboxTemplate")
        assert only["spec"]["image"]["repository"] == image


@pytest.mark.parametrize("values,word", [
    ({"router": {"replicas": 0}}, "replicas"), ({"router": {"replica": 2}}, "replica"), ({"auth": {"devAuth": "yes"}}, "devAuth"),
    ({"auth": {"oidc": {"issuerUrl": "login.example.com"}}}, "issuerUrl"), ({"networking": {"previewDomain": "*.example.com"}}, "previewDomain"),
    ({"router": {"image": {"pullPolicy": "Maybe"}}}, "pullPolicy"), ({"routers": {}}, "routers"), ({"cors": {"allowedOrigins": ["*"]}}, "allowedOrigins"),
    ({"templates": {"only": ["nothing"]}}, "only"), ({"router": {"trustedProxies": ["proxy.example.com"]}}, "trustedProxies"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_the_schema_of_values_names_mistakes(values, word):
    assert word in template(values, check=False)


def test_a_history_for_each_replica_or_one_that_stays():
    deployment = one(template(VALUES["everything"]), "Deployment", "agenttier-router")["spec"]
    (volume,) = [v for v in deployment["template"]["spec"]["volumes"] if v["name"] == "history"]
    assert volume["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert "--history-db=/var/lib/agenttier/agenttier.db" in arguments(template(VALUES["everything"]))
    # each is asked for all of them
    peers = one(template(VALUES["everything"]), "Service", "agenttier-router-peers")["spec"]
    assert peers["clusterIP"] == "None" and peers["ports"] == [{"name": "http", "port": 8080, "targetPort": "http"}]
    assert any(a.startswith("--history-peers=agenttier-router-peers.") and a.endswith(".svc:8080") for a in arguments(template(VALUES["everything"])))
    objects = template(VALUES["a history that stays"])
    assert not any("history-peers" in a for a in arguments(objects))
    assert one(objects, "PersistentVolumeClaim", "agenttier-router-storage")
    assert one(objects, "Deployment", "agenttier-router")["spec"]["strategy"] == {"type": "Recreate"}
    assert "router.replicas=1" in template({"optional": {"storage": {"enabled": True, "persistent": True}}}, check=False)
    assert not any("history" in a for a in arguments(template()))


def test_prometheus_finds_both():
    objects = template({"observability": {"prometheus": {"serviceMonitor": True, "labels": {"release": "prom"}}}})
    (monitor,) = of(objects, "ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prom"
    names = {p["name"] for s in of(objects, "Service") for p in s["spec"]["ports"]}
    assert {e["port"] for e in monitor["spec"]["endpoints"]} <= names
    assert not of(template(), "ServiceMonitor")


@pytest.mark.parametrize("name,words", [
    ("dev", ["NO authentication", "kubectl port-forward -n chart svc/agenttier-router 8081:80"]),
    ("defaults", ["create-key --backend=kubernetes --sub admin --admin", "kubectl port-forward"]),
    ("everything", ["https://agenttier.example.com", "*.preview.example.com"]),
])
def test_notes_say_what_to_do_next(name, words):
    text = helm("install", "agenttier", CHART, "-n", NS, "--dry-run=client", "--take-ownership", "-f", "-", data=json.dumps(VALUES[name]))
    notes = text.partition("NOTES:")[2]
    assert all(word in notes for word in words), notes


@pytest.mark.parametrize("trusted, said", [([], True), (["10.0.0.0/8"], False)])
def test_notes_name_an_ingress_that_is_not_trusted(trusted, said):
    values = {"router": {"trustedProxies": trusted}, "optional": {"ingress": {"enabled": True, "host": "agenttier.example.com"}}}
    text = helm("install", "agenttier", CHART, "-n", NS, "--dry-run=client", "--take-ownership", "-f", "-", data=json.dumps(values))
    assert ("router.trustedProxies is empty" in text.partition("NOTES:")[2]) == said, text
