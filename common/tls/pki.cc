#include "common/tls/pki.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "common/sys/file.h"

namespace heterok8s::tls {
namespace {

constexpr Role kLeafs[] = {Role::kHost, Role::kDpu, Role::kCri};

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

absl::StatusOr<KeyPair> ReadCa(const std::string& dir) {
  absl::StatusOr<KeyPair> ca = ReadKeyPair(PkiPaths(dir, "ca"));
  if (!ca.ok()) return Annotate(ca.status(), "certificate authority");
  HK_RETURN_IF_ERROR(Annotate(CheckKeyPair(*ca), PkiPaths(dir, "ca").certificate));
  HK_RETURN_IF_ERROR(CheckSignedBy(ca->certificate_pem, ca->certificate_pem));  // tells when it has expired
  return ca;
}

absl::Status WriteLeaf(const std::string& dir, const KeyPair& ca, const Identity& identity,
                       std::chrono::seconds lifetime) {
  HK_ASSIGN_OR_RETURN(KeyPair leaf, MakeLeaf(ca, identity, lifetime));
  return WriteKeyPair(leaf, PkiPaths(dir, std::string(Name(identity.role))));
}

}  // namespace

PairPaths PkiPaths(const std::string& dir, const std::string& name) {
  return {.certificate = fmt::format("{}/{}.crt", dir, name), .key = fmt::format("{}/{}.key", dir, name)};
}

absl::Status InitPki(const PkiOptions& options) {
  HK_RETURN_IF_ERROR(CheckNodeName(options.node));
  std::error_code error;
  if (const auto parent = std::filesystem::path(options.dir).parent_path(); !parent.empty()) {
    std::filesystem::create_directories(parent, error);
  }
  if (mkdir(options.dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return ErrnoToStatus(errno, fmt::format("make folder '{}'", options.dir));
  }
  const PairPaths ca_paths = PkiPaths(options.dir, "ca");
  if (Exists(ca_paths.certificate) || Exists(ca_paths.key)) {
    return absl::AlreadyExistsError(fmt::format("'{}' has a certificate authority already", options.dir));
  }
  HK_ASSIGN_OR_RETURN(KeyPair ca, MakeCa("heterok8s CA " + options.node.substr(0, 40), options.ca_lifetime));
  // The CA last: a folder that holds it is complete, and an interrupted init can simply be repeated.
  for (Role role : kLeafs) {
    HK_RETURN_IF_ERROR(WriteLeaf(options.dir, ca, {.node = options.node, .role = role}, options.leaf_lifetime));
  }
  return WriteKeyPair(ca, ca_paths);
}

absl::Status RotatePki(const std::string& dir, std::chrono::seconds leaf_lifetime) {
  HK_ASSIGN_OR_RETURN(KeyPair ca, ReadCa(dir));
  size_t rotated = 0;
  for (Role role : kLeafs) {
    const std::string path = PkiPaths(dir, std::string(Name(role))).certificate;
    if (!Exists(path)) continue;
    HK_ASSIGN_OR_RETURN(std::string pem, sys::ReadFile(path, 1u << 20));
    absl::StatusOr<CertificateInfo> info = ParseCertificate(pem);
    if (!info.ok()) return Annotate(info.status(), path);
    if (!info->identity.has_value()) {
      return absl::InvalidArgumentError(fmt::format("'{}' has no name heterok8s://NODE/ROLE", path));
    }
    HK_RETURN_IF_ERROR(WriteLeaf(dir, ca, *info->identity, leaf_lifetime));
    ++rotated;
  }
  if (rotated == 0) return absl::NotFoundError(fmt::format("'{}' has no certificates of host, dpu or cri", dir));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PkiEntry>> ListPki(const std::string& dir) {
  const std::string ca_path = PkiPaths(dir, "ca").certificate;
  absl::StatusOr<std::string> ca_pem = sys::ReadFile(ca_path, 1u << 20);
  if (!ca_pem.ok()) return Annotate(ca_pem.status(), "certificate authority");
  std::vector<PkiEntry> entries;
  for (const char* name : {"ca", "host", "dpu", "cri"}) {
    const PairPaths paths = PkiPaths(dir, name);
    if (!Exists(paths.certificate)) continue;
    PkiEntry entry{.name = name, .path = paths.certificate, .has_key = Exists(paths.key)};
    HK_ASSIGN_OR_RETURN(std::string pem, sys::ReadFile(paths.certificate, 1u << 20));
    absl::StatusOr<CertificateInfo> info = ParseCertificate(pem);
    if (!info.ok()) return Annotate(info.status(), paths.certificate);
    entry.info = *std::move(info);
    entry.check = CheckSignedBy(pem, *ca_pem);
    if (entry.check.ok() && entry.has_key) {
      HK_ASSIGN_OR_RETURN(KeyPair pair, ReadKeyPair(paths));
      entry.check = CheckKeyPair(pair);
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace heterok8s::tls
