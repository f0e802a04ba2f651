// The ways in which two processes can hand bytes to each other, behind one interface, so that one loop measures all.
//
// A Wire is made before fork(); then each process calls Open() with its side. Not for several threads. Any failure of
// the kernel ends the program with its reason: this is a measurement.
//
//   tcp          blocking sockets over loopback; what the library moves when it is preloaded
//   tcp-spin     the same, non-blocking: each call is repeated until it succeeds
//   tcp-poll     the same, but that the receiver waits in poll
//   tcp-epoll    and in epoll_wait
//   unix         a blocking Unix stream socket
//   ring         a raw ring in shared memory, both sides spinning: the floor
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <memory>
#include <string>

namespace heterok8s::bench {

class Wire {
 public:
  virtual ~Wire() = default;
  virtual void Open(int side) = 0;  // 0 connects, 1 accepts
  virtual void Send(const char* bytes, size_t size) = 0;
  virtual size_t ReceiveSome(char* bytes, size_t size) = 0;  // 0 at the end
  virtual int Descriptor() const { return -1; }

  void Receive(char* bytes, size_t size);  // all of it; ends the program when the other side goes
};

std::unique_ptr<Wire> MakeWire(const std::string& name);

// Where connections of a wire are made, for what measures more than one: tcp and tcp-spin (loopback), unix.
// A raw ring has no such place. Both processes inherit it; who listens closes `fd`.
struct Place {
  int fd;
  bool spin;  // whoever waits for it asks again and again instead
  sockaddr_storage address;
  socklen_t length;
};
Place Listen(const std::string& wire, int backlog);
int Connect(const Place& place);  // a new blocking connection, with TCP_NODELAY
int Accept(const Place& place);   // the next one, blocking too
// All of `size` bytes; ends the program when the other side goes.
void ReceiveAll(int fd, char* bytes, size_t size, bool spin);

[[noreturn]] void Die(const std::string& what);  // with errno

bool Preloaded();  // the library is
// Whether both directions of the socket are on shared memory, as the preloaded library says; false without it.
bool Moved(int fd);
// How the waits of both ends ended, of the one connection of this process that is on shared memory; zeros without one.
struct Waits {
  unsigned long looked, slept;
};
Waits CountWaits();
// Exchanges until the connection has moved, for at most a second. Both sides call it; of no effect on other wires.
void Settle(Wire& wire, int side);

void Pin(int cpu);  // this thread; -1: leaves it free

}  // namespace heterok8s::bench
