#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "heteroctl/cmd_pods.h"
#include "heteroctl/pod/log_reader.h"
#include "heteroctl/pod/runner.h"

namespace heterok8s::ctl {
namespace {

struct LogFlags {
  std::string pod, container;
  bool follow = false, timestamps = false;
  int tail = -1;
};

void Write(const Context& context, const LogLine& line, bool timestamps) {
  if (context.output.json()) {
    nlohmann::json json = {
        {"time", line.time}, {"stream", line.stream}, {"text", line.text}, {"partial", line.partial}};
    fmt::print("{}\n", json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    FILE* out = line.stream == "stderr" ? stderr : stdout;
    fmt::print(out, "{}{}{}", timestamps ? line.time + " " : "", line.text, line.partial ? "" : "\n");
  }
  std::fflush(stdout);
}

absl::StatusOr<int> Logs(Context& context, const LogFlags& flags) {
  HK_ASSIGN_OR_RETURN(Endpoints endpoints, FindEndpoints(context.endpoint_flags));
  HK_ASSIGN_OR_RETURN(std::unique_ptr<CriClient> cri, CriClient::Connect(endpoints.cri));
  HK_ASSIGN_OR_RETURN(FoundPod pod, FindPod(*cri, flags.pod));
  HK_ASSIGN_OR_RETURN(runtime::v1::Container container, FindContainer(pod, flags.container));
  HK_ASSIGN_OR_RETURN(runtime::v1::ContainerStatus status, cri->ContainerStatus(container.id()));
  if (status.log_path().empty()) {
    return absl::NotFoundError(fmt::format("container '{}' was made without a log", container.metadata().name()));
  }
  LogOptions options{.tail = flags.tail, .follow = flags.follow, .still_running = [&] {
                       auto now = cri->ContainerStatus(container.id());
                       return now.ok() && now->state() != runtime::v1::CONTAINER_EXITED;
                     }};
  HK_RETURN_IF_ERROR(
      ReadLog(status.log_path(), options, [&](const LogLine& line) { Write(context, line, flags.timestamps); }));
  return 0;
}

}  // namespace

void RegisterLogs(CLI::App& app, Context& context) {
  CLI::App* sub = app.add_subcommand("logs", "Print a container's log, wherever it runs");
  sub->footer("-o json: one object per line of the log: time, stream, text, partial (its line goes on).");
  auto flags = std::make_shared<LogFlags>();
  sub->add_option("pod", flags->pod, "name, namespace/name or UID")->required();
  sub->add_option("-c,--container", flags->container, "Container; default: the first");
  sub->add_flag("-f,--follow", flags->follow, "Go on until the container ends");
  sub->add_flag("--timestamps", flags->timestamps, "The runtime's time before each line");
  sub->add_option("--tail", flags->tail, "Only the last N lines")->check(CLI::NonNegativeNumber);
  sub->callback([flags, &context] { context.action = [flags, &context] { return Logs(context, *flags); }; });
}

}  // namespace heterok8s::ctl
