#include "common/tls/credentials.h"

#include <fmt/format.h>
#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>

#include "common/sys/file.h"
#include "common/tls/certificate.h"

namespace heterok8s::tls {
namespace {

using grpc::experimental::FileWatcherCertificateProvider;

// gRPC's watcher only logs about files it cannot use and then fails each handshake; we say so at once.
absl::StatusOr<CertificateInfo> Load(const Files& files) {
  absl::StatusOr<std::string> ca = sys::ReadFile(files.ca, 1u << 20);
  if (!ca.ok()) return Annotate(ca.status(), "CA certificate");
  if (auto parsed = ParseCertificate(*ca); !parsed.ok()) return Annotate(parsed.status(), files.ca);
  HK_ASSIGN_OR_RETURN(KeyPair pair, ReadKeyPair({.certificate = files.certificate, .key = files.key}));
  absl::StatusOr<CertificateInfo> info = ParseCertificate(pair.certificate_pem);
  if (!info.ok()) return Annotate(info.status(), files.certificate);
  if (absl::Status s = CheckKeyPair(pair); !s.ok()) {
    return Annotate(s, fmt::format("'{}' and '{}'", files.certificate, files.key));
  }
  if (absl::Status s = CheckSignedBy(pair.certificate_pem, *ca); !s.ok()) return Annotate(s, files.certificate);
  return info;
}

std::shared_ptr<FileWatcherCertificateProvider> Watch(const Files& files) {
  return std::make_shared<FileWatcherCertificateProvider>(files.key, files.certificate, files.ca,
                                                          kReloadIntervalSeconds);
}

}  // namespace

absl::Status CheckFiles(const Files& files, const Identity& identity) {
  HK_ASSIGN_OR_RETURN(CertificateInfo info, Load(files));
  if (info.identity == identity) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format("'{}' is for {}, not for {}", files.certificate,
                                                   info.identity ? info.identity->Uri() : "nobody of heterok8s",
                                                   identity.Uri()));
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const Files& files) {
  HK_RETURN_IF_ERROR(Load(files).status());
  grpc::experimental::TlsServerCredentialsOptions options(Watch(files));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  return grpc::experimental::TlsServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ClientCredentials(const Files& files) {
  HK_RETURN_IF_ERROR(Load(files).status());
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(Watch(files));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_certificate_verifier(std::make_shared<grpc::experimental::HostNameCertificateVerifier>());
  return grpc::experimental::TlsCredentials(options);
}

void ExpectServer(grpc::ChannelArguments& arguments, const Identity& server) {
  arguments.SetSslTargetNameOverride(server.DnsName());
}

absl::StatusOr<Identity> PeerIdentity(const grpc::ServerContextBase& context) {
  const auto auth = context.auth_context();
  if (auth == nullptr || !auth->IsPeerAuthenticated()) {
    return absl::UnauthenticatedError("the caller showed no certificate");
  }
  for (const grpc::string_ref& uri : auth->FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME)) {
    if (auto identity = Identity::FromUri(std::string(uri.data(), uri.size())); identity.ok()) return identity;
  }
  return absl::UnauthenticatedError("the caller's certificate has no name heterok8s://NODE/ROLE");
}

grpc::Status RequirePeer(const grpc::ServerContextBase& context, const std::string& node,
                         std::initializer_list<Role> roles) {
  absl::StatusOr<Identity> peer = PeerIdentity(context);
  if (!peer.ok()) return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, Message(peer.status()));
  if (peer->node == node && std::find(roles.begin(), roles.end(), peer->role) != roles.end()) return grpc::Status::OK;
  std::string allowed;
  for (Role role : roles) {
    allowed += (allowed.empty() ? "" : " or ") + Identity{.node = node, .role = role}.Uri();
  }
  return grpc::Status(grpc::StatusCode::PERMISSION_DENIED,
                      fmt::format("the caller is {}; this needs {}", peer->Uri(), allowed));
}

}  // namespace heterok8s::tls
