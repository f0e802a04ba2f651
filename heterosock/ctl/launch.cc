#include "heterosock/ctl/launch.h"

#include <elf.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "heterosock/protocol/messages.h"

namespace heterok8s::heterosock::ctl {
namespace {

constexpr char kLibraryVariable[] = "HETEROSOCK_LIBRARY";
constexpr char kLibraryName[] = "libheterosock.so";

std::string Variable(const std::vector<std::string>& environment, const std::string& name) {
  for (const std::string& entry : environment) {
    if (entry.starts_with(name + "=")) return entry.substr(name.size() + 1);
  }
  return "";
}

void SetVariable(std::vector<std::string>& environment, const std::string& name, const std::string& value) {
  std::erase_if(environment, [&](const std::string& entry) { return entry.starts_with(name + "="); });
  environment.push_back(name + "=" + value);
}

bool IsExecutableFile(const std::string& path) {
  struct stat st {};
  return stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode) && access(path.c_str(), X_OK) == 0;
}

std::string FindProgram(const std::string& name, const std::string& path_variable) {
  if (name.find('/') != std::string::npos) return IsExecutableFile(name) ? name : "";
  std::istringstream folders(path_variable.empty() ? "/usr/local/bin:/usr/bin:/bin" : path_variable);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string path = (folder.empty() ? "." : folder) + "/" + name;
    if (IsExecutableFile(path)) return path;
  }
  return "";
}

std::string FindLibrary(const std::string& own_folder, bool musl) {
  const std::string name = musl ? fmt::format("musl/{}", kLibraryName) : kLibraryName;
  for (const std::string& path :
       {fmt::format("{}/{}", own_folder, name), fmt::format("{}/../{}", own_folder, name),
        fmt::format("{}/../lib/heterosock/{}", own_folder, name), fmt::format("/usr/lib/heterosock/{}", name)}) {
    std::error_code error;
    if (std::filesystem::exists(path, error)) return std::filesystem::canonical(path, error).string();
  }
  return "";
}

// The dynamic loader that an ELF program asks for; empty when it asks for none, or is no such program.
struct Elf {
  bool is_elf = false, is_64 = false;
  std::string interpreter;
};
Elf ReadElf(const std::string& program) {
  Elf elf;
  std::ifstream in(program, std::ios::binary);
  Elf64_Ehdr header{};
  if (!in.read(reinterpret_cast<char*>(&header), sizeof header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return elf;
  }
  elf.is_elf = true;
  elf.is_64 = header.e_ident[EI_CLASS] == ELFCLASS64;
  if (!elf.is_64) return elf;
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    in.seekg(static_cast<std::streamoff>(header.e_phoff) + i * static_cast<std::streamoff>(header.e_phentsize));
    if (!in.read(reinterpret_cast<char*>(&segment), sizeof segment)) break;
    if (segment.p_type != PT_INTERP) continue;
    std::string name(std::min<uint64_t>(segment.p_filesz, 4096), '\0');
    in.seekg(static_cast<std::streamoff>(segment.p_offset));
    in.read(name.data(), static_cast<std::streamsize>(name.size()));
    elf.interpreter = name.c_str();
    break;
  }
  return elf;
}

}  // namespace

std::string WhyNotPreloadable(const std::string& program) {
  struct stat st {};
  if (stat(program.c_str(), &st) != 0) return "";
  // ld.so(8): in secure-execution mode LD_PRELOAD is ignored.
  if ((st.st_mode & S_ISUID) != 0 && st.st_uid != geteuid()) return "it is set-user-ID";
  if ((st.st_mode & S_ISGID) != 0 && st.st_gid != getegid()) return "it is set-group-ID";
  if (geteuid() != 0 && getxattr(program.c_str(), "security.capability", nullptr, 0) > 0)
    return "it has file capabilities";
  const Elf elf = ReadElf(program);
  if (!elf.is_elf) return "";  // a script: its interpreter decides
  if (!elf.is_64) return "it is a 32-bit program";
  if (!elf.interpreter.empty()) return "";
  return "it is statically linked";
}

absl::StatusOr<Launch> PlanLaunch(const LaunchOptions& options, const std::vector<std::string>& environment) {
  Launch launch{.environment = environment};
  if (options.argv.empty()) return absl::InvalidArgumentError("no command");
  launch.program = FindProgram(options.argv.front(), Variable(environment, "PATH"));
  if (launch.program.empty()) {
    return absl::NotFoundError(fmt::format("no program '{}' that can be run", options.argv.front()));
  }
  std::string library = options.library;
  if (library.empty()) library = Variable(environment, kLibraryVariable);
  if (library.empty()) {
    // "ld-musl-x86_64.so.1". The libraries get along with programs of the other libc that this one may start.
    const bool musl = ReadElf(launch.program).interpreter.find("/ld-musl-") != std::string::npos;
    library = FindLibrary(options.own_folder, musl);
  }
  std::error_code error;
  if (library.empty() || !std::filesystem::exists(library, error)) {
    return absl::NotFoundError(fmt::format("{} is not at {}; {} or --library names it", kLibraryName,
                                           library.empty() ? "any usual place" : "'" + library + "'",
                                           kLibraryVariable));
  }
  // ld.so splits LD_PRELOAD at spaces and colons and has no way to quote them.
  if (library.find_first_of(" :") != std::string::npos) {
    return absl::InvalidArgumentError(fmt::format("'{}' has a space or colon, which LD_PRELOAD cannot carry", library));
  }
  library = std::filesystem::absolute(library, error).string();
  const std::string former = Variable(environment, "LD_PRELOAD");
  const bool there = fmt::format(":{}:", former).find(":" + library + ":") != std::string::npos;
  if (!there) SetVariable(launch.environment, "LD_PRELOAD", former.empty() ? library : library + ":" + former);

  std::string agent = options.agent;
  if (agent.empty()) agent = Variable(environment, protocol::kAgentPathVariable);
  if (agent.empty()) agent = protocol::kDefaultAgentPath;
  SetVariable(launch.environment, protocol::kAgentPathVariable, agent);
  if (!std::filesystem::exists(agent, error)) {
    launch.warnings.push_back(
        fmt::format("no heterosockd at '{}' yet: connections stay on TCP until it is there", agent));
  }
  if (std::string why = WhyNotPreloadable(launch.program); !why.empty()) {
    launch.warnings.push_back(fmt::format("'{}' runs without the library, on TCP: {}", options.argv.front(), why));
  }
  return launch;
}

}  // namespace heterok8s::heterosock::ctl
