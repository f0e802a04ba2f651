// Calls that are left without returning: a signal handler jumps out of them, or the thread ends in them. To Linux that
// is nothing special: what the call had not taken is there for the next one.
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

sigjmp_buf out;

void OnSignal(int number, int flags, void (*handler)(int)) {
  struct sigaction act {};
  act.sa_handler = handler;
  act.sa_flags = flags;
  sigaction(number, &act, nullptr);
}

void JumpOut(int) { siglongjmp(out, 1); }

// One SIGALRM, so late that the call that follows has begun; with few microseconds while it still looks.
void AlarmIn(int microseconds) {
  itimerval once{{0, 0}, {0, microseconds}};
  setitimer(ITIMER_REAL, &once, nullptr);
}

// `call` runs until the alarm's handler jumps out of it.
template <typename Call>
void LeaveBySignal(int microseconds, Call&& call) {
  if (sigsetjmp(out, 1) == 0) {
    AlarmIn(microseconds);
    call();
  }
  AlarmIn(0);
}

template <typename Call>
bool OnOtherThread(Call&& call) {
  bool done = false;
  std::thread([&] { done = call(); }).join();
  return done;
}

// What the other end does for a reader that is interrupted again and again: nothing until all of it is over.
const auto kThenSends = [](End& e) {
  e.Meet();
  e.SendAll(e.sock, "after");
  e.Drain(e.sock, 100);
};

CASE{"jump: out of recv, then it receives", {.client = kThenSends, .server = [](End& e) {
                                               OnSignal(SIGALRM, 0, JumpOut);
                                               char b;
                                               for (int i = 0; i < 60; ++i)
                                                 LeaveBySignal(1 + i * 7 % 120, [&] { recv(e.sock, &b, 1, 0); });
                                               e.Meet();
                                               DO(recv(e.sock, &b, 1, MSG_PEEK));
                                               e.Say("%s", e.RecvAll(e.sock, 5).c_str());
                                               DO(send(e.sock, "yes", 3, 0));
                                             }}};

CASE{"jump: out of recv, then another thread receives",
     {.client = kThenSends, .server = [](End& e) {
        OnSignal(SIGALRM, 0, JumpOut);
        char b;
        for (int i = 0; i < 20; ++i) LeaveBySignal(1 + i * 13 % 100, [&] { recv(e.sock, &b, 1, 0); });
        sigset_t alarm;
        sigemptyset(&alarm);
        sigaddset(&alarm, SIGALRM);
        pthread_sigmask(SIG_BLOCK, &alarm, nullptr);
        e.Meet();
        e.Say("%d", OnOtherThread([&] { return e.RecvAll(e.sock, 5) == "after"; }));
      }}};

CASE{"jump: out of recv in the middle of an exchange",
     {.client =
          [](End& e) {
            for (std::string bytes; bytes != "end.";) {
              bytes = e.RecvAll(e.sock, 4);
              e.SendAll(e.sock, bytes);
            }
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            OnSignal(SIGALRM, 0, JumpOut);
            int right = 0;
            char b;
            for (int i = 0; i < 40; ++i) {
              e.SendAll(e.sock, "ping");
              right += e.RecvAll(e.sock, 4) == "ping";
              LeaveBySignal(1 + i * 11 % 60, [&] { recv(e.sock, &b, 1, 0); });
            }
            e.SendAll(e.sock, "end.");
            right += e.RecvAll(e.sock, 4) == "end.";
            e.Say("%d right", right);
          }}};

CASE{"jump: a sleeper that was left burns no CPU", {.client = KeepWaiting, .server = [](End& e) {
                                                      OnSignal(SIGALRM, 0, JumpOut);
                                                      char b;
                                                      for (int i = 0; i < 12; ++i)
                                                        LeaveBySignal(3000, [&] { recv(e.sock, &b, 1, 0); });
                                                      WaitIdle(e);
                                                    }}};

CASE{"jump: out of send to a reader that is slow, then it sends",
     {.client =
          [](End& e) {
            e.Meet();
            std::string all;
            char buffer[65536];
            for (ssize_t n; (n = recv(e.sock, buffer, sizeof buffer, 0)) > 0;)
              all.append(buffer, static_cast<size_t>(n));
            const size_t end = all.find_first_not_of('x');
            e.Say("then: %s", end == std::string::npos ? "nothing" : all.substr(end).c_str());
          },
      .server =
          [](End& e) {
            OnSignal(SIGALRM, 0, JumpOut);
            e.Fill(e.sock);
            const std::string bytes(100'000, 'x');
            for (int i = 0; i < 20; ++i)
              LeaveBySignal(1 + i * 97 % 2000, [&] { send(e.sock, bytes.data(), bytes.size(), 0); });
            e.Meet();
            e.SendAll(e.sock, "the end");
            DO(close(e.sock));
          }}};

CASE{"jump: out of a send that is on its way",
     {.client =
          [](End& e) {
            std::string all;
            char buffer[65536];
            for (ssize_t n; (n = recv(e.sock, buffer, sizeof buffer, 0)) > 0;)
              all.append(buffer, static_cast<size_t>(n));
            const size_t end = all.find_first_not_of('x');
            e.Say("then: %s", end == std::string::npos ? "nothing" : all.substr(end).c_str());
          },
      .server =
          [](End& e) {
            OnSignal(SIGALRM, 0, JumpOut);
            const std::string bytes(30'000, 'x');
            for (int i = 0; i < 60; ++i) {
              LeaveBySignal(1 + i * 7 % 50, [&] {
                for (;;) send(e.sock, bytes.data(), bytes.size(), 0);
              });
            }
            e.SendAll(e.sock, "the end");
            DO(shutdown(e.sock, SHUT_WR));
            e.Recv(e.sock, 1);
          }}};

CASE{"jump: out of poll and epoll_wait", {.client = kThenSends, .server = [](End& e) {
                                            OnSignal(SIGALRM, 0, JumpOut);
                                            int ep = epoll_create1(0);
                                            epoll_event event{EPOLLIN, {.fd = e.sock}};
                                            epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
                                            pollfd one{e.sock, POLLIN, 0};
                                            for (int i = 0; i < 30; ++i) {
                                              LeaveBySignal(1 + i * 7 % 120, [&] { poll(&one, 1, -1); });
                                              LeaveBySignal(1 + i * 17 % 120, [&] { epoll_wait(ep, &event, 1, -1); });
                                            }
                                            e.Meet();
                                            DO(epoll_wait(ep, &event, 1, 5000));
                                            DO(poll(&one, 1, 5000));
                                            e.Say("%s", e.RecvAll(e.sock, 5).c_str());
                                            DO(epoll_wait(ep, &event, 1, 0));
                                            DO(poll(&one, 1, 0));
                                          }}};

CASE{"jump: within the handler leaves the call where it is",
     {.client = [](End& e) { SendToSleeper(e, 60, "x"); },
      .server =
          [](End& e) {
            OnSignal(SIGALRM, SA_RESTART, [](int) {
              sigjmp_buf here;
              if (sigsetjmp(here, 0) == 0) siglongjmp(here, 1);
            });
            itimerval every{{0, 300}, {0, 300}};
            e.Meet();
            setitimer(ITIMER_REAL, &every, nullptr);
            e.Recv(e.sock, 1);
            AlarmIn(0);
            DO(send(e.sock, "y", 1, 0));
          }}};

CASE{"jump: from a handler's own stack", {.client = kThenSends, .server = [](End& e) {
                                            static char memory[64 << 10];
                                            stack_t stack{};
                                            stack.ss_sp = memory;
                                            stack.ss_size = sizeof memory;
                                            sigaltstack(&stack, nullptr);
                                            OnSignal(SIGALRM, SA_ONSTACK, JumpOut);
                                            char b;
                                            for (int i = 0; i < 40; ++i)
                                              LeaveBySignal(1 + i * 7 % 120, [&] { recv(e.sock, &b, 1, 0); });
                                            e.Meet();
                                            e.Say("%s", e.RecvAll(e.sock, 5).c_str());
                                          }}};

// The kernel says EFAULT where our copy faults; either way nothing was taken, and nothing was sent.
CASE{"jump: out of a fault in the buffer",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "after");
            e.Meet();
            e.Say("%s", e.RecvAll(e.sock, 5).c_str());
            e.Recv(e.sock, 1);
          },
      .server =
          [](End& e) {
            OnSignal(SIGSEGV, 0, JumpOut);
            void* page = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            e.Meet();
            e.AwaitBytes(e.sock, 5);
            for (int i = 0; i < 3; ++i) {
              if (sigsetjmp(out, 1) == 0) recv(e.sock, page, 5, 0);
              if (sigsetjmp(out, 1) == 0) send(e.sock, page, 5, 0);
            }
            e.Say("%s", e.RecvAll(e.sock, 5).c_str());
            e.Say("%d", OnOtherThread([&] { return send(e.sock, "sent!", 5, 0) == 5; }));
            DO(close(e.sock));
          }}};

CASE{"jump: a handler receives on the socket for which the call waits",
     {.client =
          [](End& e) {
            for (int i = 0; i < 40; ++i) {
              e.Meet();
              usleep(static_cast<useconds_t>(i * 13 % 200));
              e.SendAll(e.sock, "ab");
              e.RecvAll(e.sock, 1);
            }
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            static volatile sig_atomic_t taken, wrong;
            static int sock;
            sock = e.sock;
            wrong = 0;
            // One of the two bytes at most, so that the call gets one too.
            OnSignal(SIGALRM, SA_RESTART, [](int) {
              const int saved = errno;
              char b;
              const ssize_t n = taken != 0 ? 0 : recv(sock, &b, 1, MSG_DONTWAIT);
              if (n == 1) taken = 1;
              if (n < 0 && errno != EAGAIN) wrong = wrong + 1;
              errno = saved;
            });
            int right = 0;
            for (int i = 0; i < 40; ++i) {
              taken = 0;
              e.Meet();
              itimerval every{{0, 100}, {0, 20}};
              setitimer(ITIMER_REAL, &every, nullptr);
              char b;
              int got = recv(e.sock, &b, 1, 0) == 1;
              AlarmIn(0);
              if (!taken) got += recv(e.sock, &b, 1, 0) == 1;
              right += got + taken == 2;
              e.SendAll(e.sock, "k");
            }
            e.Say("%d right, %d wrong", right, static_cast<int>(wrong));
          }}};

// Twenty threads, one after the other, each in recv(): `begin` is its first word, `end` ends it from outside. Then the
// main thread receives.
void EndReaders(End& e, void (*begin)(), void (*end)(pthread_t)) {
  struct Reader {
    int sock;
    void (*begin)();
    std::atomic<bool> started{false};
  };
  for (int i = 0; i < 20; ++i) {
    Reader reader{e.sock, begin};
    pthread_t thread;
    const auto receive = [](void* self) -> void* {
      auto* reader = static_cast<Reader*>(self);
      reader->begin();
      reader->started = true;
      char byte;
      recv(reader->sock, &byte, 1, 0);
      return nullptr;
    };
    if (pthread_create(&thread, nullptr, receive, &reader) != 0) return e.Say("cannot start a thread");
    while (!reader.started) usleep(1);
    usleep(static_cast<useconds_t>(i * 13 % 100));
    end(thread);
    pthread_join(thread, nullptr);
  }
  e.Meet();
  e.Say("%s", e.RecvAll(e.sock, 5).c_str());
  DO(send(e.sock, "yes", 3, 0));
}

CASE{"jump: a thread ends in the handler that interrupted recv",
     {.client = kThenSends, .server = [](End& e) {
        OnSignal(SIGUSR1, 0, [](int) { pthread_exit(nullptr); });
        EndReaders(
            e, [] {}, [](pthread_t reader) { pthread_kill(reader, SIGUSR1); });
      }}};

CASE{"jump: a thread is cancelled wherever it is",
     {.client = kThenSends, .server = [](End& e) {
        EndReaders(
            e, [] { pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr); },
            [](pthread_t reader) { pthread_cancel(reader); });
      }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
