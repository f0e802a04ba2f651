#include "heteroctl/cmd_pki.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <chrono>

#include "common/tls/pki.h"

namespace heterok8s::ctl {
namespace {

constexpr char kDefaultDir[] = "/etc/heterok8s/pki";
constexpr std::chrono::hours kSoon{24 * 30};  // a certificate that ends within this is shown as a warning

struct PkiFlags {
  std::string dir = kDefaultDir;
  std::string node;
  int days = 365;
};

std::chrono::seconds Lifetime(const PkiFlags& flags) { return std::chrono::hours(24) * flags.days; }

std::string Time(std::chrono::system_clock::time_point at) {
  return fmt::format("{:%Y-%m-%d %H:%M:%S}Z", fmt::gmtime(std::chrono::system_clock::to_time_t(at)));
}

nlohmann::json ToJson(const tls::PkiEntry& entry) {
  nlohmann::json json = {
      {"name", entry.name},
      {"path", entry.path},
      {"identity", entry.info.identity ? nlohmann::json(entry.info.identity->Uri()) : nlohmann::json()},
      {"serial", entry.info.serial},
      {"notBefore", Time(entry.info.not_before)},
      {"notAfter", Time(entry.info.not_after)},
      {"fingerprintSha256", entry.info.fingerprint},
      {"hasKey", entry.has_key},
      {"ok", entry.check.ok()}};
  if (!entry.check.ok()) json["problem"] = Message(entry.check);
  return json;
}

Cell State(const tls::PkiEntry& entry) {
  if (!entry.check.ok()) return {Message(entry.check), Style::kBad};
  const auto left = entry.info.not_after - std::chrono::system_clock::now();
  if (left < kSoon) {
    return {fmt::format("ends in {}", HumanAge(std::chrono::duration_cast<std::chrono::milliseconds>(left))),
            Style::kWarning};
  }
  return {"ok", Style::kGood};
}

absl::StatusOr<int> Show(Context& context, const PkiFlags& flags) {
  absl::StatusOr<std::vector<tls::PkiEntry>> entries = tls::ListPki(flags.dir);
  if (!entries.ok()) {
    return WithHint(entries.status(), fmt::format("`heteroctl pki init --dir {} --node NAME` makes one", flags.dir));
  }
  bool all_ok = true;
  nlohmann::json json = nlohmann::json::array();
  Table table({"NAME", "IDENTITY", "NOT AFTER", "SERIAL", "KEY", "STATE"});
  for (const tls::PkiEntry& entry : *entries) {
    all_ok = all_ok && entry.check.ok();
    json.push_back(ToJson(entry));
    table.Row({entry.name,
               entry.info.identity ? entry.info.identity->Uri() : "-",
               Time(entry.info.not_after),
               {entry.info.serial.substr(0, 16), Style::kDim},
               entry.has_key ? "yes" : "no",
               State(entry)});
  }
  if (context.output.json()) {
    context.output.Print(json);
  } else {
    context.output.Print(table);
  }
  return all_ok ? 0 : 1;
}

absl::StatusOr<int> Init(Context& context, const PkiFlags& flags) {
  absl::Status made = tls::InitPki({.dir = flags.dir, .node = flags.node, .leaf_lifetime = Lifetime(flags)});
  if (absl::IsAlreadyExists(made)) {
    return WithHint(made, fmt::format("`heteroctl pki rotate --dir {}` renews its certificates", flags.dir));
  }
  HK_RETURN_IF_ERROR(made);
  return Show(context, flags);
}

absl::StatusOr<int> Rotate(Context& context, const PkiFlags& flags) {
  absl::Status rotated = tls::RotatePki(flags.dir, Lifetime(flags));
  if (!rotated.ok()) {
    return WithHint(rotated, fmt::format("`heteroctl pki show --dir {}` says what the folder holds", flags.dir));
  }
  return Show(context, flags);
}

}  // namespace

void RegisterPki(CLI::App& app, Context& context) {
  CLI::App* pki = app.add_subcommand("pki", "Make, renew and show the certificates of a Node");
  pki->require_subcommand(1);
  auto flags = std::make_shared<PkiFlags>();
  const auto add = [&](const char* name, const char* help, auto run) {
    CLI::App* sub = pki->add_subcommand(name, help);
    sub->add_option("--dir", flags->dir, fmt::format("Folder of the certificates ({})", kDefaultDir));
    sub->callback([=, &context] { context.action = [=, &context] { return run(context, *flags); }; });
    return sub;
  };
  CLI::App* init = add("init", "A new certificate authority and certificates for host, dpu and cri", Init);
  init->add_option("--node", flags->node, "Name of the Node")->required();
  CLI::App* rotate =
      add("rotate", "New keys and certificates of the same authority; running daemons load them", Rotate);
  for (CLI::App* sub : {init, rotate}) {
    sub->add_option("--days", flags->days, "How long the certificates are valid (365)")->check(CLI::Range(1, 3650));
  }
  add("show", "What the folder holds, and until when", Show);
}

}  // namespace heterok8s::ctl
