#include "node-agent/attach/namespaces.h"

#include <fmt/format.h>

#include <filesystem>

namespace heterok8s::attach {
namespace {

class KernelNamespaces : public Namespaces {
 public:
  absl::StatusOr<sys::NetnsRef> Open(const std::string& path) override { return sys::NetnsRef::Open(path); }

  absl::StatusOr<sys::NetnsRef> Ensure(const std::string& path) override {
    absl::StatusOr<sys::NetnsRef> made = sys::CreateNetns(path);
    return absl::IsAlreadyExists(made.status()) ? sys::NetnsRef::Open(path) : std::move(made);
  }

  absl::Status Delete(const std::string& path) override { return sys::DeleteNetns(path); }

  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) override {
    std::vector<std::string> paths;
    std::error_code error;
    std::filesystem::directory_iterator entries(folder, error);
    if (error == std::errc::no_such_file_or_directory) return paths;
    for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
      paths.push_back(entries->path().string());
    }
    if (error) return ErrnoToStatus(error.value(), fmt::format("list {}", folder));
    return paths;
  }
};

}  // namespace

std::unique_ptr<Namespaces> NewKernelNamespaces() { return std::make_unique<KernelNamespaces>(); }

}  // namespace heterok8s::attach
