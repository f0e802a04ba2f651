#include "node-agent/cni_server/calls.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>

#include "common/sys/file.h"

namespace heterok8s::cni_server {
namespace {

using Clock = std::chrono::steady_clock;

// "pod default/web", or the container where the runtime names no Pod.
std::string Subject(const cni::Request& request) {
  switch (request.command) {
    case cni::Command::kAdd:
    case cni::Command::kDel:
    case cni::Command::kCheck:
      if (!request.pod_name().empty()) return fmt::format("pod {}/{}", request.pod_namespace(), request.pod_name());
      return fmt::format("container {}", request.container_id);
    default:
      return fmt::format("network {}", request.config.name);
  }
}

// One attachment's calls; STATUS and GC of a network wait only for their like.
std::string LockName(const cni::Request& request) {
  const bool of_network = request.command == cni::Command::kGc || request.command == cni::Command::kStatus;
  if (of_network) return fmt::format("{}@{}", cni::Name(request.command), request.config.name);
  return fmt::format("{}@{}@{}", request.config.name, request.container_id, request.ifname);
}

}  // namespace

std::string Calls::QueuePath(const cni::Request& request) const {
  return queue_dir_ + "/" + cni::QueueFileName(request.config.name, request.container_id, request.ifname);
}

// With the attachment's lock. Whoever removes the file has carried its DEL out, so one that is gone is done: a replay
// may have read it and then waited for an ADD that settled it, and what is attached now is that ADD's.
absl::Status Calls::SettleQueued(const std::string& queue_file) {
  absl::StatusOr<std::string> text = sys::ReadFile(queue_file, cni::kMaxFrameBytes);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  HK_RETURN_IF_ERROR(text.status());
  HK_ASSIGN_OR_RETURN(cni::WireRequest wire, cni::DecodeRequest(*text));
  HK_ASSIGN_OR_RETURN(cni::Request queued, cni::ParseRequest(wire.environment, wire.stdin_text));
  HK_RETURN_IF_ERROR(engine_.Del(queued));
  if (unlink(queue_file.c_str()) != 0 && errno != ENOENT) {
    return ErrnoToStatus(errno, fmt::format("remove '{}'", queue_file));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Calls::Add(const cni::Request& request, const Caller& caller) {
  if (caller.is_gone()) return cni::MakeError(cni::kTryAgainLater, "the caller left before its turn");
  // A DEL that still waits in the queue is older than this call, so it goes first: replayed later, it would take away
  // what this ADD makes. The runtime never has two calls for one attachment under way, so no newer file can appear.
  HK_RETURN_IF_ERROR(Annotate(SettleQueued(QueuePath(request)), "DEL queued for the same attachment"));
  HK_ASSIGN_OR_RETURN(cni::Result result, engine_.Add(request));
  if (request.config.prev_result) result = cni::Amend(*request.config.prev_result, result);
  return cni::ToJson(result, request.config.cni_version).dump() + "\n";
}

absl::StatusOr<std::string> Calls::CarryOut(const cni::Request& request, const Caller& caller) {
  switch (request.command) {
    case cni::Command::kAdd:
      return Add(request, caller);
    case cni::Command::kDel: {
      if (!caller.queue_file.empty()) {
        HK_RETURN_IF_ERROR(SettleQueued(caller.queue_file));
        return std::string();
      }
      HK_RETURN_IF_ERROR(engine_.Del(request));
      // This DEL did all that a queued one would.
      if (unlink(QueuePath(request).c_str()) != 0 && errno != ENOENT) {
        return ErrnoToStatus(errno, fmt::format("remove '{}'", QueuePath(request)));
      }
      return std::string();
    }
    case cni::Command::kCheck:
      HK_RETURN_IF_ERROR(engine_.Check(request));
      return std::string();
    case cni::Command::kGc:
      // cnitool sends no list. Without one nothing is known to be stale.
      if (request.config.has_valid_attachments) HK_RETURN_IF_ERROR(engine_.Gc(request));
      return std::string();
    case cni::Command::kStatus:
      HK_RETURN_IF_ERROR(engine_.Status(request));
      return std::string();
    case cni::Command::kVersion:
      return cni::VersionJson() + "\n";
  }
  return absl::InternalError("no such command");
}

absl::Status Calls::Serve(const cni::WireRequest& wire, const Caller& caller) {
  absl::StatusOr<cni::Request> request = cni::ParseRequest(wire.environment, wire.stdin_text);
  if (!request.ok()) {
    caller.deliver({.exit_code = 1, .stdout_text = cni::ErrorJson(request.status(), cni::kLatestVersion) + "\n"});
    spdlog::warn("CNI call not understood: {}", Message(request.status()));
    return request.status();
  }

  // Held until an ADD that nobody heard of is undone, so that its undoing cannot hit the caller's next try. Whoever
  // waits longer than its own caller does is of no use to it.
  absl::StatusOr<sys::KeyedMutex::Guard> lock = attachments_.Lock(LockName(*request), request->config.timeout);
  absl::StatusOr<std::string> text = lock.ok() ? CarryOut(*request, caller) : lock.status();
  const bool delivered = caller.deliver(
      text.ok() ? cni::WireReply{.exit_code = 0, .stdout_text = *text}
                : cni::WireReply{.exit_code = 1,
                                 .stdout_text = cni::ErrorJson(text.status(), request->config.cni_version) + "\n"});

  const bool replayed = !caller.queue_file.empty();
  const auto duration = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - caller.arrived);
  const std::string line =
      fmt::format("{}{} {} in {:.1f} ms: {}", replayed ? "queued " : "", cni::Name(request->command), Subject(*request),
                  duration.count() / 1000.0, text.ok() ? "ok" : Message(text.status()));
  spdlog::log(text.ok() ? spdlog::level::info : spdlog::level::warn, line);
  if (request->command == cni::Command::kAdd && text.ok() && !delivered) {
    absl::Status undone = engine_.Del(*request);
    spdlog::warn("ADD {}: its caller left without the answer; {}", Subject(*request),
                 undone.ok() ? "undone" : "undoing it failed, the runtime's DEL or GC will: " + Message(undone));
  }
  if (on_call_) on_call_({request->command, cni::CodeOf(text.status()), duration, replayed});
  return text.status();
}

}  // namespace heterok8s::cni_server
