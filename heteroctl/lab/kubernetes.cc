#include "heteroctl/lab/kubernetes.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "heteroctl/lab/topology.h"
#include "heteroctl/output.h"

namespace heterok8s::lab {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "/etc/heterok8s";
constexpr const char* kPki = "/etc/heterok8s/pki/kubernetes";
constexpr const char* kServices = "10.96.0.0/16";
constexpr const char* kPrograms[] = {
    "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl", "coredns"};

std::string DefaultFolder() {
  if (const char* folder = getenv("HETEROK8S_KUBERNETES"); folder != nullptr && *folder != '\0') return folder;
  std::error_code error;
  for (fs::path at = fs::current_path(error); !at.empty(); at = at.parent_path()) {
    if (fs::is_directory(at / ".build/kubernetes", error)) return at / ".build/kubernetes";
    if (at == at.root_path()) break;
  }
  return ".build/kubernetes";
}

std::string Pki(const std::string& file) { return fmt::format("{}/{}", kPki, file); }

std::string KubeletYaml(const std::string& node) {
  return fmt::format(R"(apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {pki}/ca.crt}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {pki}/{node}-kubelet-server.crt
tlsPrivateKeyFile: {pki}/{node}-kubelet-server.key
containerRuntimeEndpoint: unix:///run/heterok8s/cri.sock
# containerd 1.6 cannot be asked for its driver.
cgroupDriver: cgroupfs
cgroupRoot: /
# The machine's: kubelet 1.35 would not start on version 1.
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
clusterDNS: [{dns}]
clusterDomain: {domain}
resolvConf: /etc/resolv.conf
staticPodPath: /etc/kubernetes/manifests
nodeStatusUpdateFrequency: 4s
syncFrequency: 10s
volumeStatsAggPeriod: 10s
# The machine's own disk and memory say little about a lab's.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {{memory.available: "64Mi", nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}}
serializeImagePulls: false
maxPods: 250
)",
                     fmt::arg("pki", kPki), fmt::arg("node", node), fmt::arg("dns", kClusterDns),
                     fmt::arg("domain", kClusterDomain));
}

std::string KubeProxyYaml(const std::string& node) {
  return fmt::format(R"(apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {config}/kube-proxy.kubeconfig}}
mode: nftables
clusterCIDR: {pods}
hostnameOverride: {node}
# The machine's limits of connection tracking are not a lab's to set.
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
healthzBindAddress: 127.0.0.1:10256
)",
                     fmt::arg("config", kConfig), fmt::arg("pods", kAllPods), fmt::arg("node", node));
}

DaemonSpec Etcd() {
  // On tmpfs: what a lab's API server remembers goes with the lab, and no other daemon waits for a disk.
  return {.name = "etcd",
          .argv = {"etcd", "--name=lab", "--data-dir=/run/lab/etcd", "--listen-client-urls=http://127.0.0.1:2379",
                   "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380",
                   "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=lab=http://127.0.0.1:2380",
                   "--log-level=warn"},
          .env = {}};
}

DaemonSpec Daemon(const std::string& name, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), fmt::format("{}/{}", kInsideKubernetes, name));
  return {.name = name, .argv = std::move(arguments), .env = {}};
}

DaemonSpec ApiServerDaemon() {
  return Daemon(
      "kube-apiserver",
      {"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--secure-port=6443",
       "--advertise-address=" + AddressesOf(1).client, "--tls-cert-file=" + Pki("apiserver.crt"),
       "--tls-private-key-file=" + Pki("apiserver.key"), "--client-ca-file=" + Pki("ca.crt"),
       "--kubelet-certificate-authority=" + Pki("ca.crt"),
       "--kubelet-client-certificate=" + Pki("apiserver-kubelet.crt"),
       "--kubelet-client-key=" + Pki("apiserver-kubelet.key"), "--kubelet-preferred-address-types=InternalIP",
       "--service-account-issuer=https://kubernetes.default.svc",
       // Read as a certificate: it does not take a public key out of a PKCS #8 file with an EC key.
       "--service-account-key-file=" + Pki("service-accounts.crt"),
       "--service-account-signing-key-file=" + Pki("service-accounts.key"),
       fmt::format("--service-cluster-ip-range={}", kServices), "--authorization-mode=Node,RBAC",
       "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
       // To the Pods of an API's Service themselves: outside the Nodes no kube-proxy translates its address.
       "--enable-aggregator-routing=true", "--requestheader-client-ca-file=" + Pki("ca.crt"),
       "--requestheader-allowed-names=front-proxy-client", "--requestheader-username-headers=X-Remote-User",
       "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
       "--proxy-client-cert-file=" + Pki("front-proxy.crt"), "--proxy-client-key-file=" + Pki("front-proxy.key")});
}

DaemonSpec ControllerManagerDaemon() {
  const std::string kubeconfig = fmt::format("{}/kube-controller-manager.kubeconfig", kConfig);
  return Daemon("kube-controller-manager",
                {"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig,
                 "--authorization-kubeconfig=" + kubeconfig, "--bind-address=127.0.0.1",
                 "--service-account-private-key-file=" + Pki("service-accounts.key"), "--root-ca-file=" + Pki("ca.crt"),
                 "--use-service-account-credentials=true", "--cluster-signing-cert-file=" + Pki("ca.crt"),
                 "--cluster-signing-key-file=" + Pki("ca.key"), fmt::format("--service-cluster-ip-range={}", kServices),
                 "--allocate-node-cidrs=false", "--leader-elect=false", "--node-monitor-grace-period=20s"});
}

DaemonSpec SchedulerDaemon() {
  const std::string kubeconfig = fmt::format("{}/kube-scheduler.kubeconfig", kConfig);
  return Daemon("kube-scheduler",
                {"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig,
                 "--authorization-kubeconfig=" + kubeconfig, "--bind-address=127.0.0.1", "--leader-elect=false"});
}

// For the machine's own kubectl, which has no way into the lab's networks.
DaemonSpec ForwardDaemon() {
  return {.name = "lab-forward",
          .argv = {fmt::format("{}/heteroctl", kInsideBin), "lab-forward", "--listen-netns",
                   fmt::format("{}/machine.netns", kInsideFolder), "--port-file", kPortFile, ApiServer()},
          .env = {}};
}

}  // namespace

absl::StatusOr<std::string> FindKubernetes(const std::string& folder) {
  const std::string where = folder.empty() ? DefaultFolder() : folder;
  std::error_code error;
  for (const char* program : kPrograms) {
    if (fs::is_regular_file(fs::path(where) / program, error)) continue;
    return ctl::WithHint(absl::NotFoundError(fmt::format("no program '{}' in '{}'", program, where)),
                         "`deploy/kubernetes/build` makes Kubernetes's programs");
  }
  return fs::canonical(where, error).string();
}

std::string ApiServer() { return AddressesOf(1).client + ":6443"; }

std::string Kubeconfig(const std::string& server, const std::string& pki, const std::string& user) {
  return fmt::format(R"(apiVersion: v1
kind: Config
clusters: [{{name: lab, cluster: {{server: "https://{server}", certificate-authority: {pki}/ca.crt}}}}]
users: [{{name: {user}, user: {{client-certificate: {pki}/{user}.crt, client-key: {pki}/{user}.key}}}}]
contexts: [{{name: lab, context: {{cluster: lab, user: {user}}}}}]
current-context: lab
)",
                     fmt::arg("server", server), fmt::arg("pki", pki), fmt::arg("user", user));
}

std::vector<std::pair<std::string, std::string>> KubernetesFiles(const Layout& layout, Place place) {
  auto kubeconfig = [&](const std::string& user) {
    return std::pair(user + ".kubeconfig", Kubeconfig(ApiServer(), kPki, user));
  };
  switch (place) {
    case Place::kClient:
      return {kubeconfig("admin"), kubeconfig("kube-controller-manager"), kubeconfig("kube-scheduler")};
    case Place::kHost:
      return {{"kubelet.yaml", KubeletYaml(layout.name)},
              {"kubelet.kubeconfig", Kubeconfig(ApiServer(), kPki, layout.name + "-kubelet")},
              {"kube-proxy.yaml", KubeProxyYaml(layout.name)},
              kubeconfig("kube-proxy")};
    case Place::kDpu:
      return {{"kube-proxy.yaml", KubeProxyYaml(layout.name)}, kubeconfig("kube-proxy")};
  }
  return {};
}

std::vector<DaemonSpec> KubernetesDaemons(const Layout& layout, Place place) {
  const DaemonSpec proxy = Daemon("kube-proxy", {fmt::format("--config={}/kube-proxy.yaml", kConfig)});
  switch (place) {
    case Place::kClient:
      return {Etcd(), ApiServerDaemon(), ControllerManagerDaemon(), SchedulerDaemon(), ForwardDaemon()};
    case Place::kHost:
      return {Daemon("kubelet", {fmt::format("--config={}/kubelet.yaml", kConfig),
                                 fmt::format("--kubeconfig={}/kubelet.kubeconfig", kConfig),
                                 "--hostname-override=" + layout.name, "--node-ip=" + AddressesOf(layout.Node()).host}),
              proxy};
    case Place::kDpu:
      return {proxy};
  }
  return {};
}

}  // namespace heterok8s::lab
