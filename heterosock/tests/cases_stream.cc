// Bytes in order, by every call that moves them.
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <climits>
#include <cstring>
#include <thread>

#include "heterosock/tests/case.h"

extern "C" ssize_t __read_chk(int fd, void* buffer, size_t n, size_t room);
extern "C" ssize_t __recv_chk(int fd, void* buffer, size_t n, size_t room, int flags);
extern "C" ssize_t __recvfrom_chk(int fd, void* buffer, size_t n, size_t room, int flags, sockaddr* from,
                                  socklen_t* length);

namespace heterok8s::heterosock::behaviour {
namespace {

CASE{"stream: a request and its answer",
     {.client =
          [](End& e) {
            DO(write(e.sock, "ping", 4));
            e.Await(e.sock, POLLIN);
            e.Recv(e.sock, 100);
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            e.Await(e.sock, POLLIN);
            e.Recv(e.sock, 100);
            DO(write(e.sock, "pong!", 5));
            e.Drain(e.sock, 10);
            DO(close(e.sock));
          }}};

CASE{"stream: many small writes arrive as one run of bytes",
     {.client =
          [](End& e) {
            for (int i = 0; i < 50; ++i) DO(send(e.sock, "0123456789" + i % 5, 5, 0));
            e.Meet();
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 250);
            e.Recv(e.sock, 100);
            e.Recv(e.sock, 7);
            e.Recv(e.sock, 1000);
            e.Recv(e.sock, 1000, MSG_DONTWAIT);
            e.Meet();
          }}};

CASE{"stream: one write is read a byte at a time",
     {.client =
          [](End& e) {
            DO(write(e.sock, "abcdefgh", 8));
            e.Meet();
          },
      .server =
          [](End& e) {
            for (int i = 0; i < 8; ++i) e.Recv(e.sock, 1);
            e.Recv(e.sock, 1, MSG_DONTWAIT);
            e.Meet();
          }}};

CASE{"stream: transfers of nothing",
     {.client =
          [](End& e) {
            DO(write(e.sock, "", 0));
            DO(send(e.sock, "", 0, 0));
            DO(send(e.sock, nullptr, 0, MSG_NOSIGNAL));
            char b;
            DO(read(e.sock, &b, 0));
            DO(recv(e.sock, &b, 0, MSG_DONTWAIT));
            iovec none[2] = {{&b, 0}, {&b, 0}};
            DO(writev(e.sock, none, 2));
            DO(readv(e.sock, none, 2));
            DO(writev(e.sock, none, 0));
            e.Meet();
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            char b;
            DO(recv(e.sock, &b, 1, MSG_DONTWAIT));
            e.Meet();
          }}};

CASE{"stream: a buffer that is not there",
     {.client =
          [](End& e) {
            char* nowhere = reinterpret_cast<char*>(8);
            DO(write(e.sock, nowhere, 10));
            DO(send(e.sock, nowhere, 10, 0));
            e.Meet();
            e.AwaitBytes(e.sock, 5);
            DO(read(e.sock, nowhere, 5));
            DO(recv(e.sock, nowhere, 5, MSG_PEEK));
            e.Recv(e.sock, 5);
            iovec vector{nowhere, 3};
            DO(writev(e.sock, &vector, 1));
            DO(readv(e.sock, reinterpret_cast<iovec*>(8), 1));
            DO(recvmsg(e.sock, reinterpret_cast<msghdr*>(8), MSG_DONTWAIT));
          },
      .server =
          [](End& e) {
            DO(write(e.sock, "hello", 5));
            e.Meet();
            e.Drain(e.sock, 100);
          }}};

CASE{"stream: gather and scatter in odd pieces",
     {.client =
          [](End& e) {
            std::string bytes = Pattern(10000);
            iovec pieces[5] = {{bytes.data(), 1},
                               {bytes.data() + 1, 0},
                               {bytes.data() + 1, 4095},
                               {bytes.data() + 4096, 5000},
                               {bytes.data() + 9096, 904}};
            DO(writev(e.sock, pieces, 5));
            DO(pwritev2(e.sock, pieces, 2, -1, 0));
            e.Meet();
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 10001);
            std::string bytes(10000, '\0');
            iovec pieces[4] = {
                {bytes.data(), 7}, {bytes.data() + 7, 1}, {bytes.data() + 8, 0}, {bytes.data() + 8, 9992}};
            DO(readv(e.sock, pieces, 4));
            e.Say("sum %llx", static_cast<unsigned long long>(Sum(bytes)));
            DO(preadv2(e.sock, pieces, 2, -1, 0));
            e.Meet();
          }}};

CASE{"stream: vectors that are no vectors",
     {.client =
          [](End& e) {
            char b[4] = "abc";
            iovec one{b, 3};
            std::vector<iovec> many(IOV_MAX + 1, iovec{b, 1});
            DO(writev(e.sock, &one, -1));
            DO(writev(e.sock, many.data(), IOV_MAX + 1));
            DO(readv(e.sock, many.data(), IOV_MAX + 1));
            DO(writev(e.sock, many.data(), IOV_MAX));
            iovec huge{b, static_cast<size_t>(SSIZE_MAX) + 1};
            DO(writev(e.sock, &huge, 1));
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, IOV_MAX);
            e.Recv(e.sock, 5000, MSG_DONTWAIT);
          }}};

CASE{"stream: no offsets",
     {.client =
          [](End& e) {
            char b[4];
            DO(pread(e.sock, b, 1, 0));
            DO(pwrite(e.sock, "x", 1, 0));
            DO(lseek(e.sock, 0, SEEK_SET));
            DO(ftruncate(e.sock, 0));
            iovec one{b, 1};
            DO(preadv(e.sock, &one, 1, 5));
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

CASE{"stream: sendmsg and recvmsg",
     {.client =
          [](End& e) {
            iovec pieces[2] = {{const_cast<char*>("hello "), 6}, {const_cast<char*>("world"), 5}};
            msghdr message{};
            message.msg_iov = pieces;
            message.msg_iovlen = 2;
            DO(sendmsg(e.sock, &message, MSG_NOSIGNAL));
            e.Meet();
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 11);
            char a[3], b[20], control[64];
            sockaddr_storage from{};
            iovec pieces[2] = {{a, 3}, {b, 20}};
            msghdr message{&from, sizeof from, pieces, 2, control, sizeof control, 0x7777};
            DO(recvmsg(e.sock, &message, 0));
            e.Say("%.3s %.8s name %u control %zu flags %#x", a, b, message.msg_namelen, message.msg_controllen,
                  static_cast<unsigned>(message.msg_flags));
            DO(recvmsg(e.sock, &message, MSG_DONTWAIT));
            e.Meet();
          }}};

CASE{"stream: sendmmsg and recvmmsg",
     {.client =
          [](End& e) {
            iovec pieces[3] = {
                {const_cast<char*>("abc"), 3}, {const_cast<char*>("defgh"), 5}, {const_cast<char*>("ij"), 2}};
            mmsghdr messages[3]{};
            for (int i = 0; i < 3; ++i) messages[i].msg_hdr.msg_iov = &pieces[i], messages[i].msg_hdr.msg_iovlen = 1;
            DO(sendmmsg(e.sock, messages, 3, 0));
            e.Say("lengths %u %u %u", messages[0].msg_len, messages[1].msg_len, messages[2].msg_len);
            e.Meet();
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 10);
            char b[3][4] = {};
            iovec pieces[3] = {{b[0], 4}, {b[1], 4}, {b[2], 4}};
            mmsghdr messages[3]{};
            for (int i = 0; i < 3; ++i) messages[i].msg_hdr.msg_iov = &pieces[i], messages[i].msg_hdr.msg_iovlen = 1;
            DO(recvmmsg(e.sock, messages, 3, MSG_DONTWAIT, nullptr));
            e.Say("lengths %u %u %u: %.4s %.4s %.2s", messages[0].msg_len, messages[1].msg_len, messages[2].msg_len,
                  b[0], b[1], b[2]);
            DO(recvmmsg(e.sock, messages, 3, MSG_DONTWAIT, nullptr));
            timespec soon{0, 1000000};
            DO(recvmmsg(e.sock, messages, 0, 0, &soon));
            e.Meet();
            DO(recvmmsg(e.sock, messages, 3, MSG_WAITFORONE, nullptr));
          }}};

CASE{"stream: addresses given to a connected socket",
     {.client =
          [](End& e) {
            socklen_t length;
            sockaddr_storage address = e.Address(9, &length);
            DO(sendto(e.sock, "abc", 3, 0, reinterpret_cast<sockaddr*>(&address), length));
            e.Meet();
          },
      .server =
          [](End& e) {
            char b[10];
            sockaddr_storage from{};
            socklen_t length = sizeof from;
            DO(recvfrom(e.sock, b, 10, 0, reinterpret_cast<sockaddr*>(&from), &length));
            e.Say("length %u family %d", length, from.ss_family);
            e.Meet();
          }}};

CASE{"stream: the checked calls of a fortified program",
     {.client =
          [](End& e) {
            DO(write(e.sock, "abcdef", 6));
            e.Meet();
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 6);
            char b[10];
            DO(__read_chk(e.sock, b, 2, 10));
            DO(__recv_chk(e.sock, b, 2, 10, 0));
            DO(__recvfrom_chk(e.sock, b, 2, 10, 0, nullptr, nullptr));
            e.Say("%.2s", b);
            e.Meet();
          }}};

CASE{"stream: read and write on what is no descriptor",
     {.client =
          [](End& e) {
            char b;
            DO(read(-1, &b, 1));
            DO(write(-1, &b, 1));
            DO(send(100'000'000, &b, 1, 0));
            DO(recv(1023, &b, 1, 0));
            DO(close(-1));
            DO(close(1023));
            DO(shutdown(0, SHUT_RD));
            DO(recv(0, &b, 1, 0));
            int moved = e.sock;
            DO(close(moved));
            DO(read(moved, &b, 1));
            DO(send(moved, &b, 1, 0));
            DO(close(moved));
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
