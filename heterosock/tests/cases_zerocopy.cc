// SO_ZEROCOPY, which is a permission, and MSG_ZEROCOPY, of which the kernel says when it is done.
#include <time.h>
// It needs the one above.
#include <linux/errqueue.h>
#include <poll.h>
#include <unistd.h>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

void SetZerocopy(End& e, int fd) {
  const int on = 1;
  DO(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on));
}

// Which sends the kernel says are done, until it has said so of `last`; whether it copied is its own business.
void SayDone(End& e, unsigned last) {
  for (unsigned next = 0; next <= last;) {
    alignas(cmsghdr) char control[512];
    msghdr message = {};
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (recvmsg(e.sock, &message, MSG_ERRQUEUE) < 0) {
      if (errno != EAGAIN || !e.Await(e.sock, POLLERR)) return e.Say("not done: %u", next);
      continue;
    }
    sock_extended_err done{};
    memcpy(&done, CMSG_DATA(reinterpret_cast<cmsghdr*>(control)), sizeof done);
    if (done.ee_info != next) e.Say("origin %d, from %u instead of %u", done.ee_origin, done.ee_info, next);
    next = done.ee_data + 1;
  }
  e.Say("done up to %u", last);
}

const auto kReads = [](End& e) {
  e.Meet();
  e.Drain(e.sock, 30'011);
};

CASE{"zero copy: permitted, and not used", {.client = kReads, .server = [](End& e) {
                                              SetZerocopy(e, e.sock);
                                              e.Meet();
                                              DO(send(e.sock, "abc", 3, 0));
                                              e.SendAll(e.sock, Pattern(200'000));
                                              DO(close(e.sock));
                                            }}};

CASE{"zero copy: a listener's permission is its connections'",
     {.client =
          [](End& e) {
            e.Meet();
            e.sock = e.Connect();
            e.Warm(e.sock);
            e.Meet();
            e.Drain(e.sock, 30'011);
          },
      .server =
          [](End& e) {
            e.listener = e.Listen();
            SetZerocopy(e, e.listener);
            e.Meet();
            e.sock = e.Accept();
            e.Warm(e.sock);
            const std::string bytes = Pattern(50'000);
            e.Meet();
            DO(send(e.sock, bytes.data(), bytes.size(), MSG_ZEROCOPY));
            SayDone(e, 0);
            DO(close(e.sock));
          },
      .bare = true}};

CASE{"zero copy: told when it is done",
     {.client = kReads,
      .server =
          [](End& e) {
            const std::string bytes = Pattern(50'000);
            DO(send(e.sock, "before", 6, MSG_ZEROCOPY));
            SetZerocopy(e, e.sock);
            DO(send(e.sock, "between", 7, 0));
            DO(send(e.sock, bytes.data(), bytes.size(), MSG_ZEROCOPY));
            iovec part = {const_cast<char*>(bytes.data()), bytes.size()};
            msghdr message = {};
            message.msg_iov = &part;
            message.msg_iovlen = 1;
            e.Meet();
            DO(sendmsg(e.sock, &message, MSG_ZEROCOPY));
            DO(sendto(e.sock, bytes.data(), 10'000, MSG_ZEROCOPY, nullptr, 0));
            SayDone(e, 2);
            DO(send(e.sock, "after", 5, 0));
            DO(close(e.sock));
          },
      .stays = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
