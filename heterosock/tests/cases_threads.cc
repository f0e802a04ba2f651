// Threads that share a connection.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

CASE{"threads: two readers share what comes",
     {.client =
          [](End& e) {
            for (int i = 0; i < 300; ++i) e.SendAll(e.sock, std::string(1000, static_cast<char>('a' + i % 26)));
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            std::atomic<size_t> total{0};
            std::atomic<uint64_t> sum{0};
            auto reads = [&] {
              char buffer[777];
              for (ssize_t n; (n = read(e.sock, buffer, sizeof buffer)) > 0;) {
                total += static_cast<size_t>(n);
                for (ssize_t i = 0; i < n; ++i) sum += static_cast<unsigned char>(buffer[i]);
              }
            };
            std::thread one(reads), two(reads);
            one.join();
            two.join();
            e.Say("%zu sum %llu", total.load(), static_cast<unsigned long long>(sum.load()));
          }}};

CASE{"threads: two writers, no write torn apart",
     {.client =
          [](End& e) {
            auto writes = [&](char letter) {
              for (int i = 0; i < 200; ++i) e.SendAll(e.sock, std::string(100, letter));
            };
            std::thread one(writes, 'a'), two(writes, 'b');
            one.join();
            two.join();
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            std::string all = e.RecvAll(e.sock, 40'000);
            bool whole = true;
            for (size_t at = 0; at < all.size(); at += 100) whole &= all.substr(at, 100) == std::string(100, all[at]);
            e.Say("%zu whole %d", all.size(), whole);
            e.Recv(e.sock, 10);
          }}};

CASE{"threads: a reader and a writer on each end",
     {.client =
          [](End& e) {
            std::thread reader([&e] { e.Say("%d", e.RecvAll(e.sock, 2'000'000) == Pattern(2'000'000, 7)); });
            for (int i = 0; i < 200; ++i) e.SendAll(e.sock, Pattern(9'999, static_cast<uint32_t>(i)));
            reader.join();
          },
      .server =
          [](End& e) {
            std::thread reader([&e] {
              bool same = true;
              for (int i = 0; i < 200; ++i)
                same &= e.RecvAll(e.sock, 9'999) == Pattern(9'999, static_cast<uint32_t>(i));
              e.Say("%d", same);
            });
            e.SendAll(e.sock, Pattern(2'000'000, 7));
            reader.join();
          }}};

CASE{"threads: ping-pong handed from thread to thread",
     {.client =
          [](End& e) {
            for (int i = 0; i < 40; ++i) {
              std::thread([&e, i] {
                e.SendAll(e.sock, Pattern(500, static_cast<uint32_t>(i)));
                if (e.RecvAll(e.sock, 500) != Pattern(500, static_cast<uint32_t>(i))) e.Say("wrong at %d", i);
              }).join();
            }
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            std::string bytes;
            while ((bytes = std::string(500, 0), recv(e.sock, bytes.data(), 500, MSG_WAITALL)) == 500)
              e.SendAll(e.sock, bytes);
            e.Say("end");
          }}};

CASE{"threads: one polls, one reads",
     {.client =
          [](End& e) {
            for (int i = 0; i < 50; ++i) {
              e.SendAll(e.sock, "0123456789");
              e.RecvAll(e.sock, 1);
            }
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            std::atomic<bool> done{false};
            std::thread poller([&] {
              pollfd one{e.sock, POLLIN, 0};
              while (!done) poll(&one, 1, 5);
            });
            char buffer[10];
            int rounds = 0;
            while (recv(e.sock, buffer, 10, MSG_WAITALL) == 10) {
              ++rounds;
              e.SendAll(e.sock, "k");
            }
            done = true;
            poller.join();
            e.Say("%d", rounds);
          }}};

CASE{"threads: many connections, a thread for each",
     {.client =
          [](End& e) {
            e.Meet();
            std::vector<std::thread> threads;
            std::atomic<int> right{0};
            for (uint32_t i = 0; i < 8; ++i) {
              threads.emplace_back([&, i] {
                int fd = e.Connect();
                std::string bytes = Pattern(200'000, i);
                std::thread writer([&] {
                  e.SendAll(fd, bytes);
                  shutdown(fd, SHUT_WR);
                });
                right += e.RecvAll(fd, bytes.size()) == bytes;
                writer.join();
                close(fd);
              });
            }
            for (std::thread& each : threads) each.join();
            e.Say("%d right", right.load());
          },
      .server =
          [](End& e) {
            e.Meet();
            std::vector<std::thread> threads;
            for (int i = 0; i < 8; ++i) {
              threads.emplace_back([&e, fd = e.Accept()] {
                char buffer[8192];
                for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;)
                  e.SendAll(fd, {buffer, static_cast<size_t>(n)});
                close(fd);
              });
            }
            for (std::thread& each : threads) each.join();
          },
      .bare = true}};

CASE{"threads: a thread that ends in the middle leaves the connection",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            std::thread([&e] { e.Recv(e.sock, 1); }).join();
            std::thread([&e] { e.Recv(e.sock, 1); }).join();
            e.Recv(e.sock, 10);
            std::thread([&e] { DO(write(e.sock, "xyz", 3)); }).join();
          }}};

CASE{"threads: cancelled while reading",
     {.client = [](End& e) { e.Drain(e.sock, 10); },
      .server =
          [](End& e) {
            pthread_t reader;
            pthread_create(
                &reader, nullptr,
                [](void* end) -> void* {
                  char b;
                  read(static_cast<End*>(end)->sock, &b, 1);
                  return nullptr;
                },
                &e);
            Sleep(20);
            DO(pthread_cancel(reader));
            void* result = nullptr;
            DO(pthread_join(reader, &result));
            e.Say("cancelled: %d", result == PTHREAD_CANCELED);
            e.SendAll(e.sock, "lives");
            DO(close(e.sock));
          }}};

CASE{"threads: an epoll server of 40 connections",
     {.client =
          [](End& e) {
            e.Meet();
            std::vector<int> fds;
            for (int i = 0; i < 40; ++i) fds.push_back(e.Connect());
            int right = 0;
            for (uint32_t round = 0; round < 6; ++round) {
              for (int fd : fds) e.SendAll(fd, Pattern(3000, round));
              for (int fd : fds) right += e.RecvAll(fd, 3000) == Pattern(3000, round);
            }
            e.Say("%d right", right);
            for (int fd : fds) close(fd);
          },
      .server =
          [](End& e) {
            int ep = epoll_create1(0), open = 0, seen = 0;
            fcntl(e.listener, F_SETFL, O_NONBLOCK);
            epoll_event event{EPOLLIN, {.fd = e.listener}};
            epoll_ctl(ep, EPOLL_CTL_ADD, e.listener, &event);
            e.Meet();
            std::vector<epoll_event> events(16);
            while (seen < 40 || open > 0) {
              int n = epoll_wait(ep, events.data(), 16, 5000);
              if (n <= 0) {
                e.Say("no event: %d", n);
                break;
              }
              for (int i = 0; i < n; ++i) {
                int fd = events[static_cast<size_t>(i)].data.fd;
                if (fd == e.listener) {
                  for (int conn; (conn = accept4(fd, nullptr, nullptr, SOCK_NONBLOCK)) >= 0; ++open, ++seen) {
                    event = {EPOLLIN | EPOLLRDHUP, {.fd = conn}};
                    epoll_ctl(ep, EPOLL_CTL_ADD, conn, &event);
                  }
                  continue;
                }
                char buffer[2000];
                ssize_t got = read(fd, buffer, sizeof buffer);
                if (got > 0)
                  e.SendAll(fd, {buffer, static_cast<size_t>(got)});
                else if (got == 0 || errno != EAGAIN) {
                  close(fd);
                  --open;
                }
              }
            }
            e.Say("%d open", open);
          },
      .bare = true}};

CASE{"threads: a reader that was cancelled leaves no sleeper behind",
     {.client = KeepWaiting, .server = [](End& e) {
        pthread_t reader;
        const auto read = [](void* end) -> void* {
          char b;
          recv(static_cast<End*>(end)->sock, &b, 1, 0);
          return nullptr;
        };
        if (pthread_create(&reader, nullptr, read, &e) != 0) e.Say("cannot start a thread");
        Sleep(100);  // so that it mostly is inside recv()
        pthread_cancel(reader);
        void* result = nullptr;
        pthread_join(reader, &result);
        e.Say("cancelled: %d", result == PTHREAD_CANCELED);
        WaitIdle(e);
      }}};

CASE{"threads: 32 blocked in recv, each gets its byte",
     {.client =
          [](End& e) {
            e.Meet();
            Sleep(50);
            for (int i = 0; i < 32; ++i) {
              e.SendAll(e.sock, "x");
              if (i % 4 == 0) usleep(500);
            }
            e.Drain(e.sock, 10);
            e.Meet();
          },
      .server =
          [](End& e) {
            std::atomic<int> got{0};
            std::vector<std::thread> readers;
            for (int i = 0; i < 32; ++i) {
              readers.emplace_back([&] {
                char b;
                got += recv(e.sock, &b, 1, 0) == 1;
              });
            }
            e.Meet();
            for (std::thread& each : readers) each.join();
            e.Say("%d got one", got.load());
            e.SendAll(e.sock, "thanks");
            DO(shutdown(e.sock, SHUT_WR));
            e.Meet();
          }}};

CASE{"threads: 12 blocked in recv and 12 in send on one socket",
     {.client =
          [](End& e) {
            e.Meet();
            Sleep(50);
            for (int i = 0; i < 12; ++i) e.SendAll(e.sock, "x");
            e.Meet();
            char buffer[100'000];
            size_t ends = 0;
            for (ssize_t n; ends < 12 && (n = recv(e.sock, buffer, sizeof buffer, 0)) > 0;) {
              for (ssize_t i = 0; i < n; ++i) ends += buffer[i] == '.';
            }
            e.Say("%zu ends", ends);
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Fill(e.sock);
            std::atomic<int> got{0};
            std::vector<std::thread> readers, writers;
            for (int i = 0; i < 12; ++i) {
              readers.emplace_back([&] {
                char b;
                got += recv(e.sock, &b, 1, 0) == 1;
              });
              writers.emplace_back([&] { e.SendAll(e.sock, std::string(50'000, 'w') + "."); });
            }
            e.Meet();
            for (std::thread& each : readers) each.join();
            e.Say("%d got one", got.load());
            e.Meet();
            for (std::thread& each : writers) each.join();
            e.Meet();
          }}};

CASE{"threads: a crowd of readers that was cancelled leaves no sleeper behind",
     {.client = KeepWaiting, .server = [](End& e) {
        pthread_t readers[20];
        for (pthread_t& each : readers) {
          pthread_create(
              &each, nullptr,
              [](void* end) -> void* {
                char b;
                recv(static_cast<End*>(end)->sock, &b, 1, 0);
                return nullptr;
              },
              &e);
        }
        Sleep(100);  // so that they mostly are inside recv()
        for (pthread_t each : readers) pthread_cancel(each);
        for (pthread_t each : readers) pthread_join(each, nullptr);
        WaitIdle(e);
      }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
