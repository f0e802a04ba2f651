#include "common/netfilter/port_set.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/netfilter/nf_tables.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "common/netfilter/nfnetlink.h"
#include "common/netfilter/reaper.h"

namespace heterok8s::netfilter {
namespace {

constexpr uint16_t kNftables = NFNL_SUBSYS_NFTABLES << 8;
constexpr uint8_t kInet = 1;  // NFPROTO_INET

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

}  // namespace

absl::Status SetPortElement(const sys::NetnsRef& ns, const PortSet& set, Protocol protocol, uint16_t port,
                            bool present) {
  uint16_t type = present ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM;
  uint16_t flags = NLM_F_REQUEST | NLM_F_ACK | (present ? NLM_F_CREATE : 0);
  NfMessage message(kNftables | type, flags, kInet);
  message.Put(NFTA_SET_ELEM_LIST_TABLE, set.table);
  message.Put(NFTA_SET_ELEM_LIST_SET, set.set);
  size_t elements = message.Open(NFTA_SET_ELEM_LIST_ELEMENTS);
  size_t element = message.Open(NFTA_LIST_ELEM);
  size_t key = message.Open(NFTA_SET_ELEM_KEY);
  std::array<uint8_t, 8> bytes = Key(protocol, port);
  message.Put(NFTA_DATA_VALUE, bytes.data(), bytes.size());
  message.Close(key);
  message.Close(element);
  message.Close(elements);

  // The kernel takes changes of tables in a batch only.
  NfMessage begin(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
  NfMessage end(NFNL_MSG_BATCH_END, NLM_F_REQUEST, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
  std::string what = fmt::format("{} {} . {} {} set {} {}", present ? "add" : "delete", Name(protocol), port,
                                 present ? "to" : "from", set.table, set.set);
  HK_ASSIGN_OR_RETURN(std::shared_ptr<SocketCache::Entry> entry, Sockets().Get(ns));
  std::unique_lock lock(entry->mutex);
  absl::Status status = entry->socket->Request(begin.Bytes() + message.Bytes() + end.Bytes(), what);
  lock.unlock();
  if (!present && status.code() == absl::StatusCode::kNotFound) return absl::OkStatus();
  return status;
}

}  // namespace heterok8s::netfilter
