// Sending and receiving on a connection whose directions may lie in shared memory. All functions return what the system
// call would: a count, or -errno. kUseKernel means that the direction is on TCP now and the caller's own call should go
// there.
//
// Threading: any; the locks of the slot are taken inside. Never called in a vfork child.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "heterosock/ofd/slot.h"
#include "heterosock/stream/sleepers.h"

namespace heterok8s::heterosock {

inline constexpr ssize_t kUseKernel = -100000;

ssize_t RingSend(uint32_t index, int fd, const iovec* iov, size_t count, int flags);
ssize_t RingReceive(uint32_t index, int fd, const iovec* iov, size_t count, int flags);
// As RingReceive(), into a pipe of `pipe_bytes`, and only as much as that takes without waiting. kPipeFull: nothing.
inline constexpr ssize_t kPipeFull = -100001;
ssize_t RingSplice(uint32_t index, int fd, int pipe, size_t pipe_bytes, size_t count);

// Nothing more is to come behind what was sent last: whoever was left asleep for that is woken.
void PushSent(uint32_t index);

// What poll(2) would say of the socket (POLLIN | POLLOUT | ...), for the directions asked in `wanted`.
short Readiness(uint32_t index, int fd, short wanted);

// Before sleeping on the bell elsewhere (poll, epoll): makes the peer ring for what is wanted. The caller looks at
// Readiness() afterwards. Disarming is not needed: at worst the peer rings once for nothing.
//
// `patient`: the caller's sleep ends within bell::kPatienceNs, and it arms anew before it sleeps on. True when the peer
// was told so; not when anybody else may be waiting for the same bytes: another sleeper, another process, or an epoll
// set beside the `sets` that the caller waits in.
bool ArmBell(uint32_t index, short wanted, bool patient = false, uint32_t sets = 0);

// True when Readiness() would find nothing to receive and no end. A glance without the lock, for who keeps the
// connection mapped: epoll, from whose sets it is taken before.
bool NothingToReceive(uint32_t index);

// Whether a sleeping sender would find room. A glance without the lock.
bool RoomToSend(uint32_t index);

// Bytes in the ring that were not received.
uint64_t UnreadBytes(uint32_t index);
// All bytes that can be received when the kernel holds `on_tcp` of them.
uint64_t ReadableBytes(uint32_t index, uint64_t on_tcp);
// What TCP_INQ has recvmsg() tell: what can still be received, and one more for the end of the stream; 0 only when
// whatever comes next is news to epoll.
int LeftToReceive(uint32_t index, int fd);
// Bytes of the stream that came over TCP, without copies of what the ring had: grows with each arrival there alone.
uint64_t ArrivedOverTcp(uint32_t index, int fd);
// True when the peer has received something from the ring, so everything that went over TCP before.
bool RingWasRead(uint32_t index);
// The kernel has seen the peer's FIN. When the peer did not announce it, it died or was closed by a call that its
// library did not see; bytes that it left unread are then written to TCP, whose answer is the RST that Linux would have
// sent. True when that was done.
bool PeerEnded(uint32_t index, int fd);

// Moves the own direction back to TCP / asks the peer to move its direction back and gives up reading the ring.
void ReturnSend(uint32_t index, int fd, Reason reason);
void RecallReceive(uint32_t index, int fd, Reason reason);
// The peer ended and had not begun to answer that: what it left in the ring is read there. True when it is so.
bool TakeBackRecall(uint32_t index, int fd);
// SHUT_WR: the FIN that the kernel is about to send is the program's own.
void AnnounceFin(uint32_t index);
// If the peer asked for TCP, or the agent did: brings the own direction back, or goes on with that.
void ServePeer(uint32_t index, int fd);
// True when ServePeer() would have to. A glance without the send lock, for who keeps the connection mapped: by the lock
// of the other direction, or by a set that it is in.
bool PeerWaits(uint32_t index);
// True when all that TCP has for a receiver which has seen the ring up to `seen` are copies of the ring's bytes: they
// stay there until the peer says where TCP goes on, so a sleeper must not look at them. Asked after ArmReceiver(), with
// the receive lock held: the peer rings when it has said so, or has put more into the ring.
bool CopiesAlone(uint32_t index, uint64_t seen);

// The peer did what a library never does: the connection is reset.
void Break(uint32_t index, int fd, const char* what);

// The kernel's word on one descriptor, now.
short PollNow(int fd, short events);
// Nothing more arrives over TCP: the peer's FIN has, or a reset. A SHUT_RD of our own, after which poll() says the same
// (tcp_poll() in net/ipv4/tcp.c), is none.
bool TcpEnded(int fd);
// Such a SHUT_RD, while the peer has not ended: where there is nothing to read, that is the end of the stream
// (tcp_recvmsg_locked() there).
bool ReadingShut(int fd);
// ppoll() of a socket, and perhaps of a bell, which goes on where a program's limit of open files is lower than that
// (do_sys_poll() in fs/select.c refuses): then it is the bell alone for a while, and the socket is said to have news.
int PollTwo(pollfd* sources, nfds_t count, const timespec* timeout);
// True when this thread may wait: O_NONBLOCK is not set (asks the kernel; the flag may have been set behind our back).
bool MayBlock(Slot& slot, int fd);
// A signal handler interrupted a wait: true when the kernel would have restarted the call (SA_RESTART).
bool CallRestarts();

// A deadline from SO_RCVTIMEO or SO_SNDTIMEO, asked for when it first matters.
class Deadline {
 public:
  Deadline(int fd, int option) : fd_(fd), option_(option) {}
  bool Expired();
  bool Set();                          // there is one (such calls are never restarted)
  const timespec* Left(timespec* to);  // null: forever

 private:
  void Ask();
  int fd_;
  int option_;
  bool asked_ = false;
  uint64_t end_ = 0;
};

}  // namespace heterok8s::heterosock
