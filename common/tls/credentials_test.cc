// A server and clients over loopback, with real certificates.
#include "common/tls/credentials.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <thread>

#include "common/sys/file.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "common/tls/grpc_log.h"
#include "common/tls/pki.h"
#include "proto/heterok8s/v1/peer.grpc.pb.h"

namespace heterok8s::tls {
namespace {

using heterok8s::testing::Eventually;
using heterok8s::testing::Says;

struct TempPki {
  explicit TempPki(const std::string& node = "demo") {
    char name[] = "/tmp/hk-tls-XXXXXX";
    dir = mkdtemp(name);
    REQUIRE_OK(InitPki({.dir = dir, .node = node}));
  }
  ~TempPki() { std::filesystem::remove_all(dir); }
  Files For(const std::string& name) const {
    return {.ca = dir + "/ca.crt", .certificate = dir + "/" + name + ".crt", .key = dir + "/" + name + ".key"};
  }
  std::string dir;
};

// Tells the caller who it is.
class WhoAmI final : public v1::Peer::Service {
 public:
  grpc::Status Heartbeat(grpc::ServerContext* context, const v1::HeartbeatRequest*,
                         v1::HeartbeatReply* reply) override {
    if (grpc::Status s = RequirePeer(*context, "demo", {Role::kHost}); !s.ok()) return s;
    reply->set_boot_id(PeerIdentity(*context)->Uri());
    return grpc::Status::OK;
  }
};

struct TestServer {
  explicit TestServer(const Files& files) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", *ServerCredentials(files), &port);
    builder.RegisterService(&service);
    server = builder.BuildAndStart();
    REQUIRE(port != 0);
  }
  ~TestServer() { server->Shutdown(std::chrono::system_clock::now()); }
  WhoAmI service;
  int port = 0;
  std::unique_ptr<grpc::Server> server;
};

struct Answer {
  grpc::Status status;
  std::string text;
};

// Each call on a new connection.
Answer Call(int port, const Files& files, Role server_role = Role::kDpu) {
  grpc::ChannelArguments arguments;
  ExpectServer(arguments, {.node = "demo", .role = server_role});
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  auto stub = v1::Peer::NewStub(
      grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port), *ClientCredentials(files), arguments));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + testing::kPatience);
  v1::HeartbeatReply reply;
  const grpc::Status status = stub->Heartbeat(&context, {}, &reply);
  return {status, reply.boot_id()};
}

grpc::Status CallAs(int port, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  auto stub = v1::Peer::NewStub(grpc::CreateChannel("127.0.0.1:" + std::to_string(port), credentials));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + testing::kPatience);
  v1::HeartbeatReply reply;
  return stub->Heartbeat(&context, {}, &reply);
}

// Trusts the server, and shows nothing of its own.
std::shared_ptr<grpc::ChannelCredentials> WithoutCertificate(const Files& files) {
  absl::StatusOr<std::string> authority = sys::ReadFile(files.ca);
  REQUIRE_OK(authority);
  return grpc::SslCredentials({.pem_root_certs = *authority});
}

std::string SerialOfServer(int port, const Files& files) {
  grpc::ChannelArguments arguments;
  ExpectServer(arguments, {.node = "demo", .role = Role::kDpu});
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  auto stub = v1::Peer::NewStub(
      grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port), *ClientCredentials(files), arguments));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + testing::kPatience);
  v1::HeartbeatReply reply;
  if (!stub->Heartbeat(&context, {}, &reply).ok()) return "";
  const auto pem = context.auth_context()->FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME);
  return pem.empty() ? "" : ParseCertificate(std::string(pem[0].data(), pem[0].size()))->serial;
}

}  // namespace

// The first of all: the count is the process's, and what other cases refuse may be told late.
TEST_CASE("whoever does not get through the handshake is counted") {
  TakeGrpcLog();
  TempPki ours, theirs;
  TestServer server(ours.For("dpu"));
  uint64_t before = FailedHandshakes();
  // The client may have its answer first: by TLS 1.3 its own end of the handshake is done before the server's.
  const auto one_more = [&] {
    const bool more = Eventually([&] { return FailedHandshakes() > before; });
    before = FailedHandshakes();
    return more;
  };

  CHECK(Call(server.port, ours.For("host")).status.ok());
  CHECK(FailedHandshakes() == before);
  CHECK_FALSE(CallAs(server.port, grpc::InsecureChannelCredentials()).ok());
  CHECK(one_more());
  CHECK_FALSE(CallAs(server.port, WithoutCertificate(ours.For("host"))).ok());
  CHECK(one_more());
  CHECK_FALSE(Call(server.port, theirs.For("host")).status.ok());
  CHECK(one_more());
}

TEST_CASE("the server learns the caller's Node and role") {
  TempPki pki;
  TestServer server(pki.For("dpu"));

  const Answer answer = Call(server.port, pki.For("host"));

  REQUIRE_OK(absl::Status(static_cast<absl::StatusCode>(answer.status.error_code()), answer.status.error_message()));
  CHECK(answer.text == "heterok8s://demo/host");
}

TEST_CASE("another role is refused with who it is and who may") {
  TempPki pki;
  TestServer server(pki.For("dpu"));

  const Answer answer = Call(server.port, pki.For("cri"));

  CHECK(answer.status.error_code() == grpc::StatusCode::PERMISSION_DENIED);
  CHECK(answer.status.error_message() == "the caller is heterok8s://demo/cri; this needs heterok8s://demo/host");
}

TEST_CASE("another Node of the same CA is refused") {
  TempPki pki;
  TestServer server(pki.For("dpu"));
  const KeyPair other =
      *MakeLeaf(*ReadKeyPair(PkiPaths(pki.dir, "ca")), {.node = "other", .role = Role::kHost}, std::chrono::hours(1));
  REQUIRE_OK(WriteKeyPair(other, PkiPaths(pki.dir, "other")));

  const Answer answer = Call(server.port, pki.For("other"));

  CHECK(answer.status.error_code() == grpc::StatusCode::PERMISSION_DENIED);
}

TEST_CASE("a certificate of another CA does not get through the handshake, on either side") {
  TempPki ours, theirs;
  TestServer server(ours.For("dpu"));
  Files mixed = theirs.For("host");
  mixed.ca = ours.dir + "/ca.crt";

  const Answer foreign_server = Call(server.port, theirs.For("host"));

  CHECK(foreign_server.status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK_THAT(foreign_server.status.error_message(), Catch::Contains("certificate verify failed"));
  CHECK_FALSE(ClientCredentials(mixed).ok());
}

TEST_CASE("a client does not talk to a server of the wrong role") {
  TempPki pki;
  TestServer server(pki.For("cri"));

  const Answer answer = Call(server.port, pki.For("host"), Role::kDpu);

  CHECK(answer.status.error_code() == grpc::StatusCode::UNAVAILABLE);
}

TEST_CASE("a client without a certificate gets nothing") {
  TempPki pki;
  TestServer server(pki.For("dpu"));

  CHECK_FALSE(CallAs(server.port, grpc::InsecureChannelCredentials()).ok());
  CHECK_FALSE(CallAs(server.port, WithoutCertificate(pki.For("host"))).ok());
}

TEST_CASE("files that cannot work are refused before anything listens, without showing a key") {
  TempPki pki, other;
  Files mismatched = pki.For("dpu");
  mismatched.key = pki.dir + "/host.key";
  Files foreign = other.For("dpu");
  foreign.ca = pki.dir + "/ca.crt";
  const KeyPair expired =
      *MakeLeaf(*ReadKeyPair(PkiPaths(pki.dir, "ca")), {.node = "demo", .role = Role::kDpu}, std::chrono::seconds(-10));
  REQUIRE_OK(WriteKeyPair(expired, PkiPaths(pki.dir, "expired")));

  CHECK_THAT(ServerCredentials(mismatched).status(), Says("does not belong"));
  CHECK_THAT(ServerCredentials(foreign).status(), Says(foreign.certificate));
  CHECK_THAT(ServerCredentials(pki.For("expired")).status(), Says("expired"));
  CHECK_THAT(ServerCredentials(pki.For("missing")).status(), Says("missing.crt"));
  CHECK_THAT(CheckFiles(pki.For("dpu"), {.node = "demo", .role = Role::kHost}), Says("is for heterok8s://demo/dpu"));
  CHECK_THAT(ServerCredentials(mismatched).status(), !Says("PRIVATE"));
}

TEST_CASE("while one authority follows another, certificates of both are accepted by whoever has the two") {
  TempPki old_pki, new_pki;
  absl::StatusOr<std::string> bundle = sys::ReadFile(old_pki.For("dpu").ca),
                              next = sys::ReadFile(new_pki.For("dpu").ca);
  REQUIRE_OK(bundle);
  REQUIRE_OK(next);
  const std::string both = old_pki.dir + "/both.crt";
  REQUIRE_OK(sys::WriteFileAtomic(both, *bundle + *next, 0644));
  const auto with_both = [&](Files files) {
    files.ca = both;
    return files;
  };
  TestServer server(with_both(new_pki.For("dpu")));

  CHECK(Call(server.port, with_both(old_pki.For("host"))).text == "heterok8s://demo/host");
  CHECK(Call(server.port, new_pki.For("host")).text == "heterok8s://demo/host");
}

TEST_CASE("rotated files are used for new connections while the server runs") {
  TempPki pki;
  TestServer server(pki.For("dpu"));
  const std::string before = SerialOfServer(server.port, pki.For("host"));
  REQUIRE_FALSE(before.empty());

  REQUIRE_OK(RotatePki(pki.dir, kLeafLifetime));
  const std::string wanted = (*ListPki(pki.dir))[2].info.serial;

  CHECK(wanted != before);
  // The watcher's next look is what we wait for.
  CHECK(Eventually([&] { return SerialOfServer(server.port, pki.For("host")) == wanted; }));
}

}  // namespace heterok8s::tls
