// The PKI folder of one Node: ca.crt ca.key and NAME.crt NAME.key for host, dpu and cri.
//
// Threading: any thread; two processes must not change one folder at the same time. Ownership: only
// the folder's files. Errors: kAlreadyExists when the
// folder has a CA already, kNotFound when it has none, kFailedPrecondition for expired or foreign files.
//
//   HK_RETURN_IF_ERROR(InitPki({.dir = "/etc/heterok8s/pki", .node = "demo"}));
//   HK_RETURN_IF_ERROR(RotatePki("/etc/heterok8s/pki", kLeafLifetime));   // running daemons load the new files
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "common/tls/certificate.h"

namespace heterok8s::tls {

inline constexpr std::chrono::hours kLeafLifetime{24 * 365};
inline constexpr std::chrono::hours kCaLifetime{24 * 3650};

struct PkiOptions {
  std::string dir;  // made when missing, 0700
  std::string node;
  std::chrono::seconds leaf_lifetime = kLeafLifetime;
  std::chrono::seconds ca_lifetime = kCaLifetime;
};
absl::Status InitPki(const PkiOptions& options);

// New keys and certificates for every leaf of the folder, for the Node they were made for; the CA stays.
absl::Status RotatePki(const std::string& dir, std::chrono::seconds leaf_lifetime);

struct PkiEntry {
  std::string name;  // "ca", "host", …
  std::string path;  // of the certificate
  CertificateInfo info;
  absl::Status check;  // OK, or what is wrong: expired, foreign CA, key that does not belong
  bool has_key = false;
};
// Those that are there; kNotFound when there is no CA certificate.
absl::StatusOr<std::vector<PkiEntry>> ListPki(const std::string& dir);

PairPaths PkiPaths(const std::string& dir, const std::string& name);

}  // namespace heterok8s::tls
