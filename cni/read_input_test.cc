#include "cni/read_input.h"

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>

#include "common/sys/unique_fd.h"
#include "common/testing/matchers.h"

namespace heterok8s::cni {
namespace {

using namespace std::chrono_literals;
using testing::HasCode;
using testing::Says;

struct Pipe {
  sys::UniqueFd end, other;
  Pipe() {
    int fds[2];
    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    end.reset(fds[0]);
    other.reset(fds[1]);
  }
  void Write(const std::string& text) {
    REQUIRE(write(other.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
};

TEST_CASE("input that comes in pieces is read to its end") {
  Pipe pipe;
  std::thread writer([&] {
    pipe.Write("{\"name\":");
    pipe.Write("\"n\"}");
    pipe.other.reset();
  });

  absl::StatusOr<std::string> text = ReadInput(pipe.end.get(), 60s);
  writer.join();

  REQUIRE_OK(text);
  CHECK(*text == "{\"name\":\"n\"}");
}

TEST_CASE("a caller that neither writes nor closes is told so, with what has come") {
  Pipe pipe;
  CHECK_THAT(ReadInput(pipe.end.get(), 5ms).status(), HasCode(absl::StatusCode::kDeadlineExceeded));
  pipe.Write("{}");
  CHECK_THAT(ReadInput(pipe.end.get(), 5ms).status(), Says("not closed after 5 ms: 2 bytes"));
}

TEST_CASE("endless input is refused") {
  sys::UniqueFd zeros(open("/dev/zero", O_RDONLY | O_CLOEXEC));

  CHECK_THAT(ReadInput(zeros.get(), 60s).status(), HasCode(absl::StatusCode::kResourceExhausted));
}

}  // namespace
}  // namespace heterok8s::cni
