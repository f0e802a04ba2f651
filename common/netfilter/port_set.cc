#include "common/netfilter/port_set.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/netfilter/nf_tables.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "common/netfilter/nfnetlink.h"
#include "common/netfilter/reaper.h"

namespace heterok8s::netfilter {
namespace {

constexpr uint16_t kNftables = NFNL_SUBSYS_NFTABLES << 8;
constexpr uint8_t kInet = 1;  // NFPROTO_INET
// The list of elements is one attribute, whose length has 16 bits; an element takes 20 bytes.
constexpr size_t kElementsPerMessage = 2000;

// In a concatenation each part fills a register of four bytes.
std::array<uint8_t, 8> Key(Protocol protocol, uint16_t port) {
  std::array<uint8_t, 8> key{};
  key[0] = static_cast<uint8_t>(protocol);
  uint16_t network_order = htons(port);
  std::memcpy(&key[4], &network_order, sizeof network_order);
  return key;
}

// Open sockets by namespace. A namespace with an open socket stays alive, so its inode number stays its own.
class SocketCache {
 public:
  struct Entry {
    std::mutex mutex;  // one request at a time
    std::optional<NfSocket> socket;
    std::chrono::steady_clock::time_point used;  // guarded by SocketCache::mutex_
  };

  absl::StatusOr<std::shared_ptr<Entry>> Get(const sys::NetnsRef& ns) {
    std::lock_guard lock(mutex_);
    std::shared_ptr<Entry>& entry = entries_[ns.inode()];
    if (entry) {
      entry->used = std::chrono::steady_clock::now();
      return entry;
    }
    auto made = std::make_shared<Entry>();
    absl::Status opened = sys::InNetns(ns, [&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(made->socket, NfSocket::Open());
      return absl::OkStatus();
    });
    if (!opened.ok()) {
      entries_.erase(ns.inode());
      return opened;
    }
    made->used = std::chrono::steady_clock::now();
    entry = made;
    CloseLater([this, inode = ns.inode()] { CloseIfIdle(inode); });
    return made;
  }

 private:
  void CloseIfIdle(uint64_t inode) {
    std::shared_ptr<Entry> closing;  // ends after the lock
    std::lock_guard lock(mutex_);
    auto found = entries_.find(inode);
    if (found == entries_.end()) return;
    if (std::chrono::steady_clock::now() - found->second->used < kCloseDelay) {
      CloseLater([this, inode] { CloseIfIdle(inode); });
      return;
    }
    closing = std::move(found->second);
    entries_.erase(found);
  }

  std::mutex mutex_;
  std::map<uint64_t, std::shared_ptr<Entry>> entries_;
};

SocketCache& Sockets() {
  static SocketCache* cache = new SocketCache;  // never destroyed: the reaper's thread uses it
  return *cache;
}

using Ports = std::span<const std::pair<Protocol, uint16_t>>;

NfMessage ElementsMessage(uint16_t type, uint16_t flags, const PortSet& set, Ports ports) {
  NfMessage message(kNftables | type, NLM_F_REQUEST | flags, kInet);
  message.Put(NFTA_SET_ELEM_LIST_TABLE, set.table);
  message.Put(NFTA_SET_ELEM_LIST_SET, set.set);
  if (ports.empty()) return message;  // deleting no element in particular empties the set
  size_t elements = message.Open(NFTA_SET_ELEM_LIST_ELEMENTS);
  for (const auto& [protocol, port] : ports) {
    size_t element = message.Open(NFTA_LIST_ELEM);
    size_t key = message.Open(NFTA_SET_ELEM_KEY);
    std::array<uint8_t, 8> bytes = Key(protocol, port);
    message.Put(NFTA_DATA_VALUE, bytes.data(), bytes.size());
    message.Close(key);
    message.Close(element);
  }
  message.Close(elements);
  return message;
}

// The kernel takes changes of tables in a batch only. The last one of `messages` asks for an acknowledgement.
absl::Status Commit(const sys::NetnsRef& ns, std::string messages, const std::string& what) {
  NfMessage begin(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
  NfMessage end(NFNL_MSG_BATCH_END, NLM_F_REQUEST, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
  HK_ASSIGN_OR_RETURN(std::shared_ptr<SocketCache::Entry> entry, Sockets().Get(ns));
  std::lock_guard lock(entry->mutex);
  return entry->socket->Request(begin.Bytes() + messages + end.Bytes(), what);
}

}  // namespace

absl::Status SetPortElement(const sys::NetnsRef& ns, const PortSet& set, Protocol protocol, uint16_t port,
                            bool present) {
  std::pair<Protocol, uint16_t> element{protocol, port};
  NfMessage message = ElementsMessage(present ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM,
                                      NLM_F_ACK | (present ? NLM_F_CREATE : 0), set, {&element, 1});
  absl::Status status = Commit(ns, message.Bytes(),
                               fmt::format("{} {} . {} {} set {} {}", present ? "add" : "delete", Name(protocol), port,
                                           present ? "to" : "from", set.table, set.set));
  if (!present && status.code() == absl::StatusCode::kNotFound) return absl::OkStatus();
  return status;
}

absl::Status ReplacePortElements(const sys::NetnsRef& ns, const PortSet& set,
                                 const std::vector<std::pair<Protocol, uint16_t>>& ports) {
  std::string messages = ElementsMessage(NFT_MSG_DELSETELEM, ports.empty() ? NLM_F_ACK : 0, set, /*ports=*/{}).Bytes();
  for (Ports left = ports; !left.empty();) {
    Ports part = left.first(std::min(left.size(), kElementsPerMessage));
    left = left.subspan(part.size());
    messages += ElementsMessage(NFT_MSG_NEWSETELEM, NLM_F_CREATE | (left.empty() ? NLM_F_ACK : 0), set, part).Bytes();
  }
  return Commit(ns, std::move(messages), fmt::format("put {} ports into set {} {}", ports.size(), set.table, set.set));
}

}  // namespace heterok8s::netfilter
