// What the library needs from the agent: a partner for a socket. Nothing here ever blocks.
//
// The library connects to the agent's SOCK_SEQPACKET Unix socket ($HETEROSOCK_AGENT, else kDefaultAgentPath of
// protocol/messages.h), says HELLO with the layouts it knows and goes on when WELCOME came. A connection that shows
// evidence of life is offered: the socket itself travels by SCM_RIGHTS, so the agent takes identity from the kernel
// (SO_COOKIE, SO_NETNS_COOKIE, inet_diag) and believes nothing that we say. The agent closes its copy at once: a held
// duplicate would keep FIN from being sent. When both ends of a connection have been offered and the policy allows it,
// each gets PAIRED; else DECLINED. That is two messages per side and upgrade; arming and switching happen in shared
// memory. With the agent gone, connections that moved stay where they are and new ones stay on TCP until it is back.
//
// Threading: one thread at a time (the caller holds a lock). Ownership: descriptors of a Pairing belong to the caller.
//
//   Rendezvous::Event event;
//   if (link.Ready() && link.Offer(slot_number, fd)) ...
//   while (link.Next(&event)) { if (event.kind == Rendezvous::Event::kPaired) Arm(event.id, event.pairing); }
#pragma once

#include <cstdint>

#include "heterosock/upgrade/reason.h"

namespace heterok8s::heterosock {

struct Pairing {
  int side = 0;  // 0: this end connected, 1: this end accepted (as the kernel's tuples say)
  uint64_t channel_id = 0;
  uint64_t epoch = 0;
  uint64_t nonce = 0;
  uint64_t offset = 0;  // of the channel in the memfd, a multiple of 64 KiB
  uint64_t bytes = 0;
  // Received by SCM_RIGHTS in this order, close-on-exec. The bells are non-blocking ends of two pipes.
  int memfd = -1;
  int own_bell = -1;   // the other side rings it, we wait on it
  int peer_bell = -1;  // we ring it
};

class Rendezvous {
 public:
  struct Event {
    enum Kind { kNone, kPaired, kDeclined, kFence, kWelcomed } kind = kNone;
    uint64_t id = 0;  // the offer's id; for kFence the channel id, 0 for every channel
    Reason reason = Reason::kNone;
    uint32_t retry_ms = 0;  // of kDeclined; 0: never again
    Pairing pairing;
  };

  // True when offers can be made. Otherwise (re)connects when it is time to, without waiting for the outcome.
  virtual bool Ready() = 0;
  // False when the agent cannot take it now; try again later. `id` comes back in the answer.
  virtual bool Offer(uint64_t id, int socket) = 0;
  // The next answer, or false when there is none now.
  virtual bool Next(Event* event) = 0;
  // Counts a channel that an earlier agent, or our parent's connection, knows of. After kWelcomed. False as for
  // Offer().
  virtual bool Resume(const Pairing& held, int socket) = 0;
  // The other end is too busy to bring back what this one called back: the agent may do it.
  virtual void HandBack(uint64_t channel_id) = 0;
  // This side no longer uses the channel.
  virtual void Release(uint64_t channel_id, Reason reason) = 0;

 protected:
  ~Rendezvous() = default;
};

}  // namespace heterok8s::heterosock
