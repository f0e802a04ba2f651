#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>

#include "common/tls/pki.h"
#include "heteroctl/lab/kubernetes.h"
#include "heteroctl/lab/topology.h"

namespace heterok8s::lab {
namespace {

struct Certificate {
  std::string file;
  tls::CertificateRequest request;
};

// Who someone is to the API server is in the subject: the common name is the user, the organization the group.
std::vector<Certificate> OfTheControlPlane() {
  return {
      {"apiserver",
       {"kube-apiserver", "",
        fmt::format("DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,"
                    "DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:10.96.0.1,IP:{}",
                    AddressesOf(1).client)}},
      {"apiserver-kubelet", {"kube-apiserver-kubelet-client", "system:masters", ""}},
      {"front-proxy", {"front-proxy-client", "", ""}},
      {"admin", {"admin", "system:masters", ""}},
      {"kube-controller-manager", {"system:kube-controller-manager", "", ""}},
      {"kube-scheduler", {"system:kube-scheduler", "", ""}},
      {"service-accounts", {"service-accounts", "", ""}},
  };
}

std::vector<Certificate> OfTheNode(const Layout& layout) {
  const std::string user = "system:node:" + layout.name;
  return {
      {layout.name + "-kubelet", {user, "system:nodes", ""}},
      {layout.name + "-kubelet-server",
       {user, "", fmt::format("DNS:{},IP:{}", layout.name, AddressesOf(layout.Node()).host)}},
      {"kube-proxy", {"system:kube-proxy", "", ""}},
  };
}

}  // namespace

absl::Status MakeKubernetesPki(const Layout& layout) {
  const std::string folder = layout.KubernetesPki();
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST)
    return ErrnoToStatus(errno, fmt::format("make '{}'", folder));
  std::vector<Certificate> wanted = OfTheNode(layout);
  tls::KeyPair ca;
  if (layout.Node() == 1) {
    HK_ASSIGN_OR_RETURN(ca, tls::MakeCa("kubernetes " + layout.name, tls::kCaLifetime));
    for (Certificate& certificate : OfTheControlPlane()) wanted.push_back(std::move(certificate));
  } else {
    HK_ASSIGN_OR_RETURN(ca, tls::ReadKeyPair(tls::PkiPaths(layout.OfNode(1).KubernetesPki(), "ca")));
  }
  HK_RETURN_IF_ERROR(tls::WriteKeyPair(ca, tls::PkiPaths(folder, "ca")));
  for (const Certificate& certificate : wanted) {
    HK_ASSIGN_OR_RETURN(tls::KeyPair pair, tls::MakeCertificate(ca, certificate.request, tls::kLeafLifetime));
    HK_RETURN_IF_ERROR(tls::WriteKeyPair(pair, tls::PkiPaths(folder, certificate.file)));
  }
  return absl::OkStatus();
}

}  // namespace heterok8s::lab
