#include "common/netfilter/counters.h"

#include <arpa/inet.h>
#include <endian.h>
#include <fmt/format.h>
#include <linux/netfilter/nf_tables.h>

#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "common/netfilter/nfnetlink.h"
#include "common/netfilter/reaper.h"

namespace heterok8s::netfilter {
namespace {

constexpr uint16_t kNftables = NFNL_SUBSYS_NFTABLES << 8;
constexpr uint8_t kInet = 1;  // NFPROTO_INET

uint64_t Number(std::string_view value) {
  uint64_t number = 0;
  if (value.size() == sizeof number) std::memcpy(&number, value.data(), sizeof number);
  return be64toh(number);
}

std::pair<std::string, NftCounter> Parse(std::string_view attributes) {
  std::pair<std::string, NftCounter> found;
  EachAttribute(attributes, [&](uint16_t type, std::string_view value) {
    if (type == NFTA_OBJ_NAME) found.first = std::string(value.substr(0, value.find('\0')));
    if (type != NFTA_OBJ_DATA) return;
    EachAttribute(value, [&](uint16_t field, std::string_view data) {
      if (field == NFTA_COUNTER_PACKETS) found.second.packets = Number(data);
      if (field == NFTA_COUNTER_BYTES) found.second.bytes = Number(data);
    });
  });
  return found;
}

}  // namespace

absl::StatusOr<std::map<std::string, NftCounter>> ReadCounters(const std::string& table) {
  HK_ASSIGN_OR_RETURN(NfSocket opened, NfSocket::Open());
  auto socket = std::make_shared<NfSocket>(std::move(opened));
  NfMessage dump(kNftables | NFT_MSG_GETOBJ, NLM_F_REQUEST | NLM_F_DUMP, kInet);
  const uint32_t counter = htonl(NFT_OBJECT_COUNTER);
  dump.Put(NFTA_OBJ_TABLE, table);
  dump.Put(NFTA_OBJ_TYPE, &counter, sizeof counter);
  std::map<std::string, NftCounter> counters;
  absl::Status read = socket->Dump(dump.Bytes(), fmt::format("read the counters of table inet {}", table),
                                   [&](std::string_view attributes) { counters.insert(Parse(attributes)); });
  CloseLater([socket = std::move(socket)]() mutable { socket.reset(); });
  HK_RETURN_IF_ERROR(read);
  if (counters.empty())
    return absl::NotFoundError(fmt::format("table inet {} has no counters, or is not there", table));
  return counters;
}

}  // namespace heterok8s::netfilter
