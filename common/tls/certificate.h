// Certificates and keys as the files of a Node's PKI hold them: read, checked, made.
//
// Purpose: everything OpenSSL. EC P-256, one CA per installation, one leaf per role; serials are random; a key file is
// readable by its owner only. Nothing here ever puts a key into a message.
// Threading: any thread. Ownership: values.
// Errors: kInvalidArgument for a file that is not what it should be, kFailedPrecondition for expired or not matching,
// errno of the file system.
//
//   HK_ASSIGN_OR_RETURN(KeyPair ca, MakeCa("heterok8s demo", std::chrono::hours(24 * 3650)));
//   HK_ASSIGN_OR_RETURN(KeyPair leaf, MakeLeaf(ca, {"demo", Role::kHost}, std::chrono::hours(24 * 365)));
//   HK_RETURN_IF_ERROR(WriteKeyPair(leaf, {.certificate = "/etc/…/host.crt", .key = "/etc/…/host.key"}));
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "common/status/status.h"
#include "common/tls/identity.h"

namespace heterok8s::tls {

struct KeyPair {
  std::string certificate_pem;
  std::string key_pem;
};

struct CertificateInfo {
  std::string subject, issuer;
  std::string serial;  // hex
  std::chrono::system_clock::time_point not_before, not_after;
  bool is_ca = false;
  std::optional<Identity> identity;  // of the URI SAN, when there is one of ours
  std::string fingerprint;           // SHA-256, hex
};

absl::StatusOr<KeyPair> MakeCa(const std::string& common_name, std::chrono::seconds lifetime);
// Usable by a server and by a client, as all that follow.
struct CertificateRequest {
  std::string common_name;        // at most 64 characters
  std::string organization;       // empty: none
  std::string alternative_names;  // "DNS:localhost,IP:127.0.0.1"; empty: none, for a client
};
// Not valid for longer than the CA is.
absl::StatusOr<KeyPair> MakeCertificate(const KeyPair& ca, const CertificateRequest& request,
                                        std::chrono::seconds lifetime);
absl::StatusOr<KeyPair> MakeLeaf(const KeyPair& ca, const Identity& identity, std::chrono::seconds lifetime);

absl::StatusOr<CertificateInfo> ParseCertificate(const std::string& pem);

struct PairPaths {
  std::string certificate, key;
};
absl::StatusOr<KeyPair> ReadKeyPair(const PairPaths& paths);
// Key 0600, certificate 0644. Both are complete on disk before the first rename, so that the moment when a reader could
// see a new key with an old certificate is two system calls long.
absl::Status WriteKeyPair(const KeyPair& pair, const PairPaths& paths);

// The certificate's key is this key, the CA signed it, it is valid now. The message names what is wrong. `ca_pem` may
// hold several authorities, one of which must have signed it: the old and the new one while one follows the other.
absl::Status CheckKeyPair(const KeyPair& pair);
absl::Status CheckSignedBy(const std::string& certificate_pem, const std::string& ca_pem);

}  // namespace heterok8s::tls
