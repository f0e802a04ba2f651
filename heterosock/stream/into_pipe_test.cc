#include "heterosock/stream/into_pipe.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <string>
#include <vector>

namespace heterok8s::heterosock {
namespace {

constexpr size_t kPage = 4096;

// Both ends block, and there is room for `pages`.
struct Pipe {
  int reads = -1, writes = -1;

  explicit Pipe(int pages) {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    reads = ends[0], writes = ends[1];
    SetSize(pages);
  }
  ~Pipe() {
    close(reads);
    close(writes);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  std::string Read(size_t most) const {
    std::string bytes(most, '\0');
    const ssize_t n = read(reads, bytes.data(), bytes.size());
    bytes.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return bytes;
  }

 protected:
  Pipe() = default;
  void SetSize(int pages) const {
    REQUIRE(fcntl(writes, F_SETPIPE_SZ, pages * static_cast<int>(kPage)) == pages * static_cast<int>(kPage));
  }
};

struct Fifo : Pipe {
  explicit Fifo(int pages) {
    char folder[] = "/tmp/hk-into-pipe-XXXXXX";
    REQUIRE(mkdtemp(folder) != nullptr);
    const std::string path = std::string(folder) + "/fifo";
    REQUIRE(mkfifo(path.c_str(), 0600) == 0);
    reads = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    writes = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    unlink(path.c_str());
    rmdir(folder);
    REQUIRE(reads >= 0);
    REQUIRE(writes >= 0);
    REQUIRE(fcntl(reads, F_SETFL, 0) == 0);
    SetSize(pages);
  }
};

std::vector<uint8_t> Bytes(size_t size) {
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(i * 7 + i / 251);
  return bytes;
}

std::string Text(const std::vector<uint8_t>& bytes, size_t size) { return {bytes.begin(), bytes.begin() + size}; }

using Write = long (*)(int, const uint8_t*, size_t);

// A write that waits hangs the test: nobody reads meanwhile.
void NeverWaits(const Pipe& pipe, Write write) {
  std::vector<uint8_t> bytes = Bytes(5 * kPage);
  const std::string first = Text(bytes, 4 * kPage);

  CHECK(write(pipe.writes, bytes.data(), bytes.size()) == 4 * kPage);
  CHECK(write(pipe.writes, bytes.data(), 1) == -EAGAIN);
  std::fill(bytes.begin(), bytes.end(), uint8_t{0});
  CHECK(pipe.Read(8 * kPage) == first);

  bytes = Bytes(10);
  CHECK(write(pipe.writes, bytes.data(), 10) == 10);
  CHECK(write(pipe.writes, bytes.data(), 9) == 9);
  CHECK(pipe.Read(kPage) == Text(bytes, 10) + Text(bytes, 9));
}

TEST_CASE("into a pipe that blocks goes what fits, and then nothing, without waiting") {
  NeverWaits(Pipe(4), WriteNow);
}

TEST_CASE("into a FIFO, which takes no RWF_NOWAIT, too") { NeverWaits(Fifo(4), WriteNow); }

TEST_CASE("what a pipe takes as pages is what a kernel without RWF_NOWAIT for pipes does") {
  NeverWaits(Pipe(4), GivePages);
}

TEST_CASE("a pipe that nobody reads any more is an error") {
  signal(SIGPIPE, SIG_IGN);
  for (const Write write : {Write{WriteNow}, Write{GivePages}}) {
    Pipe pipe(1);
    close(pipe.reads);
    pipe.reads = -1;
    const uint8_t byte = 1;
    CHECK(write(pipe.writes, &byte, 1) == -EPIPE);
  }
}

TEST_CASE("a process that may lock no more memory is not told that the pipe is full") {
  Pipe pipe(1);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit none{0, 0};
    const uint8_t byte = 1;
    const bool limited =
        setrlimit(RLIMIT_MEMLOCK, &none) == 0 && mlockall(MCL_FUTURE | MCL_ONFAULT) == 0 && setuid(65534) == 0;
    if (!limited) _exit(2);
    _exit(GivePages(pipe.writes, &byte, 1) == -ENOMEM ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("what is no pipe is refused") {
  const uint8_t byte = 1;
  CHECK(WriteNow(-1, &byte, 1) == -EBADF);
}

}  // namespace
}  // namespace heterok8s::heterosock
