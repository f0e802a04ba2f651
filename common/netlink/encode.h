// Change values to netlink requests.
//
// Threading: pure functions. Ownership: the caller owns the messages. Errors: kInvalidArgument for a value that has no
// form on the wire (a MAC that is none, a v6 gateway of a v4 route).
#pragma once

#include <netlink/msg.h>

#include <string>
#include <vector>

#include "common/netlink/netlink.h"
#include "common/sys/chandle.h"

namespace heterok8s::netlink {

struct Request {
  sys::CHandle<nl_msg, nlmsg_free> message;
  bool exists_ok = false;  // EEXIST is as good as success
};

// Appends the one or two requests that make `change`.
absl::Status Encode(const Change& change, std::vector<Request>& out);

// Parts, one file each.
absl::Status EncodeLink(const AddVeth& change, std::vector<Request>& out);
absl::Status EncodeLink(const AddIfb& change, std::vector<Request>& out);
absl::Status EncodeLink(const DeleteLink& change, std::vector<Request>& out);
absl::Status EncodeLink(const SetLink& change, std::vector<Request>& out);
absl::Status EncodeLink(const AddAltName& change, std::vector<Request>& out);
absl::Status EncodeQueue(const ReplaceTbf& change, std::vector<Request>& out);
absl::Status EncodeQueue(const DeleteRootQueue& change, std::vector<Request>& out);
absl::Status EncodeQueue(const AddRedirect& change, std::vector<Request>& out);
absl::Status EncodeQueue(const DeleteRedirect& change, std::vector<Request>& out);

// A request of this type with its fixed header appended.
template <typename Header>
nl_msg* NewRequest(std::vector<Request>& out, int type, int flags, Header header) {
  nl_msg* message = nlmsg_alloc_simple(type, NLM_F_REQUEST | flags);
  nlmsg_append(message, &header, sizeof header, NLMSG_ALIGNTO);
  out.push_back({sys::CHandle<nl_msg, nlmsg_free>(message)});
  return message;
}

int FamilyNumber(Family family);  // AF_INET, AF_INET6
absl::Status PutMac(nl_msg* message, int attribute, const std::string& mac);
void PutIp(nl_msg* message, int attribute, const IpAddress& address);

}  // namespace heterok8s::netlink
