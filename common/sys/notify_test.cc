#include "common/sys/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "common/sys/unique_fd.h"
#include "common/testing/matchers.h"

namespace heterok8s::sys {
namespace {

using std::chrono::milliseconds;

// What systemd is to a service: a datagram socket by path or by abstract name.
class Manager {
 public:
  explicit Manager(bool abstract) : fd_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    name_ = (abstract ? "@hk-notify-" : "/tmp/hk-notify-") + std::to_string(getpid());
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name_.data(), name_.size());
    if (abstract) address.sun_path[0] = '\0';
    auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name_.size());
    REQUIRE(bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
    setenv("NOTIFY_SOCKET", name_.c_str(), 1);
  }
  ~Manager() {
    unsetenv("NOTIFY_SOCKET");
    if (name_[0] == '/') unlink(name_.c_str());
  }
  std::string Heard() {
    char text[64];
    ssize_t got = recv(fd_.get(), text, sizeof(text), 0);
    return got < 0 ? "" : std::string(text, static_cast<size_t>(got));
  }

 private:
  UniqueFd fd_;
  std::string name_;
};

TEST_CASE("what a service says arrives, by path and by abstract name") {
  Manager manager(GENERATE(false, true));
  CHECK(NotifyReady());
  CHECK(manager.Heard() == "READY=1");
  CHECK(NotifyAlive());
  CHECK(manager.Heard() == "WATCHDOG=1");
}

TEST_CASE("without systemd, or with one that has gone, nothing is said and nothing waits") {
  unsetenv("NOTIFY_SOCKET");
  CHECK(!NotifyReady());
  setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1);
  CHECK(!NotifyReady());
  unsetenv("NOTIFY_SOCKET");
}

TEST_CASE("the watchdog's time shortens the sleep, when it is meant for this process") {
  unsetenv("WATCHDOG_PID");
  CHECK(WatchdogPeriod(milliseconds(10000)) == milliseconds(10000));
  setenv("WATCHDOG_USEC", "6000000", 1);
  CHECK(WatchdogPeriod(milliseconds(10000)) == milliseconds(2000));
  CHECK(WatchdogPeriod(milliseconds(1000)) == milliseconds(1000));
  setenv("WATCHDOG_PID", "1", 1);
  CHECK(WatchdogPeriod(milliseconds(10000)) == milliseconds(10000));
  unsetenv("WATCHDOG_PID");
  unsetenv("WATCHDOG_USEC");
}

}  // namespace
}  // namespace heterok8s::sys
