// heterosockd [--config FILE] [--socket PATH] [--admin PATH]: the agent of hetero-socket on one PU. Runs until SIGTERM
// or SIGINT; SIGHUP reads the policy again. Connections that are on shared memory go on without it.
//
// Exit code: 0 after a signal, 1 when it cannot start (stderr says why), 2 for wrong usage.
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <thread>

#include "common/metrics/http_server.h"
#include "common/sys/notify.h"
#include "common/version/version.h"
#include "heterosock/agent/config.h"
#include "heterosock/agent/mechanisms.h"
#include "heterosock/agent/metrics.h"
#include "heterosock/agent/token.h"

namespace heterok8s::heterosock::agent {
namespace {

struct Flags {
  std::string config, socket, admin;
  bool check_config = false, detach = false;
};

// Without a file: what `heterosockd --socket PATH` on a developer's machine needs, which leaves nothing behind.
absl::StatusOr<Config> ConfigOf(const Flags& flags) {
  absl::StatusOr<Config> config =
      flags.config.empty() ? ParseConfig("{tokens: {mode: \"off\"}}", "defaults") : LoadConfig(flags.config);
  if (!config.ok()) return config;
  if (flags.config.empty() && !flags.socket.empty()) config->agent.admin = flags.admin;
  if (!flags.socket.empty()) config->agent.socket = flags.socket;
  if (!flags.admin.empty()) config->agent.admin = flags.admin;
  return config;
}

std::unique_ptr<BpfTokens> StartTokens(const Config& config, std::vector<Mechanism>& mechanisms) {
  if (config.tokens == TokenMode::kOff) {
    mechanisms.push_back(DescribeMatching(false, "switched off"));
    return nullptr;
  }
  absl::StatusOr<std::unique_ptr<BpfTokens>> tokens =
      BpfTokens::Attach({.cgroup = config.token_cgroup, .bpffs = config.bpffs});
  if (!tokens.ok()) {
    spdlog::warn("connections are matched by addresses, within a network namespace: {}", Message(tokens.status()));
    mechanisms.push_back(DescribeMatching(false, Message(tokens.status())));
    return nullptr;
  }
  mechanisms.push_back(DescribeMatching(true, (*tokens)->cgroup()));
  return *std::move(tokens);
}

// Turns signals into tasks of the agent until one says stop.
void ServeSignals(const sigset_t& signals, Agent& agent, const Flags& flags) {
  const std::chrono::milliseconds period = sys::WatchdogPeriod(std::chrono::seconds(10));
  const timespec pause{.tv_sec = period.count() / 1000, .tv_nsec = period.count() % 1000 * 1000000};
  agent.Post([](Agent&) { sys::NotifyReady(); });
  while (true) {
    const int signal = sigtimedwait(&signals, nullptr, &pause);
    if (signal < 0) {
      agent.Post([](Agent&) { sys::NotifyAlive(); });  // said by the loop that everybody waits for
      continue;
    }
    if (signal != SIGHUP) return agent.Stop();
    absl::StatusOr<Config> config = ConfigOf(flags);
    if (!config.ok()) {
      spdlog::error("{}; keeping the previous policy", Message(config.status()));
      continue;
    }
    spdlog::info("policy read again");
    agent.Post([policy = std::move(config->agent.policy)](Agent& a) { a.SetPolicy(policy); });
  }
}

absl::Status Serve(const Flags& flags) {
  HK_ASSIGN_OR_RETURN(Config config, ConfigOf(flags));
  if (flags.check_config) return absl::OkStatus();
  spdlog::set_level(spdlog::level::from_str(config.log_level));
  if (flags.detach) {
    BpfTokens::Detach(config.bpffs);
    return absl::OkStatus();
  }
  // Before any thread, so that all inherit it and only sigwait() sees them.
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  config.agent.mechanisms = ProbeMechanisms();
  const std::unique_ptr<BpfTokens> tokens = StartTokens(config, config.agent.mechanisms);
  config.agent.tokens = tokens.get();
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Agent> agent, Agent::Start(config.agent));
  const std::shared_ptr<metrics::LiveMetrics> live = MakeMetrics(*agent);
  std::unique_ptr<metrics::HttpServer> http;
  if (!config.metrics_listen.empty()) {
    HK_ASSIGN_OR_RETURN(http, metrics::HttpServer::Start({.listen = config.metrics_listen, .collectables = {live}}));
  }
  spdlog::info("heterosockd {} serves '{}'", kVersion, config.agent.socket);
  std::thread signal_thread([&] { ServeSignals(signals, *agent, flags); });
  absl::Status ended = agent->Run();
  if (!ended.ok()) pthread_kill(signal_thread.native_handle(), SIGTERM);
  signal_thread.join();
  http.reset();
  return ended;
}

}  // namespace
}  // namespace heterok8s::heterosock::agent

int main(int argc, char** argv) {
  using namespace heterok8s;
  heterosock::agent::Flags flags;
  CLI::App app("heterosockd: brings the ends of TCP connections together on shared memory");
  app.set_version_flag("--version", std::string(kVersion));
  app.add_option("--config", flags.config, "heterosockd.yaml; without it the defaults, and no tokens");
  app.add_option("--socket", flags.socket, "Unix socket for libraries (HETEROSOCK_AGENT)");
  app.add_option("--admin", flags.admin, "Unix socket for heterosockctl");
  app.add_flag("--check-config", flags.check_config, "Say what is wrong with the file, and exit");
  app.add_flag("--detach", flags.detach, "Remove the BPF program that an agent left attached, and exit");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  absl::Status status = heterosock::agent::Serve(flags);
  if (status.ok()) return 0;
  fmt::print(stderr, "heterosockd: {}\n", Message(status));
  return 1;
}
