// What libheterosock.so, and the one for musl, ask of the programs that they are preloaded into, read from the files:
// no libstdc++, no symbol of a glibc newer than 2.31, and no name of their own but those of heterosock.map.
#include <dlfcn.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <string>

#include "heterosock/lib/own_calls.h"
#include "heterosock/tests/agent.h"
#include "heterosock/tests/elf.h"

namespace heterok8s::heterosock {
namespace {

using behaviour::Contents;
using behaviour::Elf;

const std::string kForGlibc = "libheterosock.so";
const std::string kForMusl = "musl/libheterosock.so";

Elf Library(const std::string& name) {
  const std::string path = behaviour::BesideThisProgram(name);
  CAPTURE(name);
  REQUIRE_FALSE(path.empty());
  return Elf(Contents(path));
}

Elf Glibc() {
  Dl_info libc{};
  REQUIRE(dladdr(reinterpret_cast<void*>(&getpid), &libc) != 0);
  return Elf(Contents(libc.dli_fname));
}

Elf Musl() {
  utsname kernel{};
  REQUIRE(uname(&kernel) == 0);
  return Elf(Contents(std::string("/lib/ld-musl-") + kernel.machine + ".so.1"));
}

TEST_CASE("the library needs libc alone, and none newer than glibc 2.31") {
  const Elf library = Library(kForGlibc);

  std::set<std::string> needed = library.Needed();
  std::erase_if(needed,
                [](const std::string& name) { return name.rfind("ld-linux", 0) == 0; });  // every process has it
  CHECK(needed == std::set<std::string>{"libc.so.6"});
  const std::set<std::string> versions = library.Versions();
  CHECK_FALSE(versions.empty());
  for (const std::string& version : versions) {
    CAPTURE(version);
    std::smatch number;
    REQUIRE(std::regex_match(version, number, std::regex(R"(GLIBC_2\.(\d+)(\.\d+)?)")));
    CHECK(std::stoi(number[1]) <= 31);
  }
}

// It is preloaded into programs of either, and named by version it would be glibc's.
TEST_CASE("musl's library needs nothing by name, and asks only for what both libcs have") {
  const Elf library = Library(kForMusl);
  const std::set<std::string> musl = Musl().Exported(), glibc = Glibc().Exported();

  CHECK(library.Needed().empty());
  CHECK(library.Versions().empty());
  CHECK_FALSE(library.Imported().empty());
  for (const std::string& name : library.Imported()) {
    CAPTURE(name);
    CHECK((musl.count(name) != 0 && glibc.count(name) != 0));
  }
}

TEST_CASE("the library exports what its map lists, and nothing else") {
  const std::string library = GENERATE(kForGlibc, kForMusl);
  const std::string map = std::regex_replace(Contents("heterosock/lib/heterosock.map"), std::regex("#[^\n]*"), "");
  std::set<std::string> listed;
  const std::regex name(R"((\w+);)");
  for (auto at = std::sregex_iterator(map.begin(), map.end(), name); at != std::sregex_iterator(); ++at)
    listed.insert((*at)[1]);

  CHECK(listed.size() > 100);
  CAPTURE(library);
  CHECK(Library(library).Exported() == listed);
}

// They are not for programs, but libraries of the same libc jump to them: libpthread's fork before glibc 2.34 is a jump
// to
// __libc_fork, and for whoever looks up "fork" behind the library that would be the library again.
TEST_CASE("the library exports no name that the libraries of a libc keep for each other") {
  const std::string library = GENERATE(kForGlibc, kForMusl);

  for (const std::string& name : Library(library).Exported()) CHECK(name.rfind("__libc_", 0) != 0);
}

// Calls that move bytes, wait, make, copy or close descriptors, or start processes, and that the library leaves to
// libc.
const std::map<std::string, std::string> kNotHooked = {
    {"bind", "the kernel's socket answers"},
    {"getsockname", "the kernel's socket answers"},
    {"getpeername", "the kernel's socket answers"},
    {"isfdtype", "the kernel's socket answers"},
    {"tee", "takes no socket: EINVAL"},
    {"vmsplice", "takes no socket: EBADF"},
    {"copy_file_range", "takes no socket: EINVAL"},
    {"pread", "of a socket: ESPIPE"},
    {"pread64", "of a socket: ESPIPE"},
    {"__pread64", "of a socket: ESPIPE"},
    {"__pread_chk", "of a socket: ESPIPE"},
    {"__pread64_chk", "of a socket: ESPIPE"},
    {"preadv", "of a socket: ESPIPE"},
    {"preadv64", "of a socket: ESPIPE"},
    {"pwrite", "of a socket: ESPIPE"},
    {"pwrite64", "of a socket: ESPIPE"},
    {"__pwrite64", "of a socket: ESPIPE"},
    {"pwritev", "of a socket: ESPIPE"},
    {"pwritev64", "of a socket: ESPIPE"},
    {"sigaction", "for a mode alone that interrupts the program; a wait asks for the action when it needs it"},
    {"__sigaction", "as sigaction"},
    {"signal", "as sigaction"},
    {"pthread_sigmask", "as sigaction"},
    {"posix_spawn_file_actions_addopen", "opens by name, which no socket has"},
    {"posix_spawn_file_actions_addclose", "the new program has one descriptor less"},
    {"posix_spawn_file_actions_addclosefrom_np", "the new program has fewer descriptors"},
    {"posix_spawn_file_actions_addchdir_np", "is about a folder"},
    {"posix_spawn_file_actions_addfchdir_np", "is about a folder"},
    {"posix_spawn_file_actions_addtcsetpgrp_np", "is about a terminal"},
    {"backtrace_symbols_fd", "writes inside libc, beside the ring: named in README"},
    {"__backtrace_symbols_fd", "as backtrace_symbols_fd"},
    {"svcfd_create", "reads and writes inside libc, for old programs: named in README"},
    {"clnttcp_create", "reads and writes inside libc, for old programs: named in README"},
    {"wordexp", "starts a shell inside libc: named in README"},
    {"__libc_fcntl64", "libc's libraries keep it for each other"},
    {"__libc_fork", "libc's libraries keep it for each other"},
    {"__libc_pread", "libc's libraries keep it for each other"},
    {"__libc_pwrite", "libc's libraries keep it for each other"},
    {"__libc_sigaction", "libc's libraries keep it for each other"},
    {"__libc_system", "libc's libraries keep it for each other"},
    {"__open_nocancel", "libc's libraries keep it for each other"},
    {"__open64_nocancel", "libc's libraries keep it for each other"},
    {"__pread64_nocancel", "libc's libraries keep it for each other"},
    {"__recv", "libc's libraries keep it for each other"},
    {"__res_iclose",
     "libc's libraries keep it for each other; it closes sockets of the resolver, which are libc's own"},
    {"__socket", "libc's libraries keep it for each other"},
    {"__write_nocancel", "libc's libraries keep it for each other"},
};

// What a library in front of libc must know of, whatever this libc has.
const char* const kMustKnow[] = {
    "socket",
    "socketpair",
    "bind",
    "listen",
    "accept",
    "accept4",
    "connect",
    "shutdown",
    "getsockname",
    "getpeername",
    "getsockopt",
    "setsockopt",
    "close",
    "close_range",
    "closefrom",
    "dup",
    "dup2",
    "dup3",
    "fcntl",
    "fcntl64",
    "ioctl",
    "read",
    "readv",
    "preadv2",
    "preadv64v2",
    "write",
    "writev",
    "pwritev2",
    "pwritev64v2",
    "recv",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    "send",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "__read_chk",
    "__recv_chk",
    "__recvfrom_chk",
    "sendfile",
    "sendfile64",
    "splice",
    "tee",
    "vmsplice",
    "copy_file_range",
    "poll",
    "ppoll",
    "select",
    "pselect",
    "__poll_chk",
    "__ppoll_chk",
    "epoll_create",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "fork",
    "_Fork",
    "vfork",
    "clone",
    "daemon",
    "posix_spawn",
    "posix_spawnp",
    "pidfd_spawn",
    "pidfd_spawnp",
    "posix_spawn_file_actions_adddup2",
    "execve",
    "execv",
    "execvp",
    "execvpe",
    "fexecve",
    "execveat",
    "execl",
    "execlp",
    "execle",
    "system",
    "popen",
    "fdopen",
    "freopen",
    "freopen64",
    "dprintf",
    "vdprintf",
    "__dprintf_chk",
    "__vdprintf_chk",
    "isfdtype",
    "sockatmark",
    "sigaction",
    "signal",
    "pthread_sigmask",
    "syscall",
    "__read",
    "__write",
    "__close",
    "__connect",
    "__send",
    "__sendmmsg",
    "__poll",
    "__select",
    "__fcntl",
    "__dup2",
    "__fork",
    "__libc_fork",
    "__vfork",
    "__close_nocancel",
    "__read_nocancel",
    "__res_iclose",
};

// Their families, by which this libc's own list is read: what another libc adds must be looked at.
const char* const kFamilies =
    R"(_{0,2}(libc_)?()"
    R"(p?(read|write)[v0-9]*|recv(from|m?msg)?|send(to|m?msg|file(64)?)?|splice|tee|vmsplice|copy_file_range|)"
    R"(p?poll|p?select|epoll_\w+|accept4?|connect|shutdown|listen|bind|socket(pair)?|[gs]etsockopt|getsockname|)"
    R"(getpeername|isfdtype|sockatmark|close(from|_range)?|dup[23]?|fcntl(64)?|ioctl|open(at)?(64)?|creat(64)?|pipe2?|)"
    R"(eventfd|timerfd_create|signalfd|inotify_init1?|memfd_create|v?fork|forkpty|Fork|clone[0-9]?|daemon|)"
    R"(f?exec(v|l)\w*|(posix|pidfd)_spawnp?|posix_spawn_file_actions_\w+|system|popen|fdopen|freopen(64)?|v?dprintf|syscall|)"
    R"(prctl|sigaction|signal|pthread_sigmask|res_iclose|aio_(read|write)(64)?|lio_listio(64)?|)"
    R"(backtrace_symbols_fd|svcfd_create|clnttcp_create|wordexp)"
    R"()(_chk|_nocancel|_2)?)";

TEST_CASE("what the library does not take over of libc's calls has a reason") {
  const std::string library = GENERATE(kForGlibc, kForMusl);
  const std::set<std::string> hooked = Library(library).Exported();

  std::set<std::string> known(std::begin(kMustKnow), std::end(kMustKnow));
  const size_t must = known.size();
  const std::regex family(kFamilies);
  for (const std::string& name : (library == kForGlibc ? Glibc() : Musl()).Exported()) {
    if (std::regex_match(name, family)) known.insert(name);
  }

  CHECK(known.size() > must);
  for (const std::string& name : known) {
    CAPTURE(library, name);
    CHECK((hooked.count(name) != 0) != (kNotHooked.count(name) != 0));
  }
  for (const auto& [name, reason] : kNotHooked) {
    CAPTURE(name, reason);
    CHECK((std::regex_match(name, family) && hooked.count(name) == 0));
  }
}

// Whoever adds a function here has looked which system calls it makes.
TEST_CASE("what the library calls of libc makes no other system call") {
  const std::string library = GENERATE(kForGlibc, kForMusl);
  const std::set<std::string> none = {"__cxa_finalize",
                                      "__errno_location",
                                      "__libc_current_sigrtmax",
                                      "__sched_cpucount",
                                      "_r_debug",
                                      "clearerr",
                                      "dl_iterate_phdr",
                                      "dlsym",
                                      "environ",
                                      "fileno",
                                      "getenv",
                                      "getpagesize",
                                      "gnu_get_libc_version",
                                      "memcpy",
                                      "memset",
                                      "ntohl",
                                      "secure_getenv",
                                      "snprintf",
                                      "strchr",
                                      "strcmp",
                                      "strlen",
                                      "strncmp",
                                      "strtol",
                                      "strtoull",
                                      "vsnprintf"};
  // Of fdopen, freopen and dprintf, whose own libc functions make them too.
  const std::set<std::string> programs = {"fflush", "fopencookie", "free", "vasprintf"};
#define HETEROSOCK_NAME(name) #name,
  const std::set<std::string> calls = {HETEROSOCK_OWN_CALLS(HETEROSOCK_NAME)};
#undef HETEROSOCK_NAME

  for (const std::string& name : Library(library).Imported()) {
    CAPTURE(library, name);
    CHECK((none.contains(name) || programs.contains(name) || calls.contains(name)));
  }
}

}  // namespace
}  // namespace heterok8s::heterosock
