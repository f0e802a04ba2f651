#include "node-agent/cri/sandbox_mark.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <spdlog/spdlog.h>
#include <sys/random.h>

#include <cerrno>
#include <vector>

#include "common/sys/file.h"
#include "node-agent/cri/annotation_of.h"
#include "node-agent/cri/annotations.h"

namespace heterok8s::cri {
namespace {

constexpr size_t kKeyBytes = 32;

}  // namespace

absl::StatusOr<SandboxMark> SandboxMark::Open(const std::string& key_file) {
  sys::RemoveUnfinished(key_file);
  absl::StatusOr<std::string> known = sys::ReadFile(key_file, 4096);
  if (known.ok() && known->size() == kKeyBytes) return SandboxMark(*std::move(known));
  const bool damaged = known.ok() || known.status().code() == absl::StatusCode::kResourceExhausted;
  if (!damaged && known.status().code() != absl::StatusCode::kNotFound) return known.status();
  if (damaged) {
    spdlog::error("'{}' does not have {} bytes and is made anew; Pods of now count as made without heterocri", key_file,
                  kKeyBytes);
  }
  std::string key(kKeyBytes, '\0');
  if (getrandom(key.data(), key.size(), 0) != static_cast<ssize_t>(key.size()))
    return ErrnoToStatus(errno, "getrandom");
  HK_RETURN_IF_ERROR(sys::WriteFileAtomic(key_file, key, 0600));
  return SandboxMark(std::move(key));
}

std::string SandboxMark::Of(const runtime::v1::PodSandboxMetadata& metadata, const Annotations& annotations) const {
  std::string said = fmt::format("{}:{}", metadata.uid(), metadata.attempt());
  for (const char* name : {kPlacement, kPlacementReason, kRefused, kLogDirectory}) {
    const std::string value = AnnotationOf(annotations, name);
    said += fmt::format(";{}={}:{}", name, value.size(), value);  // the length: no value can look like two
  }
  std::vector<unsigned char> code(EVP_MAX_MD_SIZE);
  unsigned int size = 0;
  if (HMAC(EVP_sha256(), key_.data(), static_cast<int>(key_.size()),
           reinterpret_cast<const unsigned char*>(said.data()), said.size(), code.data(), &size) == nullptr) {
    return "";  // nobody's mark
  }
  code.resize(size);
  return fmt::format("{:02x}", fmt::join(code, ""));
}

bool SandboxMark::Made(const runtime::v1::PodSandboxMetadata& metadata, const Annotations& annotations) const {
  const std::string claimed = AnnotationOf(annotations, kMark), ours = Of(metadata, annotations);
  return !ours.empty() && claimed.size() == ours.size() && CRYPTO_memcmp(claimed.data(), ours.data(), ours.size()) == 0;
}

}  // namespace heterok8s::cri
