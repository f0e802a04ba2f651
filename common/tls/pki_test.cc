#include "common/tls/pki.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "common/sys/file.h"
#include "common/testing/matchers.h"

namespace heterok8s::tls {
namespace {

using heterok8s::testing::HasCode;
using heterok8s::testing::Says;

struct TempDir {
  TempDir() {
    char name[] = "/tmp/hk-pki-XXXXXX";
    path = mkdtemp(name);
  }
  ~TempDir() { std::filesystem::remove_all(path); }
  std::string path;
};

mode_t ModeOf(const std::string& path) {
  struct stat info {};
  stat(path.c_str(), &info);
  return info.st_mode & 0777;
}

std::string Text(const std::string& path) { return *sys::ReadFile(path); }

}  // namespace

TEST_CASE("init makes a CA and one certificate per role, keys readable by their owner only") {
  TempDir temp;
  const std::string dir = temp.path + "/a/pki";

  REQUIRE_OK(InitPki({.dir = dir, .node = "demo"}));

  absl::StatusOr<std::vector<PkiEntry>> entries = ListPki(dir);
  REQUIRE_OK(entries);
  REQUIRE(entries->size() == 4);
  for (const PkiEntry& entry : *entries) {
    CHECK_OK(entry.check);
    CHECK(entry.has_key);
    CHECK(ModeOf(PkiPaths(dir, entry.name).key) == 0600);
    CHECK(entry.info.is_ca == (entry.name == "ca"));
    CHECK(entry.info.serial.size() == 32);
  }
  CHECK((*entries)[1].info.identity == Identity{.node = "demo", .role = Role::kHost});
  CHECK((*entries)[2].info.identity == Identity{.node = "demo", .role = Role::kDpu});
  CHECK(ModeOf(dir) == 0700);
}

TEST_CASE("a certificate of somebody else's kind has the subject it was asked for and the CA's signature") {
  absl::StatusOr<KeyPair> ca = MakeCa("someone's CA", kCaLifetime);
  REQUIRE_OK(ca);

  absl::StatusOr<KeyPair> made = MakeCertificate(
      *ca, {.common_name = "system:node:demo", .organization = "system:nodes", .alternative_names = "IP:192.0.2.1"},
      kLeafLifetime);

  REQUIRE_OK(made);
  CHECK_OK(CheckKeyPair(*made));
  CHECK_OK(CheckSignedBy(made->certificate_pem, ca->certificate_pem));
  CHECK(ParseCertificate(made->certificate_pem)->subject == "CN=system:node:demo,O=system:nodes");
}

TEST_CASE("a second init leaves the first one's files alone") {
  TempDir temp;
  REQUIRE_OK(InitPki({.dir = temp.path, .node = "demo"}));
  const std::string before = Text(temp.path + "/ca.crt");

  const absl::Status again = InitPki({.dir = temp.path, .node = "demo"});

  CHECK_THAT(again, HasCode(absl::StatusCode::kAlreadyExists));
  CHECK(Text(temp.path + "/ca.crt") == before);
}

TEST_CASE("rotate renews the leafs with new keys and serials and keeps the CA") {
  TempDir temp;
  REQUIRE_OK(InitPki({.dir = temp.path, .node = "demo"}));
  const std::string ca = Text(temp.path + "/ca.crt");
  const std::string key = Text(temp.path + "/host.key");
  const std::string serial = ParseCertificate(Text(temp.path + "/host.crt"))->serial;

  REQUIRE_OK(RotatePki(temp.path, kLeafLifetime));

  CHECK(Text(temp.path + "/ca.crt") == ca);
  CHECK(Text(temp.path + "/host.key") != key);
  const CertificateInfo renewed = *ParseCertificate(Text(temp.path + "/host.crt"));
  CHECK(renewed.serial != serial);
  CHECK(renewed.identity == Identity{.node = "demo", .role = Role::kHost});
  CHECK_OK((*ListPki(temp.path))[1].check);
  for (const auto& file : std::filesystem::directory_iterator(temp.path)) {
    CHECK(file.path().string().find(".new-") == std::string::npos);
  }
}

TEST_CASE("expired, foreign and mismatched certificates are told apart") {
  TempDir ours, theirs;
  REQUIRE_OK(InitPki({.dir = ours.path, .node = "demo"}));
  REQUIRE_OK(InitPki({.dir = theirs.path, .node = "demo"}));
  const KeyPair ca = *ReadKeyPair(PkiPaths(ours.path, "ca"));
  const KeyPair expired = *MakeLeaf(ca, {.node = "demo", .role = Role::kHost}, std::chrono::seconds(-60));

  CHECK_THAT(CheckSignedBy(expired.certificate_pem, ca.certificate_pem), Says("expired"));
  CHECK_THAT(CheckSignedBy(Text(theirs.path + "/host.crt"), ca.certificate_pem), !Says("expired"));
  CHECK_THAT(CheckSignedBy(Text(theirs.path + "/host.crt"), ca.certificate_pem),
             HasCode(absl::StatusCode::kFailedPrecondition));
  CHECK_THAT(CheckKeyPair({.certificate_pem = expired.certificate_pem, .key_pem = ca.key_pem}),
             Says("does not belong"));
}

TEST_CASE("of several authorities in one file one must have signed") {
  const KeyPair old_ca = *MakeCa("old", kCaLifetime), new_ca = *MakeCa("new", kCaLifetime);
  const KeyPair foreign_ca = *MakeCa("foreign", kCaLifetime);
  const auto leaf = [](const KeyPair& ca) {
    return MakeLeaf(ca, {.node = "demo", .role = Role::kHost}, kLeafLifetime)->certificate_pem;
  };
  const std::string bundle = old_ca.certificate_pem + new_ca.certificate_pem;

  CHECK_OK(CheckSignedBy(leaf(old_ca), bundle));
  CHECK_OK(CheckSignedBy(leaf(new_ca), bundle));
  CHECK_THAT(CheckSignedBy(leaf(foreign_ca), bundle), HasCode(absl::StatusCode::kFailedPrecondition));
  const std::string cut = bundle.substr(0, bundle.size() - 60);
  CHECK_THAT(CheckSignedBy(leaf(old_ca), cut), Says("certificate 2 of the file is none"));
}

TEST_CASE("a certificate ends with its authority") {
  const KeyPair ca = *MakeCa("short", std::chrono::hours(1));

  absl::StatusOr<KeyPair> leaf = MakeLeaf(ca, {.node = "demo", .role = Role::kHost}, kLeafLifetime);

  REQUIRE_OK(leaf);
  CHECK(ParseCertificate(leaf->certificate_pem)->not_after == ParseCertificate(ca.certificate_pem)->not_after);
}

TEST_CASE("a Node name that is no DNS name is refused") {
  TempDir temp;

  CHECK_THAT(InitPki({.dir = temp.path, .node = "Demo"}), Says("'Demo'"));
  CHECK_THAT(InitPki({.dir = temp.path, .node = "a/dpu"}), HasCode(absl::StatusCode::kInvalidArgument));
  CHECK_THAT(InitPki({.dir = temp.path, .node = "a,URI:heterok8s://b/host"}),
             HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_CASE("an identity's URI is read back and nothing else is") {
  const Identity identity{.node = "a.b", .role = Role::kCri};

  CHECK(*Identity::FromUri(identity.Uri()) == identity);
  CHECK(identity.DnsName() == "cri.a.b.heterok8s");
  for (const char* bad : {"", "heterok8s://demo", "heterok8s://demo/root", "heterok8s:///host", "spiffe://demo/host",
                          "heterok8s://demo/host/x"}) {
    CHECK_FALSE(Identity::FromUri(bad).ok());
  }
}

}  // namespace heterok8s::tls
