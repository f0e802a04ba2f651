// A program on musl under the preloaded library: it says what it says without, and its connection moves. So does a
// program on glibc that inherits musl's library.
#include <absl/cleanup/cleanup.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "heterosock/tests/agent.h"
#include "heterosock/tests/elf.h"

namespace heterok8s::heterosock {
namespace {

using behaviour::Agent;
using behaviour::BesideThisProgram;

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& each : strings) pointers.push_back(const_cast<char*>(each.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// What it prints; "exit N: …" when it fails.
std::string Run(const std::vector<std::string>& command, const std::vector<std::string>& environment) {
  int out[2];
  REQUIRE(pipe2(out, O_CLOEXEC) == 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(out[1], STDOUT_FILENO);
    dup2(out[1], STDERR_FILENO);
    execve(command[0].c_str(), Pointers(command).data(), Pointers(environment).data());
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

// A musl as it is since 1.2.4, made of this one: dlsym() knows no name with 64. The text of such a symbol is changed,
// so that who looks for it finds another one.
void MakeNewerMusl(const std::string& path) {
  utsname kernel{};
  REQUIRE(uname(&kernel) == 0);
  std::string bytes = behaviour::Contents(std::string("/lib/ld-musl-") + kernel.machine + ".so.1");
  REQUIRE_FALSE(bytes.empty());
  for (const std::string name : {"creat64", "open64", "openat64", "fcntl64", "sendfile64"}) {
    const std::string end = name + '\0';
    for (size_t at = 0; (at = bytes.find(end, at)) != std::string::npos; ++at) bytes[at + name.size() - 1] = '_';
  }
  std::ofstream(path, std::ios::binary) << bytes;
  REQUIRE(chmod(path.c_str(), 0755) == 0);
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

  const std::string plain = Run({path}, {});
  CAPTURE(program);
  REQUIRE(plain.ends_with("moved 0\n"));
  std::vector<std::string> environment = {"LD_PRELOAD=" + library};
  CHECK(Run({path}, environment) == plain);  // no agent: plain TCP
  Agent agent;
  REQUIRE(agent.Start());
  environment.push_back("HETEROSOCK_AGENT=" + agent.path());
  const std::string said = Run({path, "until-moved"}, environment);
  CHECK(said.find("moved 0\n") == std::string::npos);
  CHECK(AsPlain(said) == plain);
}

TEST_CASE("a call has its name with 64 also where musl's dlsym does not know it") {
  const std::string program = BesideThisProgram("musl_large_names_program");
  const std::string library = BesideThisProgram("libheterosock.so");
  char folder[] = "/tmp/hk-heterosock-musl-XXXXXX";
  REQUIRE(mkdtemp(folder) != nullptr);
  const absl::Cleanup remove = [&] { std::filesystem::remove_all(folder); };
  const std::string musl = std::string(folder) + "/musl";
  MakeNewerMusl(musl);

  const std::string all = "creat64 1 open64 1 openat64 1 fcntl64 1 sendfile64 1\n";
  CHECK(Run({program}, {}) == all);
  CHECK(Run({program}, {"LD_PRELOAD=" + library}) == all);
  CHECK(Run({musl, program}, {}) == all);
  CHECK(Run({musl, program}, {"LD_PRELOAD=" + library}) == all);
}

}  // namespace
}  // namespace heterok8s::heterosock
