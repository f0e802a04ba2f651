#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "heteroctl/cmd_pods.h"
#include "heteroctl/pod/runner.h"

namespace heterok8s::ctl {
namespace {

struct ExecFlags {
  std::string pod, container;
  int timeout_seconds = 60;
  std::vector<std::string> command;
};

absl::StatusOr<int> Exec(Context& context, const ExecFlags& flags) {
  if (flags.command.empty()) {
    return WithHint(absl::InvalidArgumentError("no command"), "heteroctl exec POD [-c CONTAINER] -- COMMAND…");
  }
  HK_ASSIGN_OR_RETURN(Endpoints endpoints, FindEndpoints(context.endpoint_flags));
  HK_ASSIGN_OR_RETURN(std::unique_ptr<CriClient> cri, CriClient::Connect(endpoints.cri));
  HK_ASSIGN_OR_RETURN(FoundPod pod, FindPod(*cri, flags.pod));
  HK_ASSIGN_OR_RETURN(runtime::v1::Container container, FindContainer(pod, flags.container));
  runtime::v1::ExecSyncRequest request;
  request.set_container_id(container.id());
  for (const std::string& word : flags.command) request.add_cmd(word);
  request.set_timeout(flags.timeout_seconds);
  HK_ASSIGN_OR_RETURN(runtime::v1::ExecSyncResponse reply, cri->ExecSync(request));
  if (context.output.json()) {
    nlohmann::json json = {{"exit_code", reply.exit_code()}, {"stdout", reply.stdout()}, {"stderr", reply.stderr()}};
    fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return reply.exit_code();
  }
  std::fwrite(reply.stdout().data(), 1, reply.stdout().size(), stdout);
  std::fwrite(reply.stderr().data(), 1, reply.stderr().size(), stderr);
  return reply.exit_code();
}

}  // namespace

void RegisterExec(CLI::App& app, Context& context) {
  CLI::App* sub = app.add_subcommand("exec", "Run a command in a container and exit with its code");
  sub->footer("-o json: one object: exit_code, stdout, stderr. What is no UTF-8 in them is replaced.");
  auto flags = std::make_shared<ExecFlags>();
  sub->add_option("pod", flags->pod, "name, namespace/name or UID")->required();
  sub->add_option("-c,--container", flags->container, "Container; default: the first");
  sub->add_option("--timeout", flags->timeout_seconds, "Seconds")->check(CLI::Range(1, 3600));
  sub->add_option("command", flags->command, "After --: the command and its arguments");
  sub->callback([flags, &context] { context.action = [flags, &context] { return Exec(context, *flags); }; });
}

}  // namespace heterok8s::ctl
