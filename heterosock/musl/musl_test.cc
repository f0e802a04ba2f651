// A program on musl under the preloaded library: it says what it says without, and its connection moves. So does a
// program on glibc that inherits musl's library.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "heterosock/tests/agent.h"

namespace heterok8s::heterosock {
namespace {

using behaviour::Agent;
using behaviour::BesideThisProgram;

// What it prints; "exit N: …" when it fails.
std::string Run(const std::string& program, const std::vector<std::string>& environment,
                const char* argument = nullptr) {
  int out[2];
  REQUIRE(pipe2(out, O_CLOEXEC) == 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(out[1], STDOUT_FILENO);
    dup2(out[1], STDERR_FILENO);
    std::vector<char*> variables;
    for (const std::string& entry : environment) variables.push_back(const_cast<char*>(entry.c_str()));
    variables.push_back(nullptr);
    char* argv[] = {const_cast<char*>(program.c_str()), const_cast<char*>(argument), nullptr};
    execve(program.c_str(), argv, variables.data());
    _exit(127);
  }
  close(out[1]);
  std::string said;
  char buffer[4096];
  for (ssize_t got; (got = read(out[0], buffer, sizeof buffer)) > 0;) said.append(buffer, static_cast<size_t>(got));
  close(out[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return status == 0 ? said : "exit " + std::to_string(WEXITSTATUS(status)) + ": " + said;
}

// What programs say of connections that moved, with the directions that did.
std::string AsPlain(std::string said) {
  const std::string moved = "moved 3\n", plain = "moved 0\n";
  for (size_t at = 0; (at = said.find(moved, at)) != std::string::npos; at += plain.size())
    said.replace(at, moved.size(), plain);
  return said;
}

TEST_CASE("programs on either libc move with musl's library, and say the same as without") {
  const std::string program = GENERATE(as<std::string>(), "musl_echo_pair_program", "glibc_echo_pair_program",
                                       "musl_calls_program", "glibc_calls_program");
  const std::string path = BesideThisProgram(program);
  const std::string library = BesideThisProgram("libheterosock.so");
  REQUIRE_FALSE(path.empty());
  REQUIRE_FALSE(library.empty());

  const std::string plain = Run(path, {});
  CAPTURE(program);
  REQUIRE(plain.ends_with("moved 0\n"));
  std::vector<std::string> environment = {"LD_PRELOAD=" + library};
  CHECK(Run(path, environment) == plain);  // no agent: plain TCP
  Agent agent;
  REQUIRE(agent.Start());
  environment.push_back("HETEROSOCK_AGENT=" + agent.path());
  const std::string said = Run(path, environment, "until-moved");
  CHECK(said.find("moved 0\n") == std::string::npos);
  CHECK(AsPlain(said) == plain);
}

}  // namespace
}  // namespace heterok8s::heterosock
