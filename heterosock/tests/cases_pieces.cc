// One call, of more pieces than are handed to the kernel at a time, that begins in shared memory and ends on TCP.
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include <algorithm>
#include <string>
#include <vector>

#include "heterosock/tests/cases_close.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr size_t kPieces = 1000, kPieceBytes = 4096;

std::vector<iovec> Pieces(std::string& bytes) {
  std::vector<iovec> pieces(kPieces);
  for (size_t i = 0; i < kPieces; ++i) pieces[i] = {bytes.data() + i * kPieceBytes, kPieceBytes};
  return pieces;
}

// What this end has sent by now is read from the ring, and what it sends from here on goes over TCP.
void BackToTcp(End& e) {
  int on = 1;
  DO(setsockopt(e.sock, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on));
}

CASE{"switch: one writev of many pieces that ends on TCP",
     {.client =
          [](End& e) {
            std::string bytes = Pattern(kPieces * kPieceBytes);
            std::vector<iovec> pieces = Pieces(bytes);
            e.Meet();
            DO(writev(e.sock, pieces.data(), static_cast<int>(pieces.size())));
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 60'000);
            BackToTcp(e);
            e.Drain(e.sock, 60'000);
          }}};

CASE{"switch: one recvmsg of many pieces, for all of them, that ends on TCP",
     {.client =
          [](End& e) {
            const std::string bytes = Pattern(kPieces * kPieceBytes);
            e.SendAll(e.sock, {bytes.data(), 30'000});
            e.Meet();
            Sleep(20);
            BackToTcp(e);
            e.SendAll(e.sock, {bytes.data() + 30'000, bytes.size() - 30'000});
            e.Meet();
          },
      .server =
          [](End& e) {
            std::string bytes(kPieces * kPieceBytes, '\0');
            std::vector<iovec> pieces = Pieces(bytes);
            msghdr message{};
            message.msg_iov = pieces.data();
            message.msg_iovlen = pieces.size();
            e.Meet();
            DO(recvmsg(e.sock, &message, MSG_WAITALL));
            e.Say("%d", bytes == Pattern(bytes.size()));
            e.Meet();
          }}};

CASE{"switch: a reset while one recvmsg waits for all of it is told by the next call",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, Pattern(30'000));
            e.Meet();
            Sleep(20);
            BackToTcp(e);
            Sleep(30);
            CloseWithReset(e, e.sock);
          },
      .server =
          [](End& e) {
            std::string bytes(kPieces * kPieceBytes, '\0');
            std::vector<iovec> pieces = Pieces(bytes);
            msghdr message{};
            message.msg_iov = pieces.data();
            message.msg_iovlen = pieces.size();
            e.Meet();
            DO(recvmsg(e.sock, &message, MSG_WAITALL));
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
          }}};

// The other end takes, or gives, 16 KiB at a time, with pauses of a hundredth of a second: two seconds for all of it.
// The limit is for the call as a whole. It is longer than an end waits for what it has called back.
constexpr timeval kLimit{1, 200'000};
constexpr size_t kSip = 16 << 10;

void SmallBuffer(End& e, int which) {
  const int size = 64 << 10;
  DO(setsockopt(e.sock, SOL_SOCKET, which, &size, sizeof size));
}

CASE{"switch: SO_SNDTIMEO ends one writev of many pieces that ends on TCP",
     {.client =
          [](End& e) {
            std::string bytes = Pattern(kPieces * kPieceBytes);
            std::vector<iovec> pieces = Pieces(bytes);
            SmallBuffer(e, SO_SNDBUF);
            DO(setsockopt(e.sock, SOL_SOCKET, SO_SNDTIMEO, &kLimit, sizeof kLimit));
            e.Meet();
            const long n = writev(e.sock, pieces.data(), static_cast<int>(pieces.size()));
            e.Say("some went: %d", n > 0 && n < static_cast<long>(bytes.size()));
            e.Meet();
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            std::string sip(kSip, '\0');
            SmallBuffer(e, SO_RCVBUF);
            e.Meet();
            e.AwaitBytes(e.sock, 60'000);
            BackToTcp(e);
            for (size_t took = e.RecvAll(e.sock, 1200 << 10).size(); took < kPieces * kPieceBytes;) {
              const long n = recv(e.sock, sip.data(), sip.size(), MSG_DONTWAIT);
              if (n == 0) break;
              if (n > 0) took += static_cast<size_t>(n);
              Sleep(10);
              if (n < 0) break;  // the other end has given up
            }
            e.Meet();
            while (recv(e.sock, sip.data(), sip.size(), 0) > 0) {
            }
          }}};

CASE{"switch: SO_RCVTIMEO ends one recvmsg of many pieces, for all of them, that ends on TCP",
     {.client =
          [](End& e) {
            const std::string bytes = Pattern(kPieces * kPieceBytes);
            SmallBuffer(e, SO_SNDBUF);
            e.SendAll(e.sock, {bytes.data(), 30'000});
            e.Meet();
            Sleep(20);
            BackToTcp(e);
            for (size_t at = 30'000; at < bytes.size(); at += kSip) {
              e.SendAll(e.sock, {bytes.data() + at, std::min(kSip, bytes.size() - at)});
              Sleep(10);
            }
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            std::string bytes(kPieces * kPieceBytes, '\0');
            std::vector<iovec> pieces = Pieces(bytes);
            msghdr message{};
            message.msg_iov = pieces.data();
            message.msg_iovlen = pieces.size();
            SmallBuffer(e, SO_RCVBUF);
            DO(setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &kLimit, sizeof kLimit));
            e.Meet();
            const long n = recvmsg(e.sock, &message, MSG_WAITALL);
            e.Say("some came: %d", n > 0 && n < static_cast<long>(bytes.size()));
            const timeval none{};
            DO(setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none));
            while (recv(e.sock, bytes.data(), bytes.size(), 0) > 0) {
            }
          }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
