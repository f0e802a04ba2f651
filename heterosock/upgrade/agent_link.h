// The connection to the agent, spoken in heterosock/protocol. See rendezvous.h for what it promises.
#pragma once

#include <stddef.h>

#include "heterosock/upgrade/rendezvous.h"

namespace heterok8s::heterosock {

class AgentLink final : public Rendezvous {
 public:
  bool Ready() override;
  bool Offer(uint64_t id, int socket) override;
  bool Next(Event* event) override;
  bool Resume(const Pairing& held, int socket) override;
  void HandBack(uint64_t channel_id) override;
  void Release(uint64_t channel_id, Reason reason) override;

  // In a forked child: the parent's connection is not ours.
  void Forget();
  bool Connected() const { return fd_ >= 0; }
  int socket() const { return fd_; }  // -1: none
  bool Up() const { return state_ == kUp; }
  bool Lost() const { return welcomed_ && fd_ < 0; }  // this process had an agent
  uint32_t pending() const { return pending_; }       // offers without an answer
  bool Full() const { return state_ == kUp && pending_ >= max_pending_; }
  uint32_t number() const { return number_; }  // of this connection; not 0 once an offer was made
  // Whether an offer made on the connection of this number may lie unread still, with the socket in it.
  bool MayHold(uint32_t number) const { return number != number_ || (fd_ < 0 ? !gone_ : Unread()); }

 private:
  enum State { kDown, kGreeted, kUp };

  void Connect();
  void Drop(const char* why, uint64_t retry_ms);
  // An agent that does not run holds what it is offered until it reads, and a program that is killed meanwhile ends
  // without a FIN. So after a silence one offer is made, and no other one before it was read.
  bool Listens();
  bool Unread() const;
  bool HungUp() const;
  // 0, or the negative errno.
  long Send(const void* message, size_t bytes, int first = -1, int second = -1);
  // Reads one packet; false when there is none. Hands out descriptors in `fds`.
  bool Receive(uint8_t* packet, size_t* bytes, int* fds, size_t* count);

  int fd_ = -1;
  State state_ = kDown;
  bool welcomed_ = false;  // once, since Forget()
  uint64_t retry_at_ = 0;  // Nanoseconds()
  uint32_t pending_ = 0;   // offers without an answer
  uint32_t max_pending_ = 1;
  uint32_t number_ = 0;
  const char* said_ = nullptr;        // why it is down, since it was last up
  bool gone_ = false;                 // the agent ended this connection: what it had not read went with it
  uint64_t sent_at_ = 0, heard_ = 0;  // Nanoseconds(); the agent ran at the second, or later
};

}  // namespace heterok8s::heterosock
