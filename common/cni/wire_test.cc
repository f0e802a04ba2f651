#include "common/cni/wire.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>

#include "common/testing/matchers.h"

namespace heterok8s::cni {
namespace {

using testing::HasCode;
using testing::Says;
using namespace std::chrono_literals;

struct Pair {
  Pair() { REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0); }
  ~Pair() {
    for (int end : ends) {
      if (end >= 0) close(end);
    }
  }
  void CloseFirst() { close(std::exchange(ends[0], -1)); }
  int ends[2];
};

Deadline In(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

TEST_CASE("a request and a reply arrive as they were sent") {
  WireRequest request{.environment = {{"CNI_COMMAND", "ADD"}}, .stdin_text = "{\"a\":\"\\u00e9\"}\n"};
  absl::StatusOr<WireRequest> decoded = DecodeRequest(*EncodeRequest(request));
  absl::StatusOr<WireReply> reply = DecodeReply(EncodeReply({.exit_code = 1, .stdout_text = "{}\n"}));

  REQUIRE_OK(decoded);
  CHECK(decoded->environment == request.environment);
  CHECK(decoded->stdin_text == request.stdin_text);
  REQUIRE_OK(reply);
  CHECK(reply->exit_code == 1);
  CHECK(reply->stdout_text == "{}\n");
}

TEST_CASE("a frame larger than the socket's buffer passes") {
  Pair pair;
  std::string big(3'000'000, 'x');
  std::thread writer([&] { CHECK_OK(WriteFrame(pair.ends[0], big, In(10s))); });

  absl::StatusOr<std::string> read = ReadFrame(pair.ends[1], In(10s));
  writer.join();

  REQUIRE_OK(read);
  CHECK(*read == big);
}

TEST_CASE("a peer that says nothing costs no more than the deadline") {
  Pair pair;

  CHECK_THAT(ReadFrame(pair.ends[1], In(20ms)).status(), HasCode(absl::StatusCode::kDeadlineExceeded));
}

TEST_CASE("a peer that leaves in the middle is reported") {
  Pair pair;
  REQUIRE(write(pair.ends[0], "\x05\0\0\0ab", 6) == 6);
  pair.CloseFirst();

  CHECK_THAT(ReadFrame(pair.ends[1], In(10s)).status(), HasCode(absl::StatusCode::kUnavailable));
}

TEST_CASE("a length beyond the limit is refused before anything is read") {
  Pair pair;
  REQUIRE(write(pair.ends[0], "\xff\xff\xff\x7f", 4) == 4);

  CHECK_THAT(ReadFrame(pair.ends[1], In(10s)).status(), HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_CASE("frames that are not the protocol are refused") {
  for (const char* text : {"", "[]", "{}", R"({"version":2,"environment":{},"stdin":""})",
                           R"({"version":1,"environment":{"A":1},"stdin":""})", R"({"version":1,"environment":{}})"}) {
    INFO(text);
    CHECK_THAT(DecodeRequest(text).status(), HasCode(absl::StatusCode::kInvalidArgument));
    CHECK_THAT(DecodeReply(text).status(), HasCode(absl::StatusCode::kInvalidArgument));
  }
  for (const char* exit : {"2147483648", "-2147483649", "1.5", "1e300", "\"1\"", "null"}) {
    INFO(exit);
    CHECK_THAT(DecodeReply(fmt::format(R"({{"exit":{},"stdout":""}})", exit)).status(), Says("'exit' must be"));
  }
  CHECK(CodeOf(EncodeRequest({.environment = {{"CNI_ARGS", "\xff"}}}).status()) == kInvalidEnvironment);
}

TEST_CASE("attachments that differ have queue files that differ, however long their names") {
  CHECK(QueueFileName("n", "a", "eth0") != QueueFileName("n", "a", "eth1"));
  CHECK(QueueFileName("n", "a.b", "c") != QueueFileName("n.a", "b", "c"));
  std::string long_id(5000, 'a');
  CHECK(QueueFileName("n", long_id, "eth0").size() < 255);
  CHECK(QueueFileName("n", long_id, "eth0") != QueueFileName("n", long_id + "b", "eth0"));
  CHECK(QueueFileName("n", "a", "eth0") == "n@a@eth0.del");
}

}  // namespace
}  // namespace heterok8s::cni
