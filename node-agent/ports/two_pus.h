// Two PUs and one Pod between them, for tests: each PU's heterod is one Ports object with pins of its own, and what one
// reports is what the other is told, as the peer stream would.
//
//   pod-h (host's Ports)              pod-d (DPU's Ports)
//   P on lo                           P on lo
//   xpu0 169.254.64.4 ─ localhost ─── 169.254.64.5 xpu0
//        169.254.64.6 ─ Pod IP ────── 169.254.64.7
//
// P is 10.200.0.5 and fd00:200::5. Wired by hand as podnet does: routes with a source, the answer rule for calls from
// the Pod IP. Names hold the process id and a counter. Everything is removed by the destructor.
// Threading: one test thread, plus the Ports' own.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/sys/netns.h"
#include "common/sys/unique_fd.h"
#include "node-agent/ports/ports.h"

namespace heterok8s::ports {

class Pu {
 public:
  Pu(const std::string& name, pu::Side side);
  ~Pu();

  // The heterod starts and adds the Pod; `tell` is called with each report.
  absl::Status StartHeterod(std::function<void(const PortChange&)> tell);
  void KillHeterod() { ports.reset(); }  // as kill -9 would: pins stay, descriptors go
  Options options() const;
  PodPorts Pod() const;

  // A socket in the Pod's namespace on this PU; it stays there whoever uses it.
  sys::UniqueFd Socket(int family, int type) const;

  const std::string name, pod_key;
  const pu::Side side;
  const sys::NetnsRef ns;
  Mechanism mechanism = Mechanism::kBpf;
  std::unique_ptr<Ports> ports;
};

class TwoPus {
 public:
  explicit TwoPus(bool start = true, Mechanism mechanism = Mechanism::kBpf);

  Pu& host() { return host_; }
  Pu& dpu() { return dpu_; }
  Pu& Other(const Pu& pu) { return &pu == &host_ ? dpu_ : host_; }
  void Start(Pu& pu);

  // Waits until the other PU was told that `key` of `owner` is open or closed; fails the test after five seconds.
  void AwaitTold(const Pu& owner, const PortKey& key, bool open);
  // All that `owner` has reported, in order.
  std::vector<PortChange> Reports(const Pu& owner);
  void AwaitReports(const Pu& owner, size_t count);

 private:
  struct Told {
    std::vector<PortChange> reports;
    std::map<PortKey, bool> open;
  };
  void Tell(const Pu& owner, const PortChange& change);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<const Pu*, Told> told_;
  // After what their threads use, so they stop first.
  Pu host_, dpu_;
};

// For what must come; what must not is looked for only for a moment.
inline constexpr int kPatienceMs = 20000;

// "127.0.0.1", "::1", P or the wildcard of one family.
enum class Where { kAny, kLocalhost, kPodIp };
IpAddress AddressOf(Where where, int family);

// A server of `pu` at a port of the kernel's choice, which both PUs know when it is returned; `key` is its claim.
sys::UniqueFd Server(TwoPus& pus, Pu& pu, int family, int type, const IpAddress& address, bool dual, PortKey* key);

// Socket calls that return -errno.
int Bind(const sys::UniqueFd& fd, const IpAddress& address, uint16_t port);
int Connect(const sys::UniqueFd& fd, const IpAddress& address, uint16_t port);
int SendTo(const sys::UniqueFd& fd, const std::string& text, const IpAddress& address, uint16_t port);
// A datagram, of a socket that is connected for it or not.
int Call(const sys::UniqueFd& fd, const std::string& text, const IpAddress& address, uint16_t port, bool connected);
// "text from ADDRESS:PORT"; "" when nothing comes within `ms`.
std::string ReceiveFrom(const sys::UniqueFd& fd, int ms, IpAddress* from = nullptr, uint16_t* port = nullptr);
std::string SockName(const sys::UniqueFd& fd);  // address only
std::string PeerName(const sys::UniqueFd& fd);
uint16_t PortOf(const sys::UniqueFd& fd);
sys::UniqueFd Accept(const sys::UniqueFd& fd, std::string* peer = nullptr);

}  // namespace heterok8s::ports
