// HostEngine: what a delegated IPAM plugin is not to hear yet.
//
// The DEL of a Pod whose half the DPU may still have is kept as a value of the ledger beside the Pod's tombstone, until
// the DPU has let go of the address: SettleLocked.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "node-agent/attach/host_engine.h"
#include "node-agent/attach/requests.h"

namespace heterok8s::attach {

std::string HostEngine::DeferredIpamName(const std::string& pod_key) { return "deferred-ipam:" + pod_key; }

absl::Status HostEngine::Defer(ledger::Tx& tx, const std::string& pod_key, const Details& details) {
  nlohmann::json call = {{"stdin", details.delegated_stdin}, {"environment", details.delegated_environment}};
  return tx.PutValue(DeferredIpamName(pod_key), call.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

absl::StatusOr<std::optional<cni::Request>> HostEngine::Deferred(const std::string& pod_key) {
  HK_ASSIGN_OR_RETURN(std::optional<std::string> text, journal_.Value(DeferredIpamName(pod_key)));
  if (!text.has_value()) return std::optional<cni::Request>();
  std::map<std::string, std::string> environment;
  std::string stdin_text;
  try {
    const nlohmann::json call = nlohmann::json::parse(*text);
    call.at("environment").get_to(environment);
    call.at("stdin").get_to(stdin_text);
  } catch (const std::exception& error) {
    return absl::DataLossError(fmt::format("value {} cannot be read: {}", DeferredIpamName(pod_key), error.what()));
  }
  HK_ASSIGN_OR_RETURN(cni::Request request, cni::ParseRequest(environment, stdin_text));
  return std::optional<cni::Request>(std::move(request));
}

absl::StatusOr<std::vector<cni::Request>> HostEngine::AllDeferred() {
  std::vector<cni::Request> calls;
  HK_ASSIGN_OR_RETURN(std::vector<ledger::Tombstone> tombstones, journal_.Tombstones());
  for (const ledger::Tombstone& tombstone : tombstones) {
    HK_ASSIGN_OR_RETURN(std::optional<cni::Request> call, Deferred(tombstone.pod_key));
    if (call.has_value()) calls.push_back(*std::move(call));
  }
  return calls;
}

// By its attachment: a DEL may not say which Pod it is about.
absl::StatusOr<bool> HostEngine::IsDeferred(const cni::Request& request) {
  HK_ASSIGN_OR_RETURN(std::vector<cni::Request> calls, AllDeferred());
  for (const cni::Request& call : calls) {
    if (KeyOf(call) == KeyOf(request)) return true;
  }
  return false;
}

// To the plugin, what still uses an address is as valid as what the runtime named: attachments that are being made or
// could not be taken away, and those that the DPU has not let go of.
absl::Status HostEngine::GcByPlugin(cni::Request request) {
  std::vector<ledger::AttachmentKey> used;
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.All());
  for (const Attachment& row : rows) {
    if (row.mode != ledger::Mode::kTwin) used.push_back(row.key);
  }
  // After the rows: a DEL that runs meanwhile takes its row away and defers the call in one transaction.
  HK_ASSIGN_OR_RETURN(std::vector<cni::Request> deferred, AllDeferred());
  for (const cni::Request& call : deferred) used.push_back(KeyOf(call));

  nlohmann::json config = nlohmann::json::parse(request.stdin_text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::InternalError("a configuration that was parsed is no object");
  for (const char* name : {"cni.dev/valid-attachments", "cni.dev/attachments"}) {
    if (!config.contains(name)) continue;
    nlohmann::json& valid = config[name];
    if (valid.is_null()) valid = nlohmann::json::array();
    for (const ledger::AttachmentKey& key : used) {
      if (key.network != request.config.name) continue;
      nlohmann::json entry = {{"containerID", key.container_id}, {"ifname", key.ifname}};
      if (std::find(valid.begin(), valid.end(), entry) == valid.end()) valid.push_back(std::move(entry));
    }
  }
  request.stdin_text = config.dump();
  return ipam_.Delegate(request, "GC");
}

}  // namespace heterok8s::attach
