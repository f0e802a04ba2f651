#include "heteroctl/lab/supervisor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>

#include "common/sys/file.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"

namespace heterok8s::lab {
namespace {

using std::chrono::seconds;

// A supervisor in a child process, because it reaps every child of its process.
class RunningSupervisor {
 public:
  explicit RunningSupervisor(std::vector<DaemonSpec> daemons) {
    REQUIRE(mkdtemp(folder_.data()) != nullptr);
    auto control = ListenControl(socket());
    REQUIRE_OK(control);
    pid_ = fork();
    if (pid_ == 0) {
      sys::UniqueFd logs(open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      absl::Status ended = Supervisor(std::move(daemons), logs.get(), "t-").Loop(control->get());
      _exit(ended.ok() ? 0 : 1);
    }
  }
  ~RunningSupervisor() {
    if (pid_ > 0) End();
    std::filesystem::remove_all(folder_);
  }

  std::string socket() const { return folder_ + "/control.sock"; }
  std::string Log(const std::string& daemon) const {
    auto text = sys::ReadFile(folder_ + "/t-" + daemon + ".log");
    return text.ok() ? *text : "";
  }
  absl::StatusOr<DaemonState> Do(const ControlRequest& request) {
    HK_ASSIGN_OR_RETURN(std::vector<DaemonState> states, Ask(socket(), request, testing::kPatience));
    return states.at(0);
  }
  // The state once `wanted` holds.
  DaemonState Until(const std::function<bool(const DaemonState&)>& wanted) {
    DaemonState last;
    REQUIRE(testing::Eventually([&] {
      auto state = Do({});
      if (state.ok()) last = *std::move(state);
      return state.ok() && wanted(last);
    }));
    return last;
  }
  int End() {
    kill(pid_, SIGTERM);
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  std::string folder_ = "/tmp/hk-supervisor.XXXXXX";
  pid_t pid_ = -1;
};

// A process by descriptor: its number may be another's when it has ended.
class Process {
 public:
  explicit Process(int pid) : fd_(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))) { REQUIRE(fd_.valid()); }
  bool HasEnded(std::chrono::milliseconds patience) const {
    pollfd ended{.fd = fd_.get(), .events = POLLIN};
    return poll(&ended, 1, static_cast<int>(patience.count())) == 1;
  }

 private:
  sys::UniqueFd fd_;
};

DaemonSpec Sleeper() { return {.name = "d", .argv = {"sleep", "1000"}, .env = {}}; }

TEST_CASE("a daemon that is killed runs again as another process") {
  RunningSupervisor supervisor({Sleeper()});
  const int first = supervisor.Until([](const auto& s) { return s.pid > 0; }).pid;

  auto killed = supervisor.Do({.act = "kill", .daemon = "d", .signal = SIGKILL});

  REQUIRE_OK(killed);
  CHECK(killed->last_end == "signal 9");
  const DaemonState again = supervisor.Until([](const auto& s) { return s.starts == 2 && s.pid > 0; });
  CHECK(again.pid != first);
}

TEST_CASE("a daemon that is killed and held stays dead until it is started") {
  RunningSupervisor supervisor({Sleeper()});
  supervisor.Until([](const auto& s) { return s.pid > 0; });

  auto killed = supervisor.Do({.act = "kill", .daemon = "d", .signal = SIGKILL, .hold = true});
  REQUIRE_OK(killed);
  CHECK(killed->pid == -1);
  CHECK(killed->held);

  auto started = supervisor.Do({.act = "start", .daemon = "d"});
  REQUIRE_OK(started);
  CHECK(started->pid > 0);
  CHECK(started->starts == 2);
}

TEST_CASE("stop answers when the daemon has ended") {
  RunningSupervisor supervisor({Sleeper()});
  const Process daemon(supervisor.Until([](const auto& s) { return s.pid > 0; }).pid);

  auto stopped = supervisor.Do({.act = "stop", .daemon = "d"});

  REQUIRE_OK(stopped);
  CHECK(stopped->held);
  CHECK(daemon.HasEnded(std::chrono::milliseconds(0)));
}

TEST_CASE("what a daemon prints and why it ended are in its log") {
  RunningSupervisor supervisor(
      {DaemonSpec{.name = "d", .argv = {"sh", "-c", "echo word=$WORD; exit 3"}, .env = {"WORD=hello"}}});

  supervisor.Until([](const auto& s) { return s.starts >= 2; });

  CHECK_THAT(supervisor.Log("d"), Catch::Contains("word=hello"));
  CHECK_THAT(supervisor.Log("d"), Catch::Contains("d ended (exit 3), starting it again"));
}

TEST_CASE("a program that is missing is tried again and reported") {
  RunningSupervisor supervisor({DaemonSpec{.name = "d", .argv = {"/nonexistent/program"}, .env = {}}});

  const DaemonState state = supervisor.Until([](const auto& s) { return s.starts >= 2; });

  CHECK_THAT(state.last_end, Catch::Contains("No such file"));
}

TEST_CASE("at SIGTERM the daemons end, those that ignore it too") {
  RunningSupervisor supervisor(
      {DaemonSpec{.name = "d", .argv = {"sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"}, .env = {}}});
  const Process daemon(supervisor.Until([&](const auto& s) { return s.pid > 0 && supervisor.Log("d") == "up\n"; }).pid);

  CHECK(supervisor.End() == 0);

  CHECK(daemon.HasEnded(testing::kPatience));
}

TEST_CASE("an unknown daemon and an unknown act are refused by name") {
  RunningSupervisor supervisor({Sleeper()});
  supervisor.Until([](const auto& s) { return s.pid > 0; });

  CHECK_THAT(supervisor.Do({.act = "stop", .daemon = "x"}).status(), testing::Says("no daemon 'x' here; there are: d"));
  CHECK_THAT(supervisor.Do({.act = "fly", .daemon = "d"}).status(), testing::Says("unknown act 'fly'"));
}

TEST_CASE("a client that connects and says nothing does not hold the supervisor") {
  RunningSupervisor supervisor({Sleeper()});
  supervisor.Until([](const auto& s) { return s.pid > 0; });
  sys::UniqueFd silent(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  supervisor.socket().copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(connect(silent.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);

  CHECK_OK(supervisor.Do({}));
}

TEST_CASE("a signal that is no whole number is refused and reaches no process") {
  RunningSupervisor supervisor({Sleeper()});
  const int pid = supervisor.Until([](const auto& s) { return s.pid > 0; }).pid;
  sys::UniqueFd asker(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  supervisor.socket().copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(connect(asker.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  const std::string request = R"({"act":"kill","daemon":"d","signal":9.5,"hold":true,"env":[]})";
  REQUIRE(send(asker.get(), request.data(), request.size(), 0) == static_cast<ssize_t>(request.size()));

  std::string answer(4096, '\0');
  answer.resize(static_cast<size_t>(std::max<ssize_t>(recv(asker.get(), answer.data(), answer.size(), 0), 0)));
  CHECK(answer.find("'signal' must be a whole number") != std::string::npos);
  auto state = supervisor.Do({});
  REQUIRE_OK(state);
  CHECK(state->pid == pid);
}

TEST_CASE("nobody at the socket is an error of its own") {
  CHECK_THAT(Ask("/nonexistent/control.sock", {}, seconds(1)).status(),
             testing::HasCode(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace heterok8s::lab
