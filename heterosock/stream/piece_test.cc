#include "heterosock/stream/piece.h"

#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <memory>
#include <thread>
#include <vector>

namespace heterok8s::heterosock {

thread_local constinit ThreadState thread_state;

namespace {

// Of so many pieces at once, how many are large.
int LargeOnes(int count) {
  std::vector<std::unique_ptr<Piece>> pieces;
  int large = 0;
  for (int i = 0; i < count; ++i) {
    pieces.push_back(std::make_unique<Piece>());
    large += pieces.back()->size() > 4096;
  }
  return large;
}

// What `look` says in a forked child.
template <typename Look>
int InChild(Look look) {
  const pid_t child = fork();
  if (child == 0) {
    PiecesAfterFork();
    _exit(look());
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

TEST_CASE("eight have a large piece, whoever comes then a small one, and what is given back is lent again") {
  CHECK(LargeOnes(10) == 8);
  CHECK(LargeOnes(10) == 8);
}

TEST_CASE("a forked child has the pieces that other threads of its parent were using") {
  std::vector<std::unique_ptr<Piece>> theirs;
  std::thread([&theirs] {
    for (int i = 0; i < 8; ++i) theirs.push_back(std::make_unique<Piece>());
  }).join();
  CHECK(LargeOnes(1) == 0);

  CHECK(InChild([] { return LargeOnes(10); }) == 8);
  CHECK(LargeOnes(1) == 0);
}

TEST_CASE("a forked child does not lend the piece that its own thread goes on with") {
  Piece mine;

  CHECK(InChild([] { return LargeOnes(10); }) == 7);
}

}  // namespace
}  // namespace heterok8s::heterosock
