#include "cni/shim.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "common/cni/types.h"
#include "common/cni/wire.h"
#include "common/sys/file.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::cni {
namespace {

// An operator can move these by keys of the configuration, "socket" and "queueDir".
constexpr char kDefaultSocket[] = "/run/heterok8s/cni.sock";
constexpr char kDefaultQueueDir[] = "/var/lib/heterok8s/cni-queue";

std::string Get(const std::map<std::string, std::string>& environment, const char* name) {
  auto it = environment.find(name);
  return it == environment.end() ? "" : it->second;
}

Outcome Failure(const absl::Status& status, const std::string& cni_version) {
  return {.exit_code = 1, .stdout_text = ErrorJson(status, cni_version) + "\n"};
}

// A runtime that passes the plugin's own namespace would have us rewire the host. CNI_NETNS_OVERRIDE is for runtimes
// that mean it.
absl::Status CheckNetns(const Request& request) {
  if (request.netns.empty() || request.command == Command::kGc || request.command == Command::kStatus) {
    return absl::OkStatus();
  }
  const std::string override = Get(request.environment, "CNI_NETNS_OVERRIDE");
  if (override == "1" || strcasecmp(override.c_str(), "true") == 0) return absl::OkStatus();
  struct stat own, given;
  if (stat(request.netns.c_str(), &given) != 0 || stat("/proc/self/ns/net", &own) != 0) return absl::OkStatus();
  if (own.st_ino != given.st_ino || own.st_dev != given.st_dev) return absl::OkStatus();
  return MakeError(kInvalidNetns, "plugin's netns and netns from CNI_NETNS should not be the same", request.netns);
}

absl::StatusOr<sys::UniqueFd> Connect(const std::string& path, std::chrono::seconds timeout) {
  sockaddr_un address = {.sun_family = AF_UNIX};
  if (path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(fmt::format("socket path '{}' is too long", path));
  }
  memcpy(address.sun_path, path.data(), path.size());
  sys::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoToStatus(errno, "make a socket");
  // connect() waits while the backlog is full; this is its deadline.
  timeval limit = {.tv_sec = static_cast<time_t>(timeout.count()), .tv_usec = 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoToStatus(errno, fmt::format("connect to heterod at '{}'", path));
  }
  return fd;
}

absl::StatusOr<WireReply> Exchange(const NetworkConfig& config, const std::string& text) {
  const Deadline deadline = std::chrono::steady_clock::now() + config.timeout;
  const std::string path = config.socket.empty() ? kDefaultSocket : config.socket;
  HK_ASSIGN_OR_RETURN(sys::UniqueFd fd, Connect(path, config.timeout));
  absl::Status written = WriteFrame(fd.get(), text, deadline);
  absl::StatusOr<std::string> reply = written.ok() ? ReadFrame(fd.get(), deadline) : written;
  if (!reply.ok()) return Annotate(reply.status(), fmt::format("heterod at '{}'", path));
  return DecodeReply(*reply);
}

absl::Status Enqueue(const Request& request, const std::string& text) {
  std::string folder = request.config.queue_dir.empty() ? kDefaultQueueDir : request.config.queue_dir;
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();  // the last part is the one that is root's alone
  // With its parents: where heterod has never run there are none.
  for (size_t end = 0; end != std::string::npos;) {
    end = folder.find('/', end + 1);
    const std::string part = folder.substr(0, end);
    if (mkdir(part.c_str(), end == std::string::npos ? 0700 : 0755) != 0 && errno != EEXIST) {
      return ErrnoToStatus(errno, fmt::format("make folder '{}' of the queue", part));
    }
  }
  const std::string name = QueueFileName(request.config.name, request.container_id, request.ifname);
  return sys::WriteFileAtomic(folder + "/" + name, text, 0600);
}

// `why`: what kept heterod from answering.
Outcome WithoutHeterod(const Request& request, const std::string& text, const absl::Status& why) {
  const std::string& version = request.config.cni_version;
  switch (request.command) {
    case Command::kDel: {
      absl::Status queued = Enqueue(request, text);
      if (queued.ok()) return {.stderr_text = fmt::format("{}; DEL is queued for its return\n", Message(why))};
      return Failure(
          MakeError(kTryAgainLater, fmt::format("{}, and DEL could not be queued: {}", Message(why), Message(queued))),
          version);
    }
    case Command::kGc:
      return {.stderr_text = fmt::format("{}; nothing is collected until the next GC\n", Message(why))};
    case Command::kStatus:
      return Failure(MakeError(kNotAvailable, Message(why)), version);
    default:
      return Failure(MakeError(kTryAgainLater, Message(why)), version);
  }
}

Outcome About() {
  return {.stderr_text = fmt::format("CNI heterok8s-cni plugin: one Pod over host and DPU\n"
                                     "CNI protocol versions supported: {}\n",
                                     fmt::join(kSupportedVersions, ", "))};
}

}  // namespace

Outcome HandleCall(const std::map<std::string, std::string>& environment,
                   const std::function<absl::StatusOr<std::string>()>& read_stdin) {
  const std::string command = Get(environment, "CNI_COMMAND");
  if (command.empty()) return About();
  if (command == Name(Command::kVersion)) return {.stdout_text = VersionJson() + "\n"};

  absl::StatusOr<std::string> input = read_stdin();
  if (!input.ok()) return Failure(MakeError(kIoFailure, Message(input.status())), kLatestVersion);
  absl::StatusOr<Request> request = ParseRequest(environment, *input);
  // A configuration that cannot be accepted may still say in which version the error is wanted.
  if (!request.ok()) {
    nlohmann::json json = nlohmann::json::parse(*input, nullptr, /*allow_exceptions=*/false);
    auto version = json.is_object() ? json.find("cniVersion") : json.end();
    const bool given = json.is_object() && version != json.end() && version->is_string();
    return Failure(request.status(), given ? version->get<std::string>() : kLatestVersion);
  }
  if (absl::Status netns = CheckNetns(*request); !netns.ok()) return Failure(netns, request->config.cni_version);

  WireRequest wire{.stdin_text = std::move(*input)};
  for (const auto& [key, value] : environment) {
    if (IsWireVariable(key)) wire.environment[key] = value;
  }
  absl::StatusOr<std::string> text = EncodeRequest(wire);
  if (!text.ok()) return Failure(text.status(), request->config.cni_version);
  absl::StatusOr<WireReply> reply = Exchange(request->config, *text);
  if (!reply.ok()) return WithoutHeterod(*request, *text, reply.status());
  return {.exit_code = reply->exit_code, .stdout_text = std::move(reply->stdout_text)};
}

}  // namespace heterok8s::cni
