// Of the test itself "behind this one" is all that it is linked with.
#include "heterosock/lib/next_symbol.h"

#include <dlfcn.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <thread>

extern "C" int PrelinkedAnswer();

namespace heterok8s::heterosock {
namespace {

TEST_CASE("it finds what a library has that lies below the address it was linked for") {
  REQUIRE(PrelinkedAnswer() == 42);
  CHECK(NextSymbol("PrelinkedAnswer").address == reinterpret_cast<void*>(&PrelinkedAnswer));
}

TEST_CASE("it finds what libc has") {
  void* libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
  REQUIRE(libc != nullptr);
  for (const char* name : {"read", "write", "close", "fork", "poll", "epoll_wait", "longjmp", "pthread_exit", "syscall",
                           "posix_spawn", "__recv_chk", "vdprintf"}) {
    CAPTURE(name);
    const NextSymbolAnswer answer = NextSymbol(name);
    CHECK(answer.certain);
    CHECK(answer.address == dlsym(libc, name));
  }
}

TEST_CASE("a name that nobody has is none, and surely so") {
  const NextSymbolAnswer answer = NextSymbol("write_that_nobody_has");
  CHECK(answer.certain);
  CHECK(answer.address == nullptr);
}

std::string Plugin() { return std::filesystem::read_symlink("/proc/self/exe").parent_path() / "libplugin.so"; }

TEST_CASE("what a program has loaded since lies behind libc") {
  CHECK(NextSymbolOfAny("PluginAnswer").address == nullptr);
  CHECK(NextSymbolOfAny("PluginAnswer").certain);
  void* plugin = dlopen(Plugin().c_str(), RTLD_NOW | RTLD_LOCAL);
  REQUIRE(plugin != nullptr);

  CHECK(NextSymbol("PluginAnswer").address == nullptr);
  CHECK(NextSymbolOfAny("PluginAnswer").address == dlsym(plugin, "PluginAnswer"));

  dlclose(plugin);
  CHECK(NextSymbolOfAny("PluginAnswer").address == nullptr);
  CHECK(NextSymbolOfAny("close").address == NextSymbol("close").address);
}

TEST_CASE("what another thread unloads meanwhile is not read") {
  std::atomic<bool> done{false};
  std::thread other([&, plugin = Plugin()] {
    for (int i = 0; i < 3000; ++i) {
      if (void* loaded = dlopen(plugin.c_str(), RTLD_NOW)) dlclose(loaded);
    }
    done.store(true);
  });
  int sure = 0, looks = 0;
  for (; !done.load(); ++looks) {
    sure += NextSymbol("write_that_nobody_has").certain;
    sure += NextSymbolOfAny("write_that_nobody_has").certain;
  }
  other.join();
  CHECK(sure == 2 * looks);
}

#if defined(__x86_64__)
TEST_CASE("of several versions it takes the one that programs are linked with today") {
  void* old = dlvsym(RTLD_DEFAULT, "pthread_cond_wait", "GLIBC_2.2.5");
  void* now = dlvsym(RTLD_DEFAULT, "pthread_cond_wait", "GLIBC_2.3.2");
  REQUIRE(old != nullptr);
  REQUIRE(old != now);

  CHECK(NextSymbol("pthread_cond_wait").address == now);
}

TEST_CASE("a function that is chosen by a function is dlsym's to find") { CHECK_FALSE(NextSymbol("memcpy").certain); }
#endif

}  // namespace
}  // namespace heterok8s::heterosock
