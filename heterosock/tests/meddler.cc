#include "heterosock/tests/meddler.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <thread>

#include "heterosock/layout/channel.h"
#include "heterosock/protocol/parse.h"
#include "heterosock/protocol/reasons.h"
#include "heterosock/tests/letter.h"

namespace heterok8s::heterosock::behaviour {
namespace {

using protocol::Type;

constexpr uint32_t kSoonMs = 5;                     // what a refused library is told
constexpr char kVariable[] = "HETEROSOCK_MEDDLED";  // the agent's own path
constexpr char kIntroduction[] = "introduction";
constexpr int kIntroducedMs = 5000;

pid_t PeerOf(int fd) {
  ucred who{};
  socklen_t length = sizeof who;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) == 0 ? who.pid : -1;
}

}  // namespace

class Meddler::Relay {
 public:
  Relay(const std::string& agent, const Fault& fault, std::atomic<uint32_t>& committed, const std::string& path)
      : agent_(agent),
        fault_(fault),
        committed_(committed),
        listener_(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    sockaddr_un address = AddressOf(path);
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(listener_, 16) != 0)
      std::abort();
    thread_ = std::thread([this] { Run(); });
  }
  ~Relay() {
    eventfd_write(stop_, 1);
    thread_.join();
    for (Line& line : lines_) End(line);
    for (const auto& [pid, fd] : introduced_) close(fd);
    close(listener_);
    close(stop_);
  }

 private:
  // One library and its agent; each way its letters, in order.
  struct Line {
    int ends[2] = {-1, -1};  // the library's, the agent's
    std::deque<Letter> to[2];
    bool over = false;
  };

  void Run() {
    while (true) {
      std::vector<pollfd> wait = {{stop_, POLLIN, 0}, {listener_, POLLIN, 0}};
      Clock::time_point now = Clock::now();
      int timeout = -1;
      const auto within = [&](Clock::time_point due) {
        auto ms = std::chrono::ceil<std::chrono::milliseconds>(due - now).count();
        int left = static_cast<int>(std::max<long>(ms, 0));
        timeout = timeout < 0 ? left : std::min(timeout, left);
      };
      if (now < away_until_) {
        wait[1].fd = -1;
        within(away_until_);
      }
      for (Line& line : lines_) {
        for (int end : {0, 1}) {
          const bool now_due = !line.to[end].empty() && line.to[end].front().due <= now;
          if (!line.to[end].empty() && !now_due) within(line.to[end].front().due);
          wait.push_back({line.ends[end], static_cast<short>(now_due ? POLLIN | POLLOUT : POLLIN), 0});
        }
      }
      poll(wait.data(), wait.size(), timeout);
      if (wait[0].revents) return;
      for (Line& line : lines_) {
        for (int end : {0, 1}) {
          if (!line.over) Take(line, end);
          if (!line.over) Deliver(line, end);
        }
      }
      lines_.remove_if([this](Line& line) { return line.over && (End(line), true); });
      if (wait[1].revents) Accept();
    }
  }

  void Accept() {
    int library = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (library < 0) return;
    lines_.emplace_back();
    lines_.back().ends[0] = library;
  }

  // The first word of a library: it is given its agent.
  void Begin(Line& line, Letter& letter) {
    const pid_t pid = PeerOf(line.ends[0]);
    if (letter.bytes == kIntroduction && letter.descriptors.size() == 1) {
      if (auto known = introduced_.find(pid); known != introduced_.end()) close(known->second);
      introduced_[pid] = letter.descriptors[0];
      line.over = true;
      return;
    }
    auto known = introduced_.find(pid);
    line.ends[1] = known != introduced_.end() ? known->second : Connect(agent_);
    if (known != introduced_.end()) introduced_.erase(known);
    if (line.ends[1] >= 0) return;
    letter.Discard();
    line.over = true;
  }

  void End(Line& line) {
    for (int end : {0, 1}) {
      for (Letter& letter : line.to[end]) letter.Discard();
      if (line.ends[end] >= 0) close(line.ends[end]);
    }
  }

  // The agent is dead: for everybody, and nobody listens for a while.
  void Die() {
    for (Line& line : lines_) line.over = true;
    away_until_ = Clock::now() + std::chrono::milliseconds(kComebackMs);
  }

  void Take(Line& line, int from) {
    Letter letter;
    bool gone = false;
    while (!line.over && line.ends[from] >= 0 && Read(line.ends[from], &letter, &gone)) {
      if (line.ends[1] < 0) Begin(line, letter);
      if (line.over) break;
      letter.due = Clock::now();
      if (!line.to[1 - from].empty()) letter.due = std::max(letter.due, line.to[1 - from].back().due);
      Forward(line, 1 - from, std::move(letter));
      letter = Letter();
    }
    // What was said before the end is delivered, as the kernel does.
    if (gone) {
      Deliver(line, 1 - from);
      line.over = true;
    }
  }

  void Deliver(Line& line, int to) {
    while (line.ends[to] >= 0 && !line.to[to].empty() && line.to[to].front().due <= Clock::now() &&
           Write(line.ends[to], line.to[to].front()))
      line.to[to].pop_front();
  }

  void Forward(Line& line, int to, Letter letter) {
    const uint16_t type = protocol::TypeOf(letter.bytes.data(), letter.bytes.size());
    if (type != static_cast<uint16_t>(fault_.at) || (++seen_ != fault_.which && fault_.which != 0)) {
      line.to[to].push_back(std::move(letter));
      return;
    }
    committed_.store(1);
    const Clock::time_point due = letter.due, late = due + std::chrono::milliseconds(kLateMs);
    switch (fault_.misdeed) {
      case Misdeed::kLose:
        return letter.Discard();
      case Misdeed::kLate:
        letter.due = late;
        break;
      case Misdeed::kCut:
        letter.Discard();
        return Die();
      case Misdeed::kCutAfter:
        line.to[to].push_back(std::move(letter));
        Deliver(line, to);
        return Die();
      case Misdeed::kTwice:
        line.to[to].push_back({letter.bytes, Copies(letter.descriptors), due});
        break;
      case Misdeed::kNoDescriptors:
        letter.Discard();
        break;
      case Misdeed::kUnsealed:
        Unseal(letter);
        break;
      case Misdeed::kOldMemory:
        MakeOld(letter);
        break;
      case Misdeed::kOldLayout:
        Rewrite<protocol::Hello>(letter, [](auto& hello) { --hello.layout_version; });
        break;
      case Misdeed::kOldProtocol:
        Rewrite<protocol::Hello>(letter, [](auto& hello) { hello.version_min = hello.version_max = 0x7fff; });
        break;
      case Misdeed::kRefuse: {
        auto refused = protocol::Make<protocol::Refused>();
        refused.reason = static_cast<uint32_t>(protocol::Reason::kTooManyProcesses);
        refused.version_min = refused.version_max = protocol::kVersion;
        refused.retry_after_ms = kSoonMs;
        letter = LetterOf(refused, due);
        break;
      }
      case Misdeed::kDecline:
        Decline(line, to, letter);
        break;
      case Misdeed::kFence:
      case Misdeed::kFenceLate: {
        line.to[to].push_back(std::move(letter));
        auto fence = protocol::Make<protocol::Fence>();
        fence.reason = static_cast<uint32_t>(protocol::Reason::kOperator);
        line.to[0].push_back(LetterOf(fence, fault_.misdeed == Misdeed::kFence ? due : late));
        return;
      }
    }
    line.to[to].push_back(std::move(letter));
  }

  template <typename T, typename Change>
  static void Rewrite(Letter& letter, Change&& change) {
    T message;
    std::memcpy(&message, letter.bytes.data(), sizeof message);
    change(message);
    std::memcpy(letter.bytes.data(), &message, sizeof message);
  }

  static std::vector<int> Copies(const std::vector<int>& descriptors) {
    std::vector<int> copies;
    for (int fd : descriptors) copies.push_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    return copies;
  }

  // The memory is PAIRED's first descriptor and RESUME's second.
  static void Unseal(Letter& letter) {
    if (letter.descriptors.empty()) return;
    const bool resume = protocol::TypeOf(letter.bytes.data(), letter.bytes.size()) == static_cast<int>(Type::kResume);
    int& memory = letter.descriptors[resume ? 1 : 0];
    const off_t size = lseek(memory, 0, SEEK_END);
    close(memory);
    memory = memfd_create("hk-unsealed", MFD_CLOEXEC);
    if (ftruncate(memory, size) != 0) std::abort();
  }

  // The other end may have mapped it already, and goes on; this one must not.
  static void MakeOld(Letter& letter) {
    Rewrite<protocol::Paired>(letter, [&](const auto& paired) {
      const uint32_t old = layout::kChannelVersion - 1;
      const auto at = static_cast<off_t>(paired.memory_offset + offsetof(layout::ChannelHeader, version));
      if (letter.descriptors.empty() || pwrite(letter.descriptors[0], &old, sizeof old, at) != sizeof old) std::abort();
    });
  }

  static void Decline(Line& line, int to, Letter& letter) {
    protocol::Paired paired;
    std::memcpy(&paired, letter.bytes.data(), sizeof paired);
    const Clock::time_point due = letter.due;
    letter.Discard();
    auto release = protocol::Make<protocol::Release>();
    release.channel_id = paired.channel_id;
    release.reason = static_cast<uint32_t>(protocol::Reason::kMemory);
    line.to[1 - to].push_back(LetterOf(release, due));
    auto declined = protocol::Make<protocol::Declined>();
    declined.offer_id = paired.offer_id;
    declined.reason = static_cast<uint32_t>(protocol::Reason::kExhausted);
    declined.retry_after_ms = kSoonMs;
    letter = LetterOf(declined, due);
  }

  const std::string agent_;
  const Fault& fault_;
  std::atomic<uint32_t>& committed_;
  const int listener_;
  const int stop_ = eventfd(0, EFD_CLOEXEC);
  std::list<Line> lines_;
  std::map<pid_t, int> introduced_;  // connections to the agent of processes that have not spoken yet
  int seen_ = 0;
  Clock::time_point away_until_{};
  std::thread thread_;
};

Meddler::Meddler(const std::string& agent, const Fault& fault, std::atomic<uint32_t>& committed) : agent_(agent) {
  char name[] = "/tmp/hk-meddler-XXXXXX";
  if (!mkdtemp(name)) std::abort();
  folder_ = name;
  path_ = folder_ + "/agent.sock";
  relay_ = std::make_unique<Relay>(agent, fault, committed, path_);
}

Meddler::~Meddler() {
  relay_.reset();
  unlink(path_.c_str());
  rmdir(folder_.c_str());
}

std::vector<std::string> Meddler::environment() const {
  return {"HETEROSOCK_AGENT=" + path_, std::string(kVariable) + "=" + agent_};
}

void Meddler::Introduce() {
  const char *agent = std::getenv(kVariable), *relay = std::getenv("HETEROSOCK_AGENT");
  if (!agent || !relay) return;
  Letter letter = {kIntroduction, {Connect(agent)}, {}};
  const int to = Connect(relay);
  if (letter.descriptors[0] >= 0 && to >= 0 && Write(to, letter)) {
    pollfd taken{to, POLLIN, 0};
    poll(&taken, 1, kIntroducedMs);  // it hangs up
  }
  letter.Discard();
  close(to);
}

}  // namespace heterok8s::heterosock::behaviour
