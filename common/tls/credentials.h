// gRPC credentials for mutual TLS between the daemons of one Node.
//
// Purpose: both ends show a certificate of the installation's CA; the client checks that the server has the role and
// Node it meant to reach, the server learns the caller's role and Node. The files are watched: a rotated certificate is
// used for new connections within kReloadInterval, and connections that are up stay up.
// Threading: any thread. Ownership: credentials keep their file watcher (one thread each) alive.
// Errors: kFailedPrecondition and kNotFound name the file and what is wrong with it; no message ever holds a key.
//
//   HK_ASSIGN_OR_RETURN(auto credentials, ClientCredentials(files));
//   grpc::ChannelArguments arguments;
//   ExpectServer(arguments, {.node = "demo", .role = Role::kDpu});
//   auto channel = grpc::CreateCustomChannel("192.0.2.2:7443", credentials, arguments);
//
//   grpc::Status Prepare(grpc::ServerContext* context, …) {
//     if (grpc::Status s = RequirePeer(*context, node_, {Role::kHost}); !s.ok()) return s;
#pragma once

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/channel_arguments.h>
#include <grpcpp/support/status.h>

#include <initializer_list>
#include <memory>
#include <string>

#include "common/status/status.h"
#include "common/tls/identity.h"

namespace heterok8s::tls {

inline constexpr unsigned kReloadIntervalSeconds = 1;

struct Files {
  std::string ca, certificate, key;
};

// The files are there, belong together, are signed by the CA, valid now, and speak for `identity`.
absl::Status CheckFiles(const Files& files, const Identity& identity);

// Both read the files now and fail if they cannot be used at all.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const Files& files);
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ClientCredentials(const Files& files);

// The channel connects only to a server whose certificate names `server`.
void ExpectServer(grpc::ChannelArguments& arguments, const Identity& server);

// Who calls. kUnauthenticated when the connection has no certificate of ours.
absl::StatusOr<Identity> PeerIdentity(const grpc::ServerContextBase& context);

// OK when the caller is one of `roles` on `node`; else PERMISSION_DENIED with who it is and who may.
grpc::Status RequirePeer(const grpc::ServerContextBase& context, const std::string& node,
                         std::initializer_list<Role> roles);

}  // namespace heterok8s::tls
