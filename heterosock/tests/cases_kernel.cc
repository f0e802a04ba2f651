// What only the kernel can do for a connection, which takes it to TCP: a signal for what arrives, a filter, a rate.
#include <linux/filter.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

volatile sig_atomic_t ios = 0;

// As with O_ASYNC: a signal for each of three arrivals, of which the next comes when the one before was seen.
CASE{"options: a signal for arriving bytes, FIOASYNC",
     {.client =
          [](End& e) {
            for (int i = 0; i < 3; ++i) {
              e.Meet();
              DO(write(e.sock, "abc", 3));
            }
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            signal(SIGIO, [](int) { ios = 1; });
            int owner = getpid(), on = 1;
            DO(ioctl(e.sock, FIOSETOWN, &owner));
            DO(ioctl(e.sock, FIOASYNC, &on));
            for (int i = 0; i < 3; ++i) {
              ios = 0;
              e.Meet();
              for (int k = 0; k < 4000 && !ios; ++k) usleep(500);
              e.Say("signal: %d", static_cast<int>(ios));
              e.AwaitBytes(e.sock, 3);
              e.Recv(e.sock, 10);
            }
          },
      .stays = true}};

// A filter that lets nothing through: TCP sends again and again what it drops, and delivers it once the filter is gone.
CASE{"options: a filter drops what arrives",
     {.client =
          [](End& e) {
            e.Meet();
            DO(write(e.sock, "filtered", 8));
            e.Meet();
            e.Meet();
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            sock_filter none[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
            const sock_fprog program{1, none};
            DO(setsockopt(e.sock, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
            e.Meet();
            e.Meet();
            e.Recv(e.sock, 10, MSG_DONTWAIT);
            DO(setsockopt(e.sock, SOL_SOCKET, SO_DETACH_FILTER, &program, sizeof program));
            e.Meet();
            e.Recv(e.sock, 10);
          },
      .stays = true}};

CASE{"options: a pacing rate",
     {.client = [](End& e) { e.Drain(e.sock, 1000); },
      .server =
          [](End& e) {
            unsigned rate = 10'000'000;
            DO(setsockopt(e.sock, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate));
            e.SendAll(e.sock, Pattern(100'000));
            socklen_t length = sizeof rate;
            DO(getsockopt(e.sock, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, &length));
            e.Say("%u", rate);
            DO(close(e.sock));
          },
      .stays = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
