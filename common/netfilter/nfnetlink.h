// Messages of NETLINK_NETFILTER, put together by hand, and a socket that waits for their answers with a deadline.
//
// Threading: thread-compatible. A socket belongs to the network namespace of the thread that opened it.
// Errors: errno as the kernel gave it, as a Status.
//
//   NfMessage message(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, AF_INET);
//   message.Put(CTA_ID, &id, sizeof id);
//   HK_RETURN_IF_ERROR(socket.Request(message.Bytes(), "delete flow"));
#pragma once

#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::netfilter {

class NfMessage {
 public:
  // `resource` is host order: AF for most, the subsystem for a batch's begin and end.
  NfMessage(uint16_t type, uint16_t flags, uint8_t family, uint16_t resource = 0);

  void Put(uint16_t attribute, const void* data, size_t bytes);
  void Put(uint16_t attribute, std::string_view text);  // with the terminating zero
  size_t Open(uint16_t attribute);                      // nested; Close() takes what it returned
  void Close(size_t opened);

  const std::string& Bytes();  // finished: lengths are filled in

 private:
  std::string bytes_;
};

// Attributes of a received message, in order; nested ones are read by calling it on their payload.
void EachAttribute(std::string_view attributes, const std::function<void(uint16_t type, std::string_view value)>& fn);

class NfSocket {
 public:
  static absl::StatusOr<NfSocket> Open();

  // Sends; waits for the acknowledgement of the one message that asked for it (NLM_F_ACK), or for the first error. Its
  // text begins with `what`, and the sequence number of the message it is about when that has one.
  absl::Status Request(const std::string& bytes, std::string_view what);
  // Sends a dump request; `fn` gets the attributes of each answer.
  absl::Status Dump(const std::string& bytes, std::string_view what, const std::function<void(std::string_view)>& fn);

 private:
  explicit NfSocket(sys::UniqueFd fd) : fd_(std::move(fd)) {}
  // Feeds messages to `fn` until it says it is done.
  absl::Status Read(std::string_view what, const std::function<bool(const nlmsghdr&, absl::Status*)>& fn);

  void DropAnswers();

  sys::UniqueFd fd_;
};

}  // namespace heterok8s::netfilter
