#include "heterosock/agent/pu_link.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"

namespace heterok8s::heterosock::agent {
namespace {

using testing::HasCode;

struct Files {
  explicit Files(rlim_t most) {
    getrlimit(RLIMIT_NOFILE, &before);
    const rlimit fewer{most, before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &fewer);
  }
  ~Files() { setrlimit(RLIMIT_NOFILE, &before); }
  rlimit before{};
};

int OpenFiles() {
  int open = 0;
  for (int fd = 0; fd < 4096; ++fd) open += fcntl(fd, F_GETFD) >= 0;
  return open;
}

PuPaired Channel(uint64_t number) {
  PuPaired message{.name = {1, number}, .bytes = 4096};
  for (sys::UniqueFd* fd : {&message.memory, &message.sleeper, &message.ringer}) fd->reset(open("/dev/null", O_RDONLY));
  return message;
}

TEST_CASE("an agent that does not read is not kept more descriptors for than this one can spare") {
  int pair[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
  absl::StatusOr<std::unique_ptr<PuLink>> here = AcceptUnixPuLink(sys::UniqueFd(pair[0]), "here"),
                                          there = AcceptUnixPuLink(sys::UniqueFd(pair[1]), "there");
  REQUIRE_OK(here);
  REQUIRE_OK(there);
  const Files few(1024);
  const int before = OpenFiles();

  uint64_t kept = 0;
  absl::Status sent;
  while (kept < 4000 && (sent = (*here)->Send(Channel(kept))).ok()) ++kept;

  CHECK_THAT(sent, HasCode(absl::StatusCode::kResourceExhausted));
  CHECK((*here)->Backlog() != Sent::kSent);
  CHECK(OpenFiles() - before == 1024 / 4 / 3 * 3);
  // Nothing of what was taken is lost, and there is room again.
  for (uint64_t read = 0; read < kept; ++read) {
    CAPTURE(read);
    auto message = (*there)->Receive();
    REQUIRE_OK(message);
    REQUIRE(message->has_value());
    const auto& paired = std::get<PuPaired>(**message);
    CHECK(paired.name.offer == read);
    CHECK(paired.memory.valid());
    REQUIRE_OK((*here)->Flush());
  }
  CHECK((*here)->Backlog() == Sent::kSent);
  CHECK(OpenFiles() == before);
  CHECK_OK((*here)->Send(Channel(kept)));
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
