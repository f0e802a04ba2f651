// heterod: the node agent of one PU, all its parts put together.
//
// Purpose: the only place that knows every part. Start() builds them for the role in config, serves the other PU, makes
// ledger and kernel agree, and only then accepts CNI calls. The destructor stops serving and leaves every Pod running.
// Threading: Start and the destructor on one thread; in between everything runs on the parts' own threads.
// Errors: what is wrong with config, certificates, folders, kernel; Pods that cannot be reconciled are logged by
// attach.
//
//   HK_ASSIGN_OR_RETURN(std::unique_ptr<Heterod> heterod, Heterod::Start(config));
//   WaitForSignal();
#pragma once

#include <memory>

#include "common/status/status.h"
#include "node-agent/config/heterod_config.h"

namespace heterok8s::agent {

class Heterod {
 public:
  static absl::StatusOr<std::unique_ptr<Heterod>> Start(const config::HeterodConfig& config);
  ~Heterod();

  int peer_port() const;  // where the other PU reaches us, for a config that said 0
  int metrics_port() const;

  // Not OK when only a new process helps: the ledger's disk has refused what was written.
  absl::Status Health() const;

 private:
  struct Parts;
  explicit Heterod(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

// What Start() would find wrong before it touches anything: certificates, addresses of the config. For --check-config.
absl::Status CheckConfig(const config::HeterodConfig& config);

}  // namespace heterok8s::agent
