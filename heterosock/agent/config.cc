#include "heterosock/agent/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "common/config/yaml.h"
#include "common/sys/file.h"
#include "heterosock/protocol/messages.h"

namespace heterok8s::heterosock::agent {
namespace {

using config::Section;

std::string Path(Section& section, const std::string& key, const std::string& otherwise) {
  std::string path = section.String(key, otherwise);
  if (!path.empty() && path.front() != '/') section.Fail(key, fmt::format("'{}' is no absolute path", path));
  return path;
}

std::string OneOf(Section& section, const std::string& key, const std::string& otherwise,
                  const std::vector<std::string>& allowed) {
  std::string text = section.String(key, otherwise);
  if (std::find(allowed.begin(), allowed.end(), text) == allowed.end()) {
    section.Fail(key, fmt::format("'{}' is none of {}", text, fmt::join(allowed, ", ")));
  }
  return text;
}

}  // namespace

absl::StatusOr<Config> ParseConfig(const std::string& text, const std::string& name) {
  HK_ASSIGN_OR_RETURN(config::Document document, config::Document::Parse(text, name));
  Section root = document.root();
  Config config;
  Agent::Options& agent = config.agent;
  agent.socket = Path(root, "socket", protocol::kDefaultAgentPath);
  agent.admin = Path(root, "admin", "/run/heterosock/admin.sock");

  Section pu = root.Child("other_pu");
  agent.pu_listen = Path(pu, "listen", "");
  agent.pu_connect = Path(pu, "connect", "");
  if (!agent.pu_listen.empty() && !agent.pu_connect.empty()) {
    pu.Fail("connect", "one of the two agents listens, the other one connects");
  }

  agent.offer_deadline = std::chrono::milliseconds(root.Int("offer_deadline_ms", 2000, 10, 600000));
  agent.ring_bytes = static_cast<uint32_t>(root.Int("ring_kib", 1024, 4, 65536) * 1024);
  if (!std::has_single_bit(agent.ring_bytes)) root.Fail("ring_kib", "is no power of two");

  Section limits = root.Child("limits");
  agent.max_pending_offers = static_cast<uint32_t>(limits.Int("offers_per_process", 256, 1, 65536));
  agent.max_channels = static_cast<uint32_t>(limits.Int("channels_per_process", 20000, 1, 1 << 20));
  agent.max_processes = static_cast<uint32_t>(limits.Int("processes_per_domain", 4096, 1, 1 << 20));
  agent.credits.channels = static_cast<uint64_t>(limits.Int("channels_per_domain", 20000, 0, 1 << 24));
  agent.credits.bytes = static_cast<uint64_t>(limits.Int("mib_per_domain", 65536, 0, 1 << 30)) << 20;

  Section tokens = root.Child("tokens");
  config.tokens = OneOf(tokens, "mode", "auto", {"auto", "off"}) == "auto" ? TokenMode::kAuto : TokenMode::kOff;
  config.token_cgroup = Path(tokens, "cgroup", "");
  agent.believe_addresses = OneOf(tokens, "addresses", "same-netns", {"same-netns", "any-netns"}) == "any-netns";
  config.bpffs = Path(tokens, "bpffs", "/run/heterosock/bpf");

  Section policy = root.Child("policy");
  absl::StatusOr<Policy> parsed = Policy::Parse(policy.Strings("groups", {}), policy.Strings("chains", {}));
  if (parsed.ok()) {
    agent.policy = *std::move(parsed);
  } else {
    root.Fail("policy", Message(parsed.status()));
  }

  Section metrics = root.Child("metrics");
  config.metrics_listen = metrics.String("listen", "");
  Section log = root.Child("log");
  config.log_level = OneOf(log, "level", "info", {"trace", "debug", "info", "warn", "error"});
  HK_RETURN_IF_ERROR(document.Finish());
  return config;
}

absl::StatusOr<Config> LoadConfig(const std::string& path) {
  absl::StatusOr<std::string> text = sys::ReadFile(path, 1u << 20);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(fmt::format("{}; an empty file there gives the defaults", Message(text.status())));
  }
  HK_RETURN_IF_ERROR(text.status());
  return ParseConfig(*text, path);
}

}  // namespace heterok8s::heterosock::agent
