// How much one call takes, from nothing to more than 2 GiB.
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr size_t kLong = size_t{3} << 30;  // more than a call takes

// Memory of that length, of which hardly anything is ever touched.
char* LongBuffer() {
  void* const at = mmap(nullptr, kLong, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<char*>(at);
}

msghdr Message(iovec* parts, size_t count) {
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(count);
  return message;
}

using Call = std::function<long(End&, char*)>;

// One end writes 4 bytes, makes the call, which does not wait, and writes 4 more if there is room; the other reads.
Body InOrder(std::vector<Call> calls) {
  return {.client =
              [calls](End& e) {
                char* const buffer = LongBuffer();
                if (buffer == nullptr) return e.Say("no memory");
                std::memset(buffer, 'B', 64);
                for (const Call& call : calls) {
                  e.SendAll(e.sock, "AAAA");
                  const long went = call(e, buffer);
                  const long behind = send(e.sock, "CCCC", 4, MSG_DONTWAIT);
                  e.Say("some went: %d", went > 64);
                  e.Tell(static_cast<int>(4 + (went > 0 ? went : 0) + (behind > 0 ? behind : 0)));
                  e.Meet();
                  e.Meet();
                }
              },
          .server =
              [calls](End& e) {
                for (size_t i = 0; i < calls.size(); ++i) {
                  e.Meet();
                  const size_t all = static_cast<size_t>(e.Told()), first = std::min<size_t>(all, 12);
                  e.Recv(e.sock, first, MSG_WAITALL);
                  e.RecvAll(e.sock, all - first);
                  e.Meet();
                }
              }};
}

CASE{"sizes: a vector that is longer than one call takes, sent",
     InOrder({
         [](End& e, char* buffer) -> long {
           iovec parts[3] = {{buffer, 4}, {nullptr, 0}, {buffer, kLong}};
           const msghdr message = Message(parts, 3);
           return sendmsg(e.sock, &message, MSG_DONTWAIT);
         },
         [](End& e, char* buffer) -> long {
           iovec parts[2] = {{buffer, 4}, {buffer, 0x7ffff000}};
           mmsghdr message{};
           message.msg_hdr = Message(parts, 2);
           return sendmmsg(e.sock, &message, 1, MSG_DONTWAIT) == 1 ? static_cast<long>(message.msg_len) : -1;
         },
         [](End& e, char* buffer) -> long {
           timeval soon{0, 20'000}, none{};
           setsockopt(e.sock, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon);
           iovec one{buffer, kLong};
           const long went = writev(e.sock, &one, 1);
           setsockopt(e.sock, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
           return went;
         },
         [](End& e, char* buffer) -> long {
           iovec parts[2] = {{buffer, kLong}, {buffer, kLong}};
           return pwritev2(e.sock, parts, 2, -1, RWF_NOWAIT);
         },
     })};

CASE{"sizes: received into more than one call takes",
     {.client =
          [](End& e) {
            for (int i = 0; i < 6; ++i) {
              e.SendAll(e.sock, "hello");
              e.Meet();
            }
          },
      .server =
          [](End& e) {
            char* const buffer = LongBuffer();
            if (buffer == nullptr) return e.Say("no memory");
            timeval limit{2, 0};
            setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
            iovec parts[3] = {{buffer, kLong}, {nullptr, 0}, {buffer, kLong}};
            const auto next = [&] {
              e.Say("%.5s", buffer);
              std::memset(buffer, 0, 5);
              e.Meet();
              e.AwaitBytes(e.sock, 5);
            };
            e.AwaitBytes(e.sock, 5);
            DO(readv(e.sock, parts, 1));
            next();
            DO(preadv2(e.sock, parts, 3, -1, 0));
            next();
            msghdr message = Message(parts, 3);
            DO(recvmsg(e.sock, &message, 0));
            e.Say("flags %#x control %zu", static_cast<unsigned>(message.msg_flags), message.msg_controllen);
            next();
            mmsghdr messages[1]{};
            messages[0].msg_hdr = message;
            DO(recvmmsg(e.sock, messages, 1, MSG_PEEK, nullptr));
            e.Say("length %u", messages[0].msg_len);
            DO(read(e.sock, buffer, kLong));
            next();
            DO(recv(e.sock, buffer, kLong, 0));
            next();
            DO(recvfrom(e.sock, buffer, kLong, 0, nullptr, nullptr));
            e.Say("%.5s", buffer);
            e.Meet();
          }}};

CASE{"sizes: received into more than one call takes, in many parts",
     {.client =
          [](End& e) {
            e.Meet();
            Sleep(20);
            e.SendAll(e.sock, Pattern(200));
            e.Meet();
          },
      .server =
          [](End& e) {
            char* const buffer = LongBuffer();
            if (buffer == nullptr) return e.Say("no memory");
            std::vector<iovec> parts;
            for (int i = 0; i < 100; ++i) parts.push_back({buffer + i, 1});
            parts.push_back({buffer + 100, kLong});
            timeval limit{0, 500'000};
            setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
            msghdr message = Message(parts.data(), parts.size());
            e.Meet();
            DO(recvmsg(e.sock, &message, MSG_WAITALL));
            e.Say("%d", std::string(buffer, 200) == Pattern(200));
            e.Meet();
          }}};

CASE{"sizes: sendmmsg ends with a message of which a part went",
     {.client =
          [](End& e) {
            char* const buffer = LongBuffer();
            if (buffer == nullptr) return e.Say("no memory");
            iovec parts[2] = {{buffer, 5}, {buffer, size_t{1} << 30}};
            mmsghdr messages[3]{};
            messages[0].msg_hdr = Message(&parts[0], 1);
            messages[1].msg_hdr = Message(&parts[1], 1);
            DO(sendmmsg(e.sock, messages, 3, MSG_DONTWAIT));
            e.Say("%u, a part: %d, %u", messages[0].msg_len, messages[1].msg_len < parts[1].iov_len,
                  messages[2].msg_len);
            e.Tell(static_cast<int>(messages[0].msg_len + messages[1].msg_len));
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            e.RecvAll(e.sock, static_cast<size_t>(e.Told()));
          }}};

CASE{"sizes: sendmmsg of more messages than one call takes",
     {.client =
          [](End& e) {
            iovec one{const_cast<char*>("x"), 1};
            mmsghdr message{};
            message.msg_hdr = Message(&one, 1);
            std::vector<mmsghdr> many(IOV_MAX + 1, message);
            DO(sendmmsg(e.sock, many.data(), IOV_MAX + 1, 0));
            DO(shutdown(e.sock, SHUT_WR));
          },
      .server = [](End& e) { e.Drain(e.sock, 100); }}};

// All ways to receive no bytes.
void ReceiveNothing(End& e, int flags) {
  char b;
  iovec none{&b, 0};
  msghdr message{};
  DO(recv(e.sock, &b, 0, flags));
  DO(recvfrom(e.sock, &b, 0, flags | MSG_PEEK, nullptr, nullptr));
  DO(recvmsg(e.sock, &message, flags));
  message.msg_iov = &none;
  message.msg_iovlen = 1;
  DO(recvmsg(e.sock, &message, flags | MSG_TRUNC));
  e.Say("flags %#x", static_cast<unsigned>(message.msg_flags));
  DO(read(e.sock, &b, 0));
  DO(readv(e.sock, &none, 1));
}

CASE{"sizes: who receives nothing waits for bytes, and leaves them",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            e.Meet();
            for (const char* late : {"d", "e", "f"}) {
              e.Meet();
              Sleep(20);
              e.SendAll(e.sock, late);
            }
            e.Meet();
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            timeval limit{2, 0};
            setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
            e.AwaitBytes(e.sock, 3);
            e.Meet();
            ReceiveNothing(e, MSG_WAITALL);
            ReceiveNothing(e, MSG_DONTWAIT);
            e.Recv(e.sock, 10);
            ReceiveNothing(e, MSG_DONTWAIT);
            e.Meet();
            DO(recv(e.sock, nullptr, 0, 0));
            e.Recv(e.sock, 10, MSG_DONTWAIT);
            e.Meet();
            DO(recvfrom(e.sock, nullptr, 0, MSG_WAITALL, nullptr, nullptr));
            e.Recv(e.sock, 10, MSG_DONTWAIT);
            e.Meet();
            msghdr message{};
            DO(recvmsg(e.sock, &message, 0));
            e.Recv(e.sock, 10, MSG_DONTWAIT);
            e.Meet();
            ReceiveNothing(e, 0);
          }}};

CASE{"sizes: lengths that the kernel refuses",
     {.client =
          [](End& e) {
            char b[4] = "abc";
            iovec parts[2] = {{b, 3}, {b, static_cast<size_t>(SSIZE_MAX) + 1}};
            msghdr message = Message(parts, 2);
            DO(writev(e.sock, parts, 2));
            DO(sendmsg(e.sock, &message, 0));
            DO(readv(e.sock, parts, 2));
            DO(recvmsg(e.sock, &message, 0));
            DO(write(e.sock, b, static_cast<size_t>(SSIZE_MAX) + 1) < 0);
            DO(read(e.sock, b, SIZE_MAX) < 0);
            std::vector<iovec> many(IOV_MAX + 1, iovec{b, 1});
            message = Message(many.data(), IOV_MAX + 1);
            DO(sendmsg(e.sock, &message, 0));
            DO(recvmsg(e.sock, &message, MSG_DONTWAIT));
            DO(shutdown(e.sock, SHUT_WR));
          },
      .server = [](End& e) { e.Drain(e.sock, 100); }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
