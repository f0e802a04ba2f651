// sendfile, splice, tee, vmsplice, copy_file_range.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

int File(size_t size) {
  int fd = memfd_create("hk-file", MFD_CLOEXEC);
  std::string bytes = Pattern(size);
  if (write(fd, bytes.data(), size) != static_cast<ssize_t>(size)) return -1;
  lseek(fd, 0, SEEK_SET);
  return fd;
}

const auto kDrains = [](End& e) { e.Drain(e.sock, 30'011); };

CASE{"files: sendfile with an offset and without",
     {.client = kDrains, .server = [](End& e) {
        int file = File(100'000);
        off_t at = 1000;
        DO(write(e.sock, "head", 4));
        DO(sendfile(e.sock, file, &at, 5000));
        e.Say("offset %ld, position %ld", static_cast<long>(at), static_cast<long>(lseek(file, 0, SEEK_CUR)));
        DO(sendfile(e.sock, file, nullptr, 7000));
        e.Say("position %ld", static_cast<long>(lseek(file, 0, SEEK_CUR)));
        at = 99'000;
        DO(sendfile64(e.sock, file, &at, 5000));
        DO(sendfile(e.sock, file, &at, 5000));
        DO(sendfile(e.sock, file, nullptr, 0));
        DO(write(e.sock, "tail", 4));
        DO(close(e.sock));
      }}};

CASE{"files: sendfile of 4 MiB, over again until all went",
     {.client = kDrains, .server = [](End& e) {
        int file = File(4 << 20);
        off_t at = 0;
        while (at < (4 << 20)) {
          ssize_t n = sendfile(e.sock, file, &at, static_cast<size_t>((4 << 20) - at));
          if (n <= 0) break;
        }
        e.Say("%ld", static_cast<long>(at));
        DO(close(e.sock));
      }}};

CASE{"files: sendfile without waiting",
     {.client =
          [](End& e) {
            e.Meet();
            std::string bytes = e.RecvAll(e.sock, static_cast<size_t>(e.Told()));
            e.Say("all x: %d", bytes.find_first_not_of('x') == std::string::npos);
            e.Drain(e.sock, 50'000);
          },
      .server =
          [](End& e) {
            DO(fcntl(e.sock, F_SETFL, O_NONBLOCK));
            e.Tell(e.Fill(e.sock));
            int file = File(1 << 20);
            off_t at = 0;
            e.Meet();
            while (at < (1 << 20)) {
              ssize_t n = sendfile(e.sock, file, &at, static_cast<size_t>((1 << 20) - at));
              if (n < 0 && (errno != EAGAIN || !e.Await(e.sock, POLLOUT))) break;
              if (n == 0) break;
            }
            e.Say("%ld", static_cast<long>(at));
            DO(close(e.sock));
          }}};

CASE{"files: sendfile that is refused",
     {.client = [](End& e) { e.Drain(e.sock, 10); },
      .server =
          [](End& e) {
            int file = File(1000), ends[2];
            DO(pipe(ends));
            off_t at = -1;
            DO(sendfile(e.sock, file, &at, 10));
            DO(sendfile(e.sock, 1000, nullptr, 10));
            DO(sendfile(1000, file, nullptr, 10));
            DO(sendfile(e.sock, e.sock, nullptr, 10));
            DO(copy_file_range(file, nullptr, e.sock, nullptr, 10, 0));
            DO(copy_file_range(e.sock, nullptr, file, nullptr, 10, 0));
            DO(shutdown(e.sock, SHUT_WR));
            signal(SIGPIPE, SIG_IGN);
            DO(sendfile(e.sock, file, nullptr, 10));
          }}};

CASE{"files: splice from a file through a pipe to the connection",
     {.client = kDrains,
      .server =
          [](End& e) {
            int file = File(60'000), ends[2];
            DO(pipe(ends));
            DO(write(e.sock, "head", 4));
            size_t total = 0;
            while (true) {
              ssize_t n = splice(file, nullptr, ends[1], nullptr, 10'000, SPLICE_F_MOVE);
              if (n <= 0) break;
              while (n > 0) {
                ssize_t m = splice(ends[0], nullptr, e.sock, nullptr, static_cast<size_t>(n), SPLICE_F_MORE);
                if (m <= 0) break;
                n -= m;
                total += static_cast<size_t>(m);
              }
            }
            e.Say("%zu", total);
            DO(write(e.sock, "tail", 4));
            DO(close(e.sock));
          },
      .stays = true}};

CASE{"files: splice from the connection to a pipe",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "by read, by splice, by read");
            e.Meet();
            e.Meet();
            DO(close(e.sock));
            e.Meet();
          },
      .server =
          [](End& e) {
            int ends[2];
            DO(pipe(ends));
            e.Meet();
            e.AwaitBytes(e.sock, 27);
            e.Recv(e.sock, 9);
            DO(splice(e.sock, nullptr, ends[1], nullptr, 11, 0));
            char b[20] = {};
            DO(read(ends[0], b, 20));
            e.Say("%s", b);
            e.Recv(e.sock, 100);
            // SPLICE_F_NONBLOCK is about the pipe; whether the socket waits is O_NONBLOCK's (net/ipv4/tcp.c,
            // tcp_splice_read).
            DO(fcntl(e.sock, F_SETFL, O_NONBLOCK));
            DO(splice(e.sock, nullptr, ends[1], nullptr, 11, 0));
            e.Meet();
            e.Meet();
            e.Await(e.sock, POLLRDHUP);
            DO(splice(e.sock, nullptr, ends[1], nullptr, 11, 0));
            DO(splice(e.sock, nullptr, e.sock, nullptr, 11, 0));
            off_t at = 0;
            DO(splice(e.sock, &at, ends[1], nullptr, 11, 0));
          },
      .stays = true}};

CASE{"files: splice by a program that may have no open files",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            e.Meet();
          },
      .server =
          [](End& e) {
            int ends[2];
            DO(pipe(ends));
            e.AwaitBytes(e.sock, 3);
            rlimit limit{};
            getrlimit(RLIMIT_NOFILE, &limit);
            const rlimit none{0, limit.rlim_max};
            setrlimit(RLIMIT_NOFILE, &none);
            DO(splice(e.sock, nullptr, ends[1], nullptr, 10, 0));
            setrlimit(RLIMIT_NOFILE, &limit);
            e.Meet();
          }}};

CASE{"files: splice that waits, and a relay of 1 MiB",
     {.client =
          [](End& e) {
            Sleep(10);
            e.SendAll(e.sock, Pattern(1 << 20));
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 10'000);
          },
      .server =
          [](End& e) {
            int ends[2], kept = memfd_create("hk-relay", MFD_CLOEXEC);
            DO(pipe(ends));
            ssize_t n;
            while ((n = splice(e.sock, nullptr, ends[1], nullptr, 65'536, SPLICE_F_MOVE)) > 0) {
              while (n > 0) {
                ssize_t m = splice(ends[0], nullptr, kept, nullptr, static_cast<size_t>(n), 0);
                if (m <= 0) break;
                n -= m;
              }
            }
            std::string bytes(1 << 20, '\0');
            DO(pread(kept, bytes.data(), bytes.size(), 0));
            e.Say("%d", bytes == Pattern(1 << 20));
            DO(close(e.sock));
          },
      .stays = true}};

// A relay of one thread: into the pipe until it takes no more, then out of it.
std::string Relay(End& e, size_t bytes, int pipe_flags, unsigned flags) {
  int ends[2];
  if (pipe2(ends, pipe_flags) != 0) e.Say("no pipe");
  DO(fcntl(ends[1], F_SETPIPE_SZ, 4096) > 0);
  std::string all;
  while (all.size() < bytes) {
    if (!e.Await(e.sock, POLLIN)) break;
    while (splice(e.sock, nullptr, ends[1], nullptr, 65'536, flags) > 0 && (flags & SPLICE_F_NONBLOCK) != 0) {
    }
    int held = 0;
    ioctl(ends[0], FIONREAD, &held);
    std::string some(static_cast<size_t>(held), '\0');
    if (held <= 0 || read(ends[0], some.data(), some.size()) != held) break;
    all += some;
  }
  close(ends[0]);
  close(ends[1]);
  return all;
}

void RelayCase(End& e, int pipe_flags, unsigned flags) {
  fcntl(e.sock, F_SETFL, O_NONBLOCK);
  e.Say("%d", Relay(e, 300'000, pipe_flags, flags) == Pattern(300'000));
  DO(close(e.sock));
}
const auto kSendsMuch = [](End& e) {
  e.SendAll(e.sock, Pattern(300'000));
  e.Drain(e.sock, 10);
};

CASE{"files: splice until the pipe is full, SPLICE_F_NONBLOCK",
     {.client = kSendsMuch, .server = [](End& e) { RelayCase(e, 0, SPLICE_F_NONBLOCK); }, .stays = true}};
CASE{"files: splice until the pipe is full, which does not wait",
     {.client = kSendsMuch,
      .server = [](End& e) { RelayCase(e, O_NONBLOCK, SPLICE_F_NONBLOCK | SPLICE_F_MOVE); },
      .stays = true}};
CASE{"files: splice takes no more than fits",
     {.client = kSendsMuch, .server = [](End& e) { RelayCase(e, 0, 0); }, .stays = true}};

CASE{"files: two threads splice one connection, each into its pipe",
     {.client = kSendsMuch,
      .server =
          [](End& e) {
            std::atomic<size_t> total{0}, sum{0};
            const auto relay = [&] {
              int ends[2];
              if (pipe(ends) != 0) return;
              for (ssize_t n; total < 300'000 && (n = splice(e.sock, nullptr, ends[1], nullptr, 3000, 0)) > 0;) {
                unsigned char bytes[3000];
                n = read(ends[0], bytes, sizeof bytes);
                for (ssize_t i = 0; i < n; ++i) sum += bytes[i];
                if ((total += static_cast<size_t>(n)) >= 300'000) shutdown(e.sock, SHUT_RDWR);
              }
              close(ends[0]);
              close(ends[1]);
            };
            std::thread other(relay);
            relay();
            other.join();
            e.Say("%zu bytes, sum %zu", total.load(), sum.load());
            DO(close(e.sock));
          },
      .stays = true}};

// What such a call says is not the same: it knows the pipe by its number. Bytes of before the switch are unread.
CASE{"files: splice that waits for room in a pipe that another thread closes",
     {.client =
          [](End& e) {
            e.sock = e.Connect();
            for (int i = 0; i < 300; ++i) {
              e.RecvAll(e.sock, 10);
              e.SendAll(e.sock, "0123456789");
            }
            e.Meet();
          },
      .server =
          [](End& e) {
            e.sock = e.Accept();
            for (int i = 0; i < 300; ++i) {
              e.SendAll(e.sock, "0123456789");
              if (i < 3) e.RecvAll(e.sock, 10);
              if (i > 50) Sleep(1);
            }
            int ends[2];
            DO(pipe(ends));
            DO(fcntl(ends[1], F_SETPIPE_SZ, 4096));
            const std::string full(4096, 'x');
            DO(write(ends[1], full.data(), full.size()));
            std::thread waits([&] { splice(e.sock, nullptr, ends[1], nullptr, 64, 0); });
            Sleep(50);
            DO(close(ends[1]));
            std::string bytes(full);
            DO(read(ends[0], bytes.data(), bytes.size()));
            waits.join();
            e.Say("it ended");
            e.Meet();
            DO(close(e.sock));
          },
      .bare = true,
      .stays = true}};

CASE{"files: splice from the connection that is refused",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "still there");
            e.Meet();
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            int ends[2], file = File(0);
            DO(pipe(ends));
            e.Meet();
            e.AwaitBytes(e.sock, 11);
            DO(splice(e.sock, nullptr, file, nullptr, 5, 0));
            DO(splice(e.sock, nullptr, ends[0], nullptr, 5, 0));
            DO(splice(e.sock, nullptr, ends[1], nullptr, 5, 0x100));
            DO(fcntl(ends[1], F_SETPIPE_SZ, 4096) > 0);
            DO(write(ends[1], Pattern(4096).data(), 4096));
            DO(splice(e.sock, nullptr, ends[1], nullptr, 5, SPLICE_F_NONBLOCK));
            DO(close(ends[0]));
            signal(SIGPIPE, SIG_IGN);
            DO(splice(e.sock, nullptr, ends[1], nullptr, 5, 0));
            e.Say("the file has %ld bytes", static_cast<long>(lseek(file, 0, SEEK_END)));
            e.Recv(e.sock, 20);
            DO(close(e.sock));
          },
      .stays = true}};

CASE{"files: sendfile and splice by a thread with the smallest stack",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "some bytes");
            e.Drain(e.sock, 30'011);
          },
      .server =
          [](End& e) {
            struct Call {
              int sock, file, pipe;
              ssize_t sent, received;
            } call{e.sock, File(100'000), -1, -1, -1};
            int ends[2];
            DO(pipe(ends));
            call.pipe = ends[1];
            e.AwaitBytes(e.sock, 10);
            pthread_attr_t attributes;
            pthread_attr_init(&attributes);
            DO(pthread_attr_setstacksize(&attributes, static_cast<size_t>(sysconf(_SC_THREAD_STACK_MIN))));
            const auto body = [](void* at) -> void* {
              auto* made = static_cast<Call*>(at);
              made->sent = sendfile(made->sock, made->file, nullptr, 100'000);
              made->received = splice(made->sock, nullptr, made->pipe, nullptr, 10, 0);
              return nullptr;
            };
            pthread_t thread;
            DO(pthread_create(&thread, &attributes, body, &call));
            pthread_join(thread, nullptr);
            e.Say("sent %ld, received %ld", static_cast<long>(call.sent), static_cast<long>(call.received));
            DO(close(e.sock));
          },
      .stays = true}};

CASE{"files: sendfile with a negative offset is refused, and the connection stays where it is",
     {.client = [](End& e) { e.Drain(e.sock, 100); },
      .server =
          [](End& e) {
            const int file = File(100);
            off_t offset = -1;
            DO(sendfile(e.sock, file, &offset, 10));
            e.Say("offset %ld", static_cast<long>(offset));
            e.NoteMoved(e.sock);
            DO(sendfile(e.sock, file, nullptr, 100));
            DO(close(e.sock));
          }}};

CASE{"files: tee and vmsplice",
     {.client = [](End& e) { e.Drain(e.sock, 100); },
      .server =
          [](End& e) {
            int a[2], b[2];
            DO(pipe(a));
            DO(pipe(b));
            iovec one{const_cast<char*>("some bytes"), 10};
            DO(vmsplice(a[1], &one, 1, 0));
            DO(tee(a[0], b[1], 100, 0));
            DO(tee(e.sock, b[1], 100, SPLICE_F_NONBLOCK));
            DO(vmsplice(e.sock, &one, 1, 0));
            DO(splice(a[0], nullptr, e.sock, nullptr, 100, 0));
            DO(splice(b[0], nullptr, e.sock, nullptr, 100, 0));
            DO(close(e.sock));
          },
      .stays = true}};

CASE{"files: a mapped file is a source and a target",
     {.client =
          [](End& e) {
            int file = File(200'000);
            auto* at = static_cast<char*>(mmap(nullptr, 200'000, PROT_READ, MAP_PRIVATE, file, 0));
            e.SendAll(e.sock, {at, 200'000});
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            int file = memfd_create("hk-target", MFD_CLOEXEC);
            DO(ftruncate(file, 200'000));
            auto* at = static_cast<char*>(mmap(nullptr, 200'000, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
            size_t have = 0;
            for (ssize_t n; (n = recv(e.sock, at + have, 200'000 - have, 0)) > 0;) have += static_cast<size_t>(n);
            e.Say("%zu %d", have, std::string_view(at, 200'000) == Pattern(200'000));
          }}};

CASE{"files: read into read-only memory, half of it",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, std::string(8192, 'z'));
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            auto* at =
                static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
            DO(mprotect(at + 4096, 4096, PROT_READ));
            e.AwaitBytes(e.sock, 8192);
            DO(recv(e.sock, at + 4096, 4096, 0));
            e.Recv(e.sock, 10);
          }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
