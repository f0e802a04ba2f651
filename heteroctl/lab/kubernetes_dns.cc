#include <fmt/format.h>

#include "heteroctl/lab/kubernetes.h"
#include "heteroctl/lab/topology.h"

namespace heterok8s::lab {

// CoreDNS itself is a file of the Node (a lab has no registry, and an image of 50 MB in each containerd would take
// longer than all the rest), so its Pod stays on the host. What it does not know it asks the outside, where usually
// nobody listens: then names fail at once.
std::string DnsManifest() {
  return fmt::format(R"(apiVersion: v1
kind: ServiceAccount
metadata: {{name: coredns, namespace: kube-system}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: "system:coredns"}}
rules:
- {{apiGroups: [""], resources: [services, pods, namespaces], verbs: [list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: "system:coredns"}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:coredns"}}
subjects: [{{kind: ServiceAccount, name: coredns, namespace: kube-system}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: coredns, namespace: kube-system}}
data:
  Corefile: |
    .:53 {{
      errors
      ready
      kubernetes {domain} in-addr.arpa ip6.arpa {{
        fallthrough in-addr.arpa ip6.arpa
      }}
      forward . {outside}
      cache 5
    }}
---
apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  clusterIP: {address}
  selector: {{k8s-app: kube-dns}}
  ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: coredns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{k8s-app: kube-dns}}}}
  template:
    metadata: {{labels: {{k8s-app: kube-dns}}}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      priorityClassName: system-cluster-critical
      terminationGracePeriodSeconds: 2
      containers:
      - name: coredns
        image: heterok8s.local/toolbox:1
        command: [/kubernetes/coredns, -conf, /etc/coredns/Corefile]
        readinessProbe: {{httpGet: {{path: /ready, port: 8181}}, periodSeconds: 1}}
        volumeMounts:
        - {{name: programs, mountPath: /kubernetes, readOnly: true}}
        - {{name: config, mountPath: /etc/coredns, readOnly: true}}
      volumes:
      - {{name: programs, hostPath: {{path: {programs}, type: Directory}}}}
      - {{name: config, configMap: {{name: coredns}}}}
)",
                     fmt::arg("domain", kClusterDomain), fmt::arg("outside", AddressesOf(1).client),
                     fmt::arg("address", kClusterDns), fmt::arg("programs", kInsideKubernetes));
}

}  // namespace heterok8s::lab
