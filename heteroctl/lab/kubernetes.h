// A real Kubernetes in a lab: its certificates, every file its programs read, and how they are started.
//
// The control plane (etcd, kube-apiserver, kube-controller-manager, kube-scheduler) runs in the client's place: it is
// neither on the host nor on the DPU. Each host has a kubelet, pointed at heterocri, and each PU a kube-proxy: Services
// of ordinary Pods are translated on the host, those of split Pods on the DPU, which their packets pass.
// The programs are those that deploy/kubernetes/build leaves in a folder; etcd is Debian's. CoreDNS runs in a Pod.
//
// Threading: any. Ownership: values and files. Errors: errno with the path, kNotFound for a program that is missing.
//
//   HK_RETURN_IF_ERROR(FindKubernetes(folder).status());
//   HK_RETURN_IF_ERROR(MakeKubernetesPki(layout));
//   for (auto& [file, text] : KubernetesFiles(layout, Place::kHost)) …
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/status/status.h"
#include "heteroctl/lab/init_spec.h"
#include "heteroctl/lab/layout.h"

namespace heterok8s::lab {

// The folder itself when it has all programs; empty: .build/kubernetes here or further up.
absl::StatusOr<std::string> FindKubernetes(const std::string& folder);

// The CA (on the first Node), and a certificate for everyone who runs on this one, in layout.KubernetesPki().
absl::Status MakeKubernetesPki(const Layout& layout);

// Name below /etc/heterok8s and text.
std::vector<std::pair<std::string, std::string>> KubernetesFiles(const Layout& layout, Place place);
std::vector<DaemonSpec> KubernetesDaemons(const Layout& layout, Place place);

// What kubectl reads: `server` as whoever uses it reaches the API server, certificates by name below `pki`.
std::string Kubeconfig(const std::string& server, const std::string& pki, const std::string& user);

// CoreDNS and its Service, as `kubectl apply` takes it.
std::string DnsManifest();
inline constexpr const char* kClusterDns = "10.96.0.10";  // where kubelet sends every Pod's names
inline constexpr const char* kClusterDomain = "cluster.local";

// Where the API server listens in the client's place; the port file is what `lab-forward` writes.
std::string ApiServer();
inline constexpr const char* kPortFile = "/run/lab/kubectl.port";

}  // namespace heterok8s::lab
