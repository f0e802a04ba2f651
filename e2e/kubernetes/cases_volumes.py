"""What kubelet mounts, and that changes arrive inside containers of both PUs."""
from cluster import container, pod, wait_for


def run(cluster, cases, split):
    name = f"volumes-{'split' if split else 'whole'}"
    mounts = [{"name": each, "mountPath": f"/{each}"} for each in ("settings", "password", "token")]
    volumes = [{"name": "settings", "configMap": {"name": name}},
               {"name": "password", "secret": {"secretName": name}},
               {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}]}}]
    objects = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"color": "red"}},
               {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"word": "open sesame"}}]
    cluster.apply(*objects, pod(name, [container("app", volumeMounts=mounts), container("sidecar", volumeMounts=mounts)], split, volumes=volumes))
    cluster.wait_ready(name)
    for which in ("app", "sidecar"):
        with cases.case(f"{name}/{which}: configMap, secret and token are there"):
            text = cluster.exec(name, which, "sh", "-c", "cat /settings/color /password/word; echo; wc -c < /token/token").stdout
            assert text.startswith("redopen sesame\n") and int(text.split()[-1]) > 200, text
    objects[0]["data"]["color"] = "blue"
    objects[1]["stringData"]["word"] = "close sesame"
    cluster.apply(*objects)
    for which in ("app", "sidecar"):
        with cases.case(f"{name}/{which}: a change of both is seen inside"):
            wait_for("the change", lambda w=which: cluster.exec(name, w, "cat", "/settings/color", "/password/word").stdout == "blueclose sesame", 120, every=1)
    cluster.delete("pod", name)
