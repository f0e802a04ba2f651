#include <absl/cleanup/cleanup.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <filesystem>
#include <future>
#include <thread>

#include "common/sys/file.h"
#include "common/tls/pki.h"
#include "heteroctl/lab/cgroups.h"
#include "heteroctl/lab/images.h"
#include "heteroctl/lab/kubernetes.h"
#include "heteroctl/lab/lab.h"
#include "heteroctl/lab/lock.h"
#include "heteroctl/lab/processes.h"
#include "heteroctl/lab/spawn.h"
#include "heteroctl/lab/topology.h"
#include "heteroctl/output.h"

namespace heterok8s::lab {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kReferencePlugins = "/usr/lib/cni";  // containerd itself calls `loopback` from its CNI folder
constexpr int kLogLines = 25;

absl::StatusOr<std::string> FindProgram(const fs::path& folder, const std::string& bazel_folder,
                                        const std::string& name) {
  std::error_code error;
  for (const fs::path& candidate : {folder / name, folder / bazel_folder / name}) {
    if (fs::is_regular_file(candidate, error)) return fs::canonical(candidate, error).string();
  }
  return absl::NotFoundError(fmt::format("no program '{}' in '{}'", name, folder.string()));
}

// Copies, so that a lab goes on with what it began with when the programs are built anew, and finds them wherever they
// were: a PU does not see the machine's /run, /var/lib and /var/log.
absl::Status CopyPrograms(const Layout& layout, const Binaries& binaries, bool agents) {
  std::vector<std::string> programs = {binaries.heteroctl, std::string(kReferencePlugins) + "/loopback"};
  if (agents) programs.insert(programs.end(), {binaries.heterod, binaries.heterocri, binaries.heterok8s_cni});
  for (const std::string& program : programs) {
    std::error_code error;
    fs::copy_file(program, fs::path(layout.Bin()) / fs::path(program).filename(), fs::copy_options::overwrite_existing,
                  error);
    if (error) return ErrnoToStatus(error.value(), fmt::format("copy '{}' to '{}'", program, layout.Bin()));
  }
  return absl::OkStatus();
}

// overlayfs cannot have its upper folder on an overlayfs, which is what a lab inside a container would meet.
absl::Status CheckFileSystem(const Layout& layout) {
  struct statfs st {};
  if (statfs(layout.State().c_str(), &st) == 0 && st.f_type == OVERLAYFS_SUPER_MAGIC) {
    return ctl::WithHint(absl::FailedPreconditionError(fmt::format("'{}' is on an overlay file system", kStateRoot)),
                         fmt::format("mount a volume or a tmpfs at {}", kStateRoot));
  }
  return absl::OkStatus();
}

std::string Tail(const std::string& path) {
  absl::StatusOr<std::string> text = sys::ReadFile(path);
  if (!text.ok()) return fmt::format("({})", Message(text.status()));
  size_t at = text->size();
  for (int lines = 0; at > 0 && lines <= kLogLines; --at) {
    if ((*text)[at - 1] == '\n') ++lines;
  }
  return text->substr(at == 0 ? 0 : at + 1);
}

// The failure and the end of the log that explains it.
absl::Status WithLog(const absl::Status& status, const Layout& layout, const Part& part) {
  std::string log = layout.Log(part.pu, part.daemon);
  if (!fs::exists(log)) log = layout.Log(part.pu, "init");
  return Annotate(absl::Status(status.code(), fmt::format("{}\n--- {}:\n{}", Message(status), log, Tail(log))),
                  "lab up");
}

absl::Status PlantSeeds(const Layout& layout, const ImageSet& images) {
  std::vector<std::future<absl::Status>> copies;
  for (Place pu : kPus) {
    const std::string root = layout.PuState(pu) + "/var/lib/containerd";
    copies.push_back(std::async(std::launch::async, [&images, root] { return PlantSeed(images, root); }));
  }
  absl::Status first;
  for (auto& copy : copies) first.Update(copy.get());
  return first;
}

absl::Status Prepare(const UpOptions& options, const Binaries& binaries, const ImageSet& images) {
  const Layout& layout = options.layout;
  HK_RETURN_IF_ERROR(WriteConfigs(layout, options.config));
  HK_RETURN_IF_ERROR(PlantSeeds(layout, images));
  HK_RETURN_IF_ERROR(CheckFileSystem(layout));
  HK_RETURN_IF_ERROR(CopyPrograms(layout, binaries, options.config.agents));
  HK_RETURN_IF_ERROR(MakeCgroups(layout));
  HK_RETURN_IF_ERROR(Annotate(tls::InitPki({.dir = layout.Pki(), .node = layout.name}), "make certificates"));
  if (options.config.kubernetes.empty()) return absl::OkStatus();
  return Annotate(MakeKubernetesPki(layout), "make Kubernetes's certificates");
}

absl::Status ImportEverywhere(const Layout& layout, const std::vector<std::string>& archives,
                              Clock::time_point deadline) {
  std::vector<std::future<absl::Status>> imports;
  for (Place pu : kPus) {
    imports.push_back(std::async(std::launch::async, [&, pu]() -> absl::Status {
      const std::string socket = layout.PuRun(pu) + "/containerd/containerd.sock";
      absl::Status listens = WaitForSocket(socket, deadline);
      if (!listens.ok()) return WithLog(listens, layout, {pu, "containerd"});
      return Annotate(ImportArchives(socket, archives), fmt::format("images for the {}", Name(pu)));
    }));
  }
  absl::Status first;
  for (auto& import : imports) first.Update(import.get());
  return first;
}

}  // namespace

absl::StatusOr<Binaries> FindBinaries(const std::string& folder, bool agents) {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  Binaries found{.heteroctl = self};
  // heteroctl is at <bazel-bin>/heteroctl/heteroctl, or everything is in one folder.
  std::vector<fs::path> folders = {self.parent_path(), self.parent_path().parent_path()};
  if (!folder.empty()) folders = {folder};
  if (!agents) return found;
  absl::Status missing;
  for (const fs::path& at : folders) {
    absl::StatusOr<std::string> heterod = FindProgram(at, "node-agent", "heterod");
    absl::StatusOr<std::string> heterocri = FindProgram(at, "node-agent/cri", "heterocri");
    absl::StatusOr<std::string> cni = FindProgram(at, "cni", "heterok8s-cni");
    missing = heterod.status();
    missing.Update(heterocri.status());
    missing.Update(cni.status());
    if (!missing.ok()) continue;
    found.heterod = *heterod;
    found.heterocri = *heterocri;
    found.heterok8s_cni = *cni;
    return found;
  }
  return ctl::WithHint(missing, "`make build` makes the programs; --bin DIR names another folder");
}

absl::StatusOr<UpResult> Up(const UpOptions& options, const Report& report) {
  const auto start = Clock::now();
  const auto deadline = start + options.deadline;
  const Layout& layout = options.layout;
  HK_RETURN_IF_ERROR(CheckName(layout.name));
  if (geteuid() != 0) return absl::PermissionDeniedError("a lab is made of namespaces and cgroups: run this as root");
  HK_ASSIGN_OR_RETURN(Binaries binaries, FindBinaries(options.binary_folder, options.config.agents));
  ImageSet images;
  if (options.images) {
    HK_ASSIGN_OR_RETURN(images, FindImages(options.image_folder));
  }
  HK_ASSIGN_OR_RETURN(LabLock lock, LabLock::Take(layout, options.deadline));
  if (FindInit(layout, Place::kHost).ok() || FindInit(layout, Place::kDpu).ok()) {
    return ctl::WithHint(absl::AlreadyExistsError(fmt::format("lab '{}' is up", layout.name)),
                         fmt::format("`heteroctl lab down {}` removes it", layout.name));
  }
  HK_RETURN_IF_ERROR(Annotate(Remove(layout), "remove what a former lab of this name left"));
  auto undo = absl::MakeCleanup([&] {
    if (options.keep_on_failure) return;
    absl::Status removed = Remove(layout);
    if (!removed.ok()) report(fmt::format("could not clean up: {}", Message(removed)));
    lock.ReleaseAndRemove();
    RemoveEmptyRoots();
  });

  report("namespaces, links, configuration");
  std::future<absl::Status> wired =
      std::async(std::launch::async, [&] { return MakeTopology(layout, !options.config.kubernetes.empty()); });
  absl::Status prepared = Prepare(options, binaries, images);
  absl::Status topology = wired.get();
  HK_RETURN_IF_ERROR(prepared);
  HK_RETURN_IF_ERROR(topology);
  for (Place pu : PlacesWithInit(layout, options.config)) {
    HK_RETURN_IF_ERROR(StartInit(layout, pu, {layout.Bin() + "/heteroctl", "lab-init", layout.InitSpec(pu)}));
  }

  report("daemons and images");
  std::future<absl::Status> imported =
      std::async(std::launch::async, [&] { return ImportEverywhere(layout, images.to_import, deadline); });
  UpResult result{.images = images.count};
  std::vector<std::future<PartState>> waits;
  for (const Part& part : Parts(layout, options.config)) {
    waits.push_back(std::async(std::launch::async, [&layout, part, deadline, start] {
      PartState state{.part = part, .status = WaitForPart(layout, part, deadline)};
      state.after = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start);
      return state;
    }));
  }
  for (auto& wait : waits) result.parts.push_back(wait.get());
  const absl::Status import_status = imported.get();
  for (const PartState& state : result.parts) {
    if (!state.status.ok()) return WithLog(state.status, layout, state.part);
  }
  HK_RETURN_IF_ERROR(import_status);
  std::move(undo).Cancel();
  result.took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start);
  return result;
}

}  // namespace heterok8s::lab
