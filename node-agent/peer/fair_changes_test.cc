// A Pod that opens and closes ports all the time, and its neighbour.
#include <catch2/catch.hpp>
#include <latch>

#include "node-agent/peer/convert.h"
#include "node-agent/peer/key_queue.h"
#include "node-agent/peer/port_sync.h"
#include "node-agent/peer/synced_ports.h"
#include "node-agent/peer/testing.h"

namespace heterok8s::peer {
namespace {

using peer::testing::FakePodNet;
using peer::testing::FakePorts;
using peer::testing::Key;

class SlowPu final : public testing::OtherPu {
 public:
  uint64_t acknowledged() const {  // in WaitUntil
    return acknowledged_;
  }
  size_t ChangesOf(const std::string& pod) const {  // in WaitUntil
    return static_cast<size_t>(std::count_if(sent_.begin(), sent_.end(), [&](const v1::PortMessage& message) {
      return message.has_delta() && message.delta().pod_key() == pod;
    }));
  }
  // What it knows to be open.
  std::set<uint32_t> OpenOf(const std::string& pod) const {
    std::lock_guard lock(mutex_);
    std::set<uint32_t> open;
    for (const v1::PortMessage& message : sent_) {
      if (!message.has_delta() || message.delta().pod_key() != pod) continue;
      const uint32_t port = message.delta().port().port();
      if (message.delta().opened()) {
        CHECK(open.insert(port).second);
      } else {
        CHECK(open.erase(port) == 1);
      }
    }
    return open;
  }
};

struct Side {
  Side() {
    ports.listener = [this](const ports::PortChange& change) { sync.LocalChange(change); };
    sync.Start(ports, podnet, [](const std::string& pod) -> absl::StatusOr<podnet::LinkSpec> {
      return podnet::LinkSpec{.owner = {.pod_key = pod}};
    });
    for (const char* pod : {"neighbour", "noisy"}) REQUIRE_OK(synced.AddPod({.pod_key = pod}));
    sync.Connected(other);
    REQUIRE(other->WaitUntil([&] { return sync.connected(); }));
  }
  ~Side() { sync.Stop(); }

  FakePorts ports;
  FakePodNet podnet;
  PortSync sync{pu::Side::kHost, nullptr};
  SyncedPorts synced{ports, sync};
  std::shared_ptr<SlowPu> other = std::make_shared<SlowPu>();
};

v1::PortMessage Opened(const std::string& pod, uint16_t port, uint64_t sequence) {
  v1::PortMessage message;
  message.set_sequence(sequence);
  message.mutable_delta()->set_pod_key(pod);
  *message.mutable_delta()->mutable_port() = ToProto(Key("0.0.0.0", port));
  message.mutable_delta()->set_opened(true);
  message.mutable_delta()->set_epoch_ns(100 + sequence);
  return message;
}

}  // namespace

TEST_CASE("what one Pod changes is told as it is in the end, and holds up nobody else's") {
  Side side;
  constexpr int kPorts = 2048, kRounds = 20;
  uint64_t epoch = 0;
  for (int round = 0; round < kRounds; ++round) {
    for (int port = 1; port <= kPorts; ++port)
      side.ports.Open("noisy", Key("0.0.0.0", static_cast<uint16_t>(port)), ++epoch);
    for (int port = 1; port <= kPorts; ++port) side.ports.Close("noisy", Key("0.0.0.0", static_cast<uint16_t>(port)));
  }
  side.ports.Open("noisy", Key("0.0.0.0", 9999), ++epoch);
  side.ports.Open("neighbour", Key("0.0.0.0", 80), ++epoch);

  REQUIRE(side.other->WaitUntil([&] { return side.other->ChangesOf("neighbour") == 1; }));
  // Nothing is acknowledged yet: a burst has left, and not the 80,000 changes.
  CHECK(side.other->WaitUntil([&] { return side.other->ChangesOf("noisy") >= 1; }));
  CHECK(side.other->WaitUntil([&] { return side.other->ChangesOf("noisy") <= 257; }));

  CHECK(heterok8s::testing::Eventually([&] {
    side.sync.Acknowledged(side.other, side.other->messages());
    return side.other->OpenOf("noisy") == std::set<uint32_t>{9999};
  }));
  CHECK(side.other->OpenOf("neighbour") == std::set<uint32_t>{80});
}

TEST_CASE("a port that was closed and opened again is told as both") {
  Side side;
  side.ports.Open("noisy", Key("0.0.0.0", 80), 1);
  REQUIRE(side.other->WaitUntil([&] { return side.other->ChangesOf("noisy") == 1; }));

  side.ports.Close("noisy", Key("0.0.0.0", 80));
  side.ports.Open("noisy", Key("0.0.0.0", 80), 2);

  CHECK(side.other->WaitUntil([&] { return side.other->ChangesOf("noisy") == 3; }));
  CHECK(side.other->OpenOf("noisy") == std::set<uint32_t>{80});
}

TEST_CASE("what arrives is put in force Pod by Pod in turn, and acknowledged up to what is") {
  Side side;
  constexpr uint64_t kNoise = 500;
  std::latch at_work(1), all_arrived(1);
  std::vector<std::string> order;  // the worker's, until it is done
  side.ports.before_set_remote = [&](const std::string& pod) {
    if (order.empty()) {
      at_work.count_down();
      all_arrived.wait();
    }
    order.push_back(pod);
  };
  side.sync.Received(side.other, Opened("noisy", 1, 1));
  at_work.wait();
  for (uint64_t i = 2; i <= kNoise; ++i) {
    side.sync.Received(side.other, Opened("noisy", static_cast<uint16_t>(i), i));
  }
  side.sync.Received(side.other, Opened("neighbour", 80, kNoise + 1));

  all_arrived.count_down();

  REQUIRE(side.other->WaitUntil([&] { return side.other->acknowledged() == kNoise + 1; }));
  REQUIRE(order.size() == kNoise + 1);
  const auto neighbour = std::find(order.begin(), order.end(), "neighbour");
  CHECK(neighbour - order.begin() <= 2);
}

TEST_CASE("a queue of keys has each once, in the order they came") {
  KeyQueue queue;
  for (uint16_t port : {3, 1, 2, 3, 1}) queue.Push(Key("0.0.0.0", port));
  queue.Erase(Key("0.0.0.0", 1));
  queue.Erase(Key("0.0.0.0", 7));

  CHECK(queue.PopFront().port == 3);
  queue.Push(Key("0.0.0.0", 3));
  CHECK(queue.PopFront().port == 2);
  CHECK(queue.PopFront().port == 3);
  CHECK(queue.empty());
}

}  // namespace heterok8s::peer
