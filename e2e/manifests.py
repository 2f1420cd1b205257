"""Judges the overlays of k8s/, as `kubectl kustomize` prints them: manifests.py NAME=FILE...

- against Kubernetes' own schemas, nothing unknown allowed: `test` for 1.20, the others for 1.30 (from where on a
  container's preStop may be a pause) and for the newest version that is known;
- against what Berth promises of them.

Writes the alert rules of each overlay beside it, as FILE.rules, for promtool. Prints what is wrong and ends with 1.
"""

import os
import subprocess
import sys
import yaml

# Kinds that others define: no schema is at hand. The API server that has them judges them at once.
OTHERS = {"Gateway", "HTTPRoute", "ServiceMonitor", "PrometheusRule"}
VERSIONS = {"dev": ["1.30", "newest"], "production": ["1.30", "newest"], "test": ["1.20"]}

# Where a release is that still knows 1.20.
OLD = os.environ["BERTH_VALIDATE_OLD"]
# Run apart, since two releases do not fit into one process.
VALIDATE = """
import sys, yaml, kubernetes_validate as k
version = sys.argv[1] or k.latest_version()
for o in yaml.safe_load_all(sys.stdin):
    try:
        judged = k.validate(o, version, strict=True)
        assert version.startswith(judged), f'judged by {judged}'
    except Exception as why:
        sys.exit(f"{o['kind']} {o['metadata']['name']}: {why}")
print(version)
"""

wrong = []


def check(holds, what):
    if not holds:
        wrong.append(what)


def validate(overlay, objects, version):
    """Asks kubernetes-validate, whose new releases have forgotten old versions: 1.20 has its own."""
    program = [sys.executable, "-c", VALIDATE, "" if version == "newest" else version]
    known = [o for o in objects if o["kind"] not in OTHERS]
    path = OLD if version == "1.20" else None
    environment = {"PYTHONPATH": path} if path else {}
    ran = subprocess.run(program, input=yaml.dump_all(known), text=True, capture_output=True, env=environment)
    check(ran.returncode == 0, f"{overlay} for {version}: {ran.stdout}{ran.stderr}")
    print(f"{overlay}: {len(known)} objects judged by the schemas of {ran.stdout.strip() or version}")


def by_kind(objects, kind):
    return [o for o in objects if o["kind"] == kind]


def one(objects, kind, name):
    found = [o for o in by_kind(objects, kind) if o["metadata"]["name"] == name]
    return found[0] if len(found) == 1 else sys.exit(f"{len(found)} of {kind} {name}")


def restricted(where, pod):
    """Pod Security's level `restricted`, and bounds on what each container may use."""
    context = pod.get("securityContext", {})
    check(context.get("runAsNonRoot") is True, f"{where} may run as root")
    check(context.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{where} has no seccomp profile")
    for volume in pod.get("volumes", []):
        check({"emptyDir", "persistentVolumeClaim", "secret", "configMap", "projected"} & volume.keys(), f"{where}: {volume}")
    for container in pod.get("initContainers", []) + pod["containers"]:
        name, own = f"{where}/{container['name']}", container.get("securityContext", {})
        check(own.get("allowPrivilegeEscalation") is False, f"{name} may become more")
        check(own.get("capabilities") == {"drop": ["ALL"]}, f"{name} has capabilities")
        check(own.get("readOnlyRootFilesystem") is True, f"{name} may write to its image")
        for bound in ("requests", "limits"):
            given = container.get("resources", {}).get(bound, {})
            check({"cpu", "memory", "ephemeral-storage"} <= given.keys(), f"{name} has no {bound}")
        check(container.get("imagePullPolicy") == "IfNotPresent", f"{name} would ask the registry at each start")


def judge(overlay, objects):
    deployment = one(objects, "Deployment", "berth-control-plane")
    pull = one(objects, "DaemonSet", "berth-pre-pull")
    for workload in by_kind(objects, "Deployment") + by_kind(objects, "DaemonSet"):
        restricted(workload["metadata"]["name"], workload["spec"]["template"]["spec"])

    # The server: never two for SQLite, never none for the others, and time for a last word.
    spec = deployment["spec"]
    pod, container = spec["template"]["spec"], spec["template"]["spec"]["containers"][0]
    if overlay == "production":
        check(spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, "an update leaves nobody to answer")
    else:
        check(spec["strategy"] == {"type": "Recreate"}, f"{overlay}: two servers on one SQLite")
    check(spec["replicas"] == 1, f"{overlay}: more than one replica is not supported yet")
    check(pod["terminationGracePeriodSeconds"] == 60, f"{overlay}: no time to drain")
    if overlay != "test":
        check(container["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5, f"{overlay}: stops while it is still dialled")
    for probe, path in (("startupProbe", "/healthz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        check(container[probe]["httpGet"] == {"path": path, "port": "http"}, f"{overlay}: {probe}")

    # What is pulled ahead is what sessions get; names that are settings must be those of the objects.
    settings = {e["name"]: e.get("value") for e in container["env"]}
    agent, default = pull["spec"]["template"]["spec"]["initContainers"][0], pull["spec"]["template"]["spec"]["containers"][0]
    check(settings["BERTH_AGENT_IMAGE"] == agent["image"], f"{overlay}: another agent is pulled ahead")
    check(settings["BERTH_DEFAULT_IMAGE"] == default["image"], f"{overlay}: another image is pulled ahead")
    for image in (agent["image"], default["image"], container["image"]):
        check(":" in image.rsplit("/", 1)[1] and not image.endswith(":latest"), f"{overlay}: {image} may be anything")
    sessions = settings["BERTH_NAMESPACE"]
    one(objects, "ServiceAccount", "berth-session")
    check(sessions != deployment["metadata"]["namespace"], f"{overlay}: sessions live beside the server")
    check(settings["BERTH_AGENT_URL"] == "ws://$(BERTH_AGENTS_SERVICE_HOST):8081", f"{overlay}: agents' address")
    agents = one(objects, "Service", "berth-agents")["spec"]
    check(agents["ports"][0]["port"] == 8081 and agents.get("type", "ClusterIP") == "ClusterIP", f"{overlay}: agents' port")

    # Rights: exactly these.
    rules = {"Role": set(), "ClusterRole": set()}
    for kind, given in rules.items():
        for role in by_kind(objects, kind):
            check(kind == "ClusterRole" or role["metadata"]["namespace"] == sessions, f"{overlay}: rights elsewhere")
            for rule in role["rules"]:
                given |= {f"{verb} {r}" for r in rule["resources"] for verb in rule["verbs"]}
    keep = {f"{verb} {r}" for r in ("pods", "persistentvolumeclaims") for verb in ("get", "list", "create", "patch", "delete")}
    check(rules["Role"] == keep | {"watch pods", "list events"}, f"{overlay}: rights in {sessions}: {sorted(rules['Role'])}")
    check(rules["ClusterRole"] == {"create tokenreviews"}, f"{overlay}: rights everywhere: {sorted(rules['ClusterRole'])}")
    bound = [s for kind in ("RoleBinding", "ClusterRoleBinding") for b in by_kind(objects, kind) for s in b["subjects"]]
    check(all(s["name"] == "berth-control-plane" for s in bound), f"{overlay}: somebody else has rights")

    # The sessions' border.
    labels = one(objects, "Namespace", sessions)["metadata"]["labels"]
    check(labels["pod-security.kubernetes.io/enforce"] == "restricted", f"{overlay}: pods may be anything")
    one(objects, "ResourceQuota", "sessions"), one(objects, "LimitRange", "sessions")
    policies = {p["metadata"]["name"]: p["spec"] for p in by_kind(objects, "NetworkPolicy") if p["metadata"]["namespace"] == sessions}
    closed = policies["no-ingress"]
    check(closed == {"podSelector": {}, "policyTypes": ["Ingress"]}, f"{overlay}: sessions can be dialled")
    check(not any("ingress" in p for p in policies.values()), f"{overlay}: sessions can be dialled")
    check(policies["control-plane-only"]["podSelector"] == {}, f"{overlay}: some sessions may dial anything")
    wide = [p for p in policies.values() if any("ipBlock" in to for e in p.get("egress", []) for to in e.get("to", []))]
    check([p["podSelector"] for p in wide] == [{"matchLabels": {"berth/egress": "internet"}}], f"{overlay}: who reaches the internet")
    everywhere = [to["ipBlock"] for e in wide[0]["egress"] for to in e["to"] if to.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"]
    private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"}
    check(all(private <= set(block["except"]) for block in everywhere), f"{overlay}: private addresses are reached")


def main():
    for argument in sys.argv[1:]:
        overlay, file = argument.split("=", 1)
        with open(file) as text:
            objects = [o for o in yaml.safe_load_all(text) if o]
        for version in VERSIONS[overlay]:
            validate(overlay, objects, version)
        judge(overlay, objects)
        rules = by_kind(objects, "PrometheusRule")
        if rules:
            with open(f"{file}.rules", "w") as out:
                yaml.safe_dump({"groups": [g for r in rules for g in r["spec"]["groups"]]}, out)
    for what in wrong:
        print(f"wrong: {what}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
