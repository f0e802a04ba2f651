// One behaviour of TCP sockets as a program of two ends, and what an end can say about what it saw.
//
// The runner runs the same text on plain libc and with the library preloaded and compares what was said; Linux decides
// what is right, so a case asserts nothing. Only what Linux defines may be said: no times, no addresses, no sizes of
// buffers. Ends are separate processes; after Meet() both have done everything before it.
//
//   const Case eof{"read returns 0 after the peer closed", {
//       .client = [](End& e) { DO(close(e.sock)); },
//       .server = [](End& e) { char b; DO(read(e.sock, &b, 1)); }}};
//
// DO(call) makes the call, says its text, result and errno, and returns the result. Threads of an end may use DO, but
// only in an order that is always the same.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "heterosock/tests/stage.h"

namespace heterok8s::heterosock::behaviour {

enum class Role { kServer = 0, kClient = 1 };

class End {
 public:
  End(Role role, int family, bool warm);

  int sock = -1;      // connected to the other end; -1 in a bare case
  int listener = -1;  // the server's
  const Role role;
  const int family;  // AF_INET or AF_INET6

  // Both ends wait for each other. Ends the process when the other end does not come.
  void Meet();

  // Sends 8 KiB back and forth until the connection has moved to shared memory, when both ends can say so, or has met
  // its fault; else a few times.
  void Warm(int fd);

  // A listener on loopback and its address for the other end; a connection to it. Say nothing.
  int Listen(int backlog = 16);
  int Accept(int from = -1);
  int Connect();
  sockaddr_storage Address(int port, socklen_t* length) const;
  int PeerPort();  // what the server's Listen() made; after it

  // Tells the other end a number; it reads it after the next Meet().
  void Tell(int number);
  int Told() const;

  void Say(const char* format, ...) __attribute__((format(printf, 2, 3)));
  long Did(const char* what, long result, int error);

  // recv(), and says the bytes (short ones as text, long ones as a sum).
  long Recv(int fd, size_t size, int flags = 0);

  // Waits silently (poll) until fd has one of `events`; until `bytes` are readable by FIONREAD; false: not in time.
  bool Await(int fd, short events);
  bool AwaitBytes(int fd, int bytes);

  // Whole transfers, which say nothing unless they fail.
  void SendAll(int fd, std::string_view bytes);
  std::string RecvAll(int fd, size_t size);
  // Until EOF, in reads of `chunk` bytes; says total and sum.
  void Drain(int fd, size_t chunk);

  // Writes until there is no room and none comes by itself; how many bytes went. The reader must not read meanwhile.
  int Fill(int fd);

  // Which way the connection goes now: see Stage::moved.
  void NoteMoved(int fd);

  bool warm() const { return warm_; }

 private:
  Stage* const stage_;
  const bool warm_;
  uint32_t met_ = 0;
};

struct Body {
  std::function<void(End&)> client, server;
  bool bare = false;   // the case connects for itself
  bool stays = false;  // need not move to shared memory even where it could (OOB, SCM_RIGHTS, …)
  // An end hands its moved socket on while the other is away for so long that the agent is asked (HAND_BACK).
  bool hands_on = false;
  bool orphaned = false;  // run with each death of the agent too: what comes after needs none
  bool halfway = false;   // run with PAIRED lost or late at one end too: that one is on TCP, the other is armed
  bool fenced = false;    // run with each FENCE behind PAIRED too: what a connection is that moved and did not
};

struct Case {
  Case(const char* name, Body body);
  const char* name;
  Body body;
};

const std::vector<const Case*>& Cases();

// Runs one end of one case in this process. `step` is not empty after exec: see Again().
int RunEnd(const Case& which, End& end);

// Executes this program again at `step` of the same case, keeping descriptors; never returns on success.
// `env_clear` drops LD_PRELOAD, so that the new image is not hooked.
void Again(End& end, const char* step, int fd, bool env_clear);
using Step = void (*)(End& end, int fd);
struct RegisterStep {
  RegisterStep(const char* name, Step step);
};
Step FindStep(std::string_view name);
std::vector<std::string> AgainArguments(End& end, const char* step, int fd);

// Bytes that tell apart every position of a stream; their sum.
std::string Pattern(size_t size, uint32_t seed = 1);
uint64_t Sum(std::string_view bytes, uint64_t so_far = 1469598103934665603ull);
std::string EventNames(unsigned events);  // of poll and epoll: "IN|RDHUP"

// Whole ends that several cases have.
void Echo(End& end);  // sends back what comes until the end of it, and closes
// A byte that wakes the other end, then nothing for a long while, then another byte; and the end that waits for them,
// which says them and whether the long wait took the CPU.
void KeepWaiting(End& end);
void WaitIdle(End& end);
// `bytes`, once the other end has met us and had time to fall asleep; then until it closes.
void SendToSleeper(End& end, int milliseconds, std::string_view bytes);
// `before` the other end says that it has changed hands, and 100,000 bytes afterwards.
void SendOnBothSides(End& end, std::string_view before);

// The peer's kernel has seen the end that shutdown() sent: what that changes here is over.
void AwaitFinAcknowledged(int fd);

bool MillisecondsPassed(const std::function<void()>& call, int at_least);
void Sleep(int milliseconds);

}  // namespace heterok8s::heterosock::behaviour

// errno is 0 before, so that a call that touches errno and succeeds is seen.
#define DO(call)                               \
  ([&]() -> long {                             \
    errno = 0;                                 \
    long did_result = static_cast<long>(call); \
    return e.Did(#call, did_result, errno);    \
  }())

// The case of this name: a static object of the file it stands in.
#define HK_JOIN2(a, b) a##b
#define HK_JOIN(a, b) HK_JOIN2(a, b)
#define CASE static const ::heterok8s::heterosock::behaviour::Case HK_JOIN(case_, __LINE__)
#define STEP(name) static const ::heterok8s::heterosock::behaviour::RegisterStep HK_JOIN(step_, __LINE__)(name, [](End & e, int fd)
