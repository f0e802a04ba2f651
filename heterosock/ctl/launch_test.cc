#include "heterosock/ctl/launch.h"

#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "common/testing/matchers.h"

namespace heterok8s::heterosock::ctl {
namespace {

using testing::HasCode;
using testing::Says;

// A folder with a file that passes for the library.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/hk-launch-XXXXXX";
    path_ = mkdtemp(name);
    std::ofstream(library()) << "x";
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string library() const { return path_ + "/libheterosock.so"; }

 private:
  std::string path_;
};

bool Has(const Launch& launch, const std::string& entry) {
  return std::count(launch.environment.begin(), launch.environment.end(), entry) == 1;
}

TEST_CASE("the library is preloaded and the agent named") {
  Folder folder;
  auto launch = PlanLaunch({.argv = {"sh"}, .agent = "/x/agent.sock", .own_folder = folder.path()}, {"A=b"});
  REQUIRE_OK(launch);
  CHECK(launch->program.ends_with("/sh"));
  CHECK(Has(*launch, "LD_PRELOAD=" + folder.library()));
  CHECK(Has(*launch, "HETEROSOCK_AGENT=/x/agent.sock"));
  CHECK(Has(*launch, "A=b"));
  REQUIRE(launch->warnings.size() == 1);
  CHECK(launch->warnings[0].find("no heterosockd at '/x/agent.sock'") == 0);
}

TEST_CASE("a program on musl gets the library that was built against musl") {
  Folder folder;
  std::filesystem::create_directory(folder.path() + "/musl");
  std::ofstream(folder.path() + "/musl/libheterosock.so") << "x";
  const std::string program = folder.path() + "/program", interpreter = "/lib/ld-musl-x86_64.so.1";
  {
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_phoff = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 1;
    Elf64_Phdr segment{};
    segment.p_type = PT_INTERP;
    segment.p_offset = sizeof header + sizeof segment;
    segment.p_filesz = interpreter.size() + 1;
    std::ofstream out(program, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&header), sizeof header);
    out.write(reinterpret_cast<const char*>(&segment), sizeof segment);
    out.write(interpreter.c_str(), static_cast<std::streamsize>(interpreter.size() + 1));
  }
  REQUIRE(chmod(program.c_str(), 0755) == 0);
  auto launch = PlanLaunch({.argv = {program}, .own_folder = folder.path()}, {});
  REQUIRE_OK(launch);
  CHECK(Has(*launch, "LD_PRELOAD=" + folder.path() + "/musl/libheterosock.so"));
}

TEST_CASE("what is preloaded already stays, and ours is added once") {
  Folder folder;
  auto first = PlanLaunch({.argv = {"sh"}, .own_folder = folder.path()}, {"LD_PRELOAD=/lib/other.so"});
  REQUIRE_OK(first);
  CHECK(Has(*first, "LD_PRELOAD=" + folder.library() + ":/lib/other.so"));

  auto second = PlanLaunch({.argv = {"sh"}, .own_folder = folder.path()}, first->environment);
  REQUIRE_OK(second);
  CHECK(Has(*second, "LD_PRELOAD=" + folder.library() + ":/lib/other.so"));
}

TEST_CASE("the library may be named by flag, by environment, or lie beside the program") {
  Folder folder, other;
  CHECK(Has(*PlanLaunch({.argv = {"sh"}, .library = other.library(), .own_folder = folder.path()}, {}),
            "LD_PRELOAD=" + other.library()));
  CHECK(Has(*PlanLaunch({.argv = {"sh"}, .own_folder = folder.path()}, {"HETEROSOCK_LIBRARY=" + other.library()}),
            "LD_PRELOAD=" + other.library()));
}

TEST_CASE("what cannot work is said before anything runs") {
  Folder folder;
  CHECK_THAT(PlanLaunch({.argv = {"hk-no-such-program"}, .own_folder = folder.path()}, {}).status(),
             HasCode(absl::StatusCode::kNotFound));
  CHECK_THAT(PlanLaunch({.argv = {"sh"}, .library = "/nowhere/libheterosock.so"}, {}).status(),
             Says("is not at '/nowhere/libheterosock.so'"));
  CHECK_THAT(PlanLaunch({.argv = {}, .own_folder = folder.path()}, {}).status(),
             HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_CASE("programs that no library can be preloaded into are named, scripts and dynamic programs are not") {
  Folder folder;
  CHECK(WhyNotPreloadable("/bin/sh") == "");
  const std::string script = folder.path() + "/script";
  std::ofstream(script) << "#!/bin/sh\n";
  CHECK(WhyNotPreloadable(script) == "");

  // The first page of a program without an interpreter.
  unsigned char header[64] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
  const std::string program = folder.path() + "/static";
  std::ofstream(program, std::ios::binary).write(reinterpret_cast<char*>(header), sizeof header);
  CHECK(WhyNotPreloadable(program) == "it is statically linked");
}

}  // namespace
}  // namespace heterok8s::heterosock::ctl
