// A Node's two heterods without a kernel: both engines over real ledgers and fakes, with restarts and crashes.
//
// Threading: one test thread drives it; the engines have their own.
//
//   TwoEngines node;
//   REQUIRE_OK(node.host().Add(node.HostAdd("c1", "uid-1", kSplit)));
//   node.CrashHost();                          // as kill -9: nothing is undone; then a new engine starts
//   CHECK(node.Leftovers() == Nothing());
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/cni/types.h"
#include "node-agent/attach/dpu_engine.h"
#include "node-agent/attach/host_engine.h"
#include "node-agent/attach/testing/fake_kernel.h"
#include "node-agent/attach/testing/fake_peer.h"
#include "node-agent/ipam/ipam.h"
#include "node-agent/ledger/testing.h"
#include "node-agent/pu/fake_backend.h"

namespace heterok8s::attach {

using Annotations = std::map<std::string, std::string>;
inline const Annotations kSplit = {{"heteropod.io/offload", "dpu"}};
inline const Annotations kOrdinary = {};

// A ledger that a dead process cannot write.
class ProcessLedger final : public ledger::Ledger {
 public:
  ProcessLedger(Process& process, ledger::Ledger& below) : process_(process), below_(below) {}
  absl::Status Transact(const std::function<absl::Status(ledger::Tx&)>& fn, Durability durability) override;
  absl::Status Sync() override;
  absl::Status Health() override;
  absl::StatusOr<std::vector<Attachment>> ListAttachments() override;
  absl::StatusOr<std::vector<ledger::AddressRow>> ListAddresses() override;
  absl::StatusOr<std::vector<ledger::Tombstone>> ListTombstones() override;

 private:
  Process& process_;
  ledger::Ledger& below_;
};

// Likewise.
class ProcessBackend final : public pu::Backend {
 public:
  ProcessBackend(Process& process, pu::Backend& below) : process_(process), below_(below) {}
  pu::Capabilities caps() const override { return below_.caps(); }
  absl::StatusOr<pu::LinkEnd> AcquireLink(const pu::OwnerTag& tag, const pu::LinkRequest& request) override;
  absl::StatusOr<pu::LinkEnd> AcceptLink(const pu::OwnerTag& tag, const pu::LinkRequest& request) override;
  absl::Status ReleaseLink(const pu::OwnerTag& tag, const sys::NetnsRef* netns) override;
  absl::StatusOr<std::vector<pu::OwnerTag>> ListLinks() override;

 private:
  Process& process_;
  pu::Backend& below_;
};

class TwoEngines {
 public:
  struct Options {
    bool unsplit_when_dpu_down = false;
    std::string boot_id = "boot-1";
    int mtu = 0;
    std::chrono::milliseconds retry_interval{20};
  };
  TwoEngines() : TwoEngines(Options()) {}
  explicit TwoEngines(Options options);
  ~TwoEngines();

  HostEngine& host() { return *host_engine_; }
  DpuEngine& dpu() { return *dpu_engine_; }

  // Ends the engine (what it still undoes has no effect once its process is dead) and starts a new one.
  void CrashHost();
  void CrashDpu();
  void Reboot(const std::string& boot_id);  // both kernels lose every Pod
  // Both directions of the connection.
  void SetConnected(bool connected);
  void ResyncBoth();
  void Heartbeat();  // each tells the other which halves are whole

  // A namespace is made for ADD when there is none.
  cni::Request HostAdd(const std::string& container, const std::string& uid, const Annotations& annotations,
                       uint16_t host_port = 0);
  cni::Request TwinAdd(const std::string& container, const std::string& uid);
  cni::Request Del(cni::Request add);
  cni::Request Check(cni::Request add, const cni::Result& result);
  cni::Request Gc(const std::vector<cni::AttachmentRef>& valid);
  cni::Request StatusRequest();

  // Everything that is left anywhere, in words: kernel objects, rows, addresses, tombstones. Sandboxes' own namespaces
  // do not count.
  std::vector<std::string> Leftovers();
  uint64_t HostGeneration(const std::string& uid);
  uint64_t DpuGeneration(const std::string& uid);

  Process host_process, dpu_process;
  FakeKernel host_kernel, dpu_kernel;
  ledger::TempLedger host_ledger, dpu_ledger;
  pu::FakeFabric fabric;
  FakePodNet host_podnet{host_process, host_kernel}, dpu_podnet{dpu_process, dpu_kernel};
  FakePorts host_ports{host_process, host_kernel}, dpu_ports{dpu_process, dpu_kernel};
  FakeNamespaces host_namespaces{host_process, host_kernel}, dpu_namespaces{dpu_process, dpu_kernel};
  pu::FakeBackend host_fake_backend{fabric, pu::Side::kHost, "demo"}, dpu_fake_backend{fabric, pu::Side::kDpu, "demo"};
  FakePeer to_dpu{host_process, dpu_process}, to_host{dpu_process, host_process};
  int host_uplink_mtu = 0;
  std::string subnet = "10.88.0.0/24";
  std::string cni_path;                                    // for delegated IPAM
  nlohmann::json extra_config = nlohmann::json::object();  // merged into the network configuration of HostAdd and Gc

 private:
  void StartHost();
  void StartDpu();
  cni::Request Request(cni::Command command, const std::string& container, const std::string& uid,
                       nlohmann::json config);
  nlohmann::json Config(const Annotations& annotations) const;

  Options options_;
  ProcessLedger host_process_ledger_{host_process, host_ledger.ledger()},
      dpu_process_ledger_{dpu_process, dpu_ledger.ledger()};
  ProcessBackend host_backend_{host_process, host_fake_backend}, dpu_backend_{dpu_process, dpu_fake_backend};
  std::unique_ptr<ipam::Ipam> ipam_ = ipam::NewIpam();
  std::unique_ptr<HostEngine> host_engine_;
  std::unique_ptr<DpuEngine> dpu_engine_;
};

}  // namespace heterok8s::attach
