// lib/own_calls.h is what the library calls beside the program, and what its README says. (symbols_test.cc: what it
// calls of libc.)
#include "heterosock/lib/own_calls.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

namespace heterok8s::heterosock {
namespace {

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::set<std::string> OwnCalls() {
#define HETEROSOCK_NAME(name) #name,
  return {HETEROSOCK_OWN_CALLS(HETEROSOCK_NAME)};
#undef HETEROSOCK_NAME
}

TEST_CASE("the README lists every system call that the library makes beside the program") {
  const std::string text = Contents("heterosock/README.md");
  const size_t begin = text.find("`HETEROSOCK=off`. These are"), end = text.find("(`lib/own_calls.h`");
  REQUIRE(begin < end);
  REQUIRE(end != std::string::npos);
  const std::string list = text.substr(begin + std::string("`HETEROSOCK=off`").size(), end - begin);
  std::set<std::string> listed;
  const std::regex name(R"(`(\w+)`)");
  for (auto at = std::sregex_iterator(list.begin(), list.end(), name); at != std::sregex_iterator(); ++at)
    listed.insert((*at)[1]);

  CHECK(listed == OwnCalls());
}

// Hooks pass the program's own call on to libc, as real.cc does with the first. Everything else is a call beside it.
TEST_CASE("what the library has libc call beside the program is in the list") {
  const std::set<std::string> calls = OwnCalls();
  const std::regex use(R"(real\.(\w+)\()"), bare(R"(\bBareSyscall\()");
  int files = 0, uses = 0;
  for (const std::string folder : {"epoll", "hooks", "lib", "notify", "ofd", "ring", "stream", "upgrade"}) {
    for (const auto& entry : std::filesystem::directory_iterator("heterosock/" + folder)) {
      const std::string text = Contents(entry.path().string());
      ++files;
      CAPTURE(entry.path().string());
      CHECK((entry.path().filename() == "machine.h" || !std::regex_search(text, bare)));
      if (folder == "hooks" || entry.path().filename() == "real.cc") continue;
      for (auto at = std::sregex_iterator(text.begin(), text.end(), use); at != std::sregex_iterator(); ++at, ++uses)
        CHECK(calls.contains((*at)[1]));
    }
  }

  CHECK(files > 40);
  CHECK(uses > 0);
}

}  // namespace
}  // namespace heterok8s::heterosock
