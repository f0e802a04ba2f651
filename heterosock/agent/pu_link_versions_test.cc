#include "heterosock/agent/pu_link.h"

#include <poll.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <string>

#include "common/testing/matchers.h"

namespace heterok8s::heterosock::agent {
namespace {

using testing::HasCode;

// Our end of a link, and the socket of an agent that is of another version.
struct Joined {
  std::unique_ptr<PuLink> ours;
  sys::UniqueFd other;

  Joined() {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    other.reset(ends[1]);
    auto link = AcceptUnixPuLink(sys::UniqueFd(ends[0]), "a test");
    REQUIRE_OK(link);
    ours = *std::move(link);
  }
  void Says(const std::string& text) const {
    REQUIRE(send(other.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  }
};

constexpr char kFence[] = R"({"v": 1, "t": "fence", "channel": [7, 8], "reason": 3, "since": 12})";

TEST_CASE("messages and members that a newer agent has are passed over, and what is known is read") {
  const Joined joined;
  joined.Says(R"({"v": 1, "t": "news", "of": ["something", {"that": "is not known"}]})");
  joined.Says(R"({"v": 1, "t": "more news"})");
  joined.Says(kFence);

  auto message = joined.ours->Receive();
  REQUIRE_OK(message);
  REQUIRE(message->has_value());
  const auto* fence = std::get_if<PuFence>(&**message);
  REQUIRE(fence != nullptr);
  CHECK(fence->channel_id == 7);
  CHECK(fence->epoch == 8);
  auto nothing = joined.ours->Receive();
  REQUIRE_OK(nothing);
  CHECK_FALSE(nothing->has_value());
}

TEST_CASE("an agent that says much that is not known has no more of our time than others, and is read to its end") {
  const Joined joined;
  for (int i = 0; i < 100; ++i) joined.Says(R"({"v": 1, "t": "news"})");
  joined.Says(kFence);

  int calls = 0;
  for (bool read = false; !read; ++calls) {
    pollfd ready{.fd = joined.ours->fd(), .events = POLLIN, .revents = 0};
    REQUIRE(poll(&ready, 1, 0) == 1);
    auto message = joined.ours->Receive();
    REQUIRE_OK(message);
    read = message->has_value();
  }
  CHECK(calls > 1);
}

TEST_CASE("an agent that must not be misread says another version, and the link ends") {
  const Joined joined;
  joined.Says(R"({"v": 2, "t": "fence", "channel": [7, 8], "reason": 3})");

  CHECK_THAT(joined.ours->Receive().status(), HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_CASE("a message that lacks what it must have ends the link") {
  const Joined joined;
  joined.Says(GENERATE(R"({"v": 1})", R"({"v": 1, "t": "fence"})", R"({"t": "fence"})", "no JSON"));

  CHECK_THAT(joined.ours->Receive().status(), HasCode(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
