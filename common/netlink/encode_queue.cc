#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "common/netlink/encode.h"

namespace heterok8s::netlink {
namespace {

constexpr uint32_t kRootHandle = 0x00010000;     // 1:
constexpr uint32_t kIngressHandle = 0xffff0000;  // ffff:, the only one the kernel accepts
constexpr uint32_t kFilterHandle = 0x80000001;   // 800::1, so that a second one is refused

tcmsg Header(int link, uint32_t parent, uint32_t handle) {
  tcmsg header{};
  header.tcm_family = AF_UNSPEC;
  header.tcm_ifindex = link;
  header.tcm_parent = parent;
  header.tcm_handle = handle;
  return header;
}

}  // namespace

absl::Status EncodeQueue(const ReplaceTbf& change, std::vector<Request>& out) {
  nl_msg* message =
      NewRequest(out, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, Header(change.link, TC_H_ROOT, kRootHandle));
  nla_put_string(message, TCA_KIND, "tbf");
  nlattr* options = nla_nest_start(message, TCA_OPTIONS);
  tc_tbf_qopt parameters{};
  parameters.rate.rate = static_cast<uint32_t>(std::min<uint64_t>(change.tbf.rate_bytes, ~uint32_t{0}));
  // A known link layer and TCA_TBF_BURST spare us the rate tables that old kernels computed with.
  parameters.rate.linklayer = TC_LINKLAYER_ETHERNET;
  parameters.limit = change.tbf.limit_bytes;
  nla_put(message, TCA_TBF_PARMS, sizeof parameters, &parameters);
  if (change.tbf.rate_bytes > ~uint32_t{0}) nla_put_u64(message, TCA_TBF_RATE64, change.tbf.rate_bytes);
  nla_put_u32(message, TCA_TBF_BURST, change.tbf.burst_bytes);
  nla_nest_end(message, options);
  return absl::OkStatus();
}

absl::Status EncodeQueue(const DeleteRootQueue& change, std::vector<Request>& out) {
  NewRequest(out, RTM_DELQDISC, 0, Header(change.link, TC_H_ROOT, 0));
  return absl::OkStatus();
}

absl::Status EncodeQueue(const AddRedirect& change, std::vector<Request>& out) {
  nl_msg* queue =
      NewRequest(out, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, Header(change.link, TC_H_INGRESS, kIngressHandle));
  nla_put_string(queue, TCA_KIND, "ingress");
  out.back().exists_ok = true;  // a former call may have ended here

  tcmsg header = Header(change.link, kIngressHandle, kFilterHandle);
  header.tcm_info = TC_H_MAKE(1 << 16, htons(ETH_P_ALL));  // priority, protocol
  nl_msg* filter = NewRequest(out, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, header);
  nla_put_string(filter, TCA_KIND, "u32");
  nlattr* options = nla_nest_start(filter, TCA_OPTIONS);
  // One key with an empty mask matches every packet. (matchall would say it better, but not every kernel has it.)
  tc_u32_sel selector{};
  selector.flags = TC_U32_TERMINAL;
  selector.nkeys = 1;
  std::array<char, sizeof(tc_u32_sel) + sizeof(tc_u32_key)> all{};  // the key follows the selector
  std::memcpy(all.data(), &selector, sizeof selector);
  nla_put(filter, TCA_U32_SEL, static_cast<int>(all.size()), all.data());
  nlattr* actions = nla_nest_start(filter, TCA_U32_ACT);
  nlattr* first = nla_nest_start(filter, 1);
  nla_put_string(filter, TCA_ACT_KIND, "mirred");
  nlattr* mirred_options = nla_nest_start(filter, TCA_ACT_OPTIONS);
  tc_mirred mirred{};
  mirred.action = TC_ACT_STOLEN;
  mirred.eaction = TCA_EGRESS_REDIR;
  mirred.ifindex = static_cast<uint32_t>(change.to);
  nla_put(filter, TCA_MIRRED_PARMS, sizeof mirred, &mirred);
  nla_nest_end(filter, mirred_options);
  nla_nest_end(filter, first);
  nla_nest_end(filter, actions);
  nla_nest_end(filter, options);
  return absl::OkStatus();
}

absl::Status EncodeQueue(const DeleteRedirect& change, std::vector<Request>& out) {
  // Without a handle: with one, a link that has no ingress queue any more is EINVAL instead of ENOENT.
  NewRequest(out, RTM_DELQDISC, 0, Header(change.link, TC_H_INGRESS, 0));
  return absl::OkStatus();
}

}  // namespace heterok8s::netlink
