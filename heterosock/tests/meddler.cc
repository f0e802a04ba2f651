#include "heterosock/tests/meddler.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <list>
#include <thread>

#include "heterosock/layout/channel.h"
#include "heterosock/protocol/parse.h"
#include "heterosock/protocol/reasons.h"

namespace heterok8s::heterosock::behaviour {
namespace {

using Clock = std::chrono::steady_clock;
using protocol::Type;

constexpr uint32_t kSoonMs = 5;  // what a refused library is told

struct Letter {
  std::string bytes;
  std::vector<int> descriptors;
  Clock::time_point due;  // not before

  void Discard() {
    for (int fd : descriptors) close(fd);
    descriptors.clear();
  }
};

// False: nothing there (yet), or, with `gone`, never again.
bool Read(int from, Letter* letter, bool* gone) {
  char bytes[protocol::kMaxMessageBytes];
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * protocol::kMaxDescriptors)];
  iovec part{bytes, sizeof bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n = recvmsg(from, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  *gone = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
  if (n <= 0) return false;
  letter->bytes.assign(bytes, static_cast<size_t>(n));
  for (cmsghdr* each = CMSG_FIRSTHDR(&message); each; each = CMSG_NXTHDR(&message, each)) {
    if (each->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    letter->descriptors.resize(count);
    std::memcpy(letter->descriptors.data(), CMSG_DATA(each), count * sizeof(int));
  }
  return true;
}

// False: there is no room now.
bool Write(int to, Letter& letter) {
  iovec part{letter.bytes.data(), letter.bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * protocol::kMaxDescriptors)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!letter.descriptors.empty()) {
    size_t size = letter.descriptors.size() * sizeof(int);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(size);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(size);
    std::memcpy(CMSG_DATA(header), letter.descriptors.data(), size);
  }
  if (sendmsg(to, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && (errno == EAGAIN || errno == ENOBUFS)) return false;
  letter.Discard();  // one that is gone hears nothing; reading tells us
  return true;
}

template <typename T>
Letter LetterOf(const T& message, Clock::time_point due) {
  return {std::string(reinterpret_cast<const char*>(&message), sizeof message), {}, due};
}

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  return address;
}

}  // namespace

const std::vector<Fault>& Faults() {
  static const std::vector<Fault> all = {
      {"an older layout, one end", Type::kHello, Misdeed::kOldLayout, 1},
      {"an older layout, the other end", Type::kHello, Misdeed::kOldLayout, 2},
      {"an older layout, both", Type::kHello, Misdeed::kOldLayout, 0},
      {"another protocol", Type::kHello, Misdeed::kOldProtocol, 1},
      {"HELLO lost", Type::kHello, Misdeed::kLose, 1},
      {"HELLO late", Type::kHello, Misdeed::kLate, 1},
      {"dies at HELLO", Type::kHello, Misdeed::kCut, 1},
      {"WELCOME lost", Type::kWelcome, Misdeed::kLose, 2},
      {"refused", Type::kWelcome, Misdeed::kRefuse, 1},
      {"OFFER lost", Type::kOffer, Misdeed::kLose, 1},
      {"OFFER lost, of the other end", Type::kOffer, Misdeed::kLose, 2},
      {"OFFER late", Type::kOffer, Misdeed::kLate, 1},
      {"OFFER without its socket", Type::kOffer, Misdeed::kNoDescriptors, 1},
      {"dies at the first OFFER", Type::kOffer, Misdeed::kCut, 1},
      {"dies between the OFFERs", Type::kOffer, Misdeed::kCutAfter, 1},
      {"dies at the second OFFER", Type::kOffer, Misdeed::kCut, 2},
      {"PAIRED lost, at one end", Type::kPaired, Misdeed::kLose, 1},
      {"PAIRED lost, at the other end", Type::kPaired, Misdeed::kLose, 2},
      {"PAIRED late, at one end", Type::kPaired, Misdeed::kLate, 1},
      {"PAIRED late, at the other end", Type::kPaired, Misdeed::kLate, 2},
      {"PAIRED without descriptors", Type::kPaired, Misdeed::kNoDescriptors, 1},
      {"PAIRED with memory that could shrink", Type::kPaired, Misdeed::kUnsealed, 1},
      {"PAIRED with memory of another version", Type::kPaired, Misdeed::kOldMemory, 2},
      {"DECLINED instead of PAIRED, at one end", Type::kPaired, Misdeed::kDecline, 2},
      {"dies before PAIRED", Type::kPaired, Misdeed::kCut, 1},
      {"dies between the PAIRED", Type::kPaired, Misdeed::kCutAfter, 1},
      {"dies after both PAIRED", Type::kPaired, Misdeed::kCutAfter, 2},
      {"FENCE behind PAIRED, at one end", Type::kPaired, Misdeed::kFence, 1},
      {"FENCE behind PAIRED, at the other end", Type::kPaired, Misdeed::kFence, 2},
      {"FENCE behind PAIRED, at both", Type::kPaired, Misdeed::kFence, 0},
      {"FENCE while it moves, at one end", Type::kPaired, Misdeed::kFenceLate, 1},
      {"FENCE while it moves, at both", Type::kPaired, Misdeed::kFenceLate, 0},
      {"RELEASE lost", Type::kRelease, Misdeed::kLose, 0},
      {"dies at RELEASE", Type::kRelease, Misdeed::kCut, 1},
  };
  return all;
}

class Meddler::Relay {
 public:
  Relay(const std::string& agent, const Fault& fault, const std::string& path)
      : agent_(agent), fault_(fault), listener_(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    sockaddr_un address = AddressOf(path);
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(listener_, 16) != 0)
      std::abort();
    thread_ = std::thread([this] { Run(); });
  }
  ~Relay() {
    eventfd_write(stop_, 1);
    thread_.join();
    for (Line& line : lines_) End(line);
    close(listener_);
    close(stop_);
  }
  bool committed() const { return committed_; }

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
    int agent = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_un address = AddressOf(agent_);
    if (connect(agent, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      close(library);
      close(agent);
      return;
    }
    lines_.emplace_back();
    lines_.back().ends[0] = library;
    lines_.back().ends[1] = agent;
  }

  void End(Line& line) {
    for (int end : {0, 1}) {
      for (Letter& letter : line.to[end]) letter.Discard();
      close(line.ends[end]);
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
    while (!line.over && Read(line.ends[from], &letter, &gone)) {
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
    while (!line.to[to].empty() && line.to[to].front().due <= Clock::now() && Write(line.ends[to], line.to[to].front()))
      line.to[to].pop_front();
  }

  void Forward(Line& line, int to, Letter letter) {
    const uint16_t type = protocol::TypeOf(letter.bytes.data(), letter.bytes.size());
    if (type != static_cast<uint16_t>(fault_.at) || (++seen_ != fault_.which && fault_.which != 0)) {
      line.to[to].push_back(std::move(letter));
      return;
    }
    committed_ = true;
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
        letter = LetterOf(fence, fault_.misdeed == Misdeed::kFence ? due : late);
        break;
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

  static void Unseal(Letter& letter) {
    if (letter.descriptors.empty()) return;
    close(letter.descriptors[0]);
    letter.descriptors[0] = memfd_create("hk-unsealed", MFD_CLOEXEC);
    Rewrite<protocol::Paired>(letter, [&](const auto& paired) {
      if (ftruncate(letter.descriptors[0], static_cast<off_t>(paired.memory_offset + paired.memory_bytes)) != 0)
        std::abort();
    });
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
  const int listener_;
  const int stop_ = eventfd(0, EFD_CLOEXEC);
  std::list<Line> lines_;
  int seen_ = 0;
  Clock::time_point away_until_{};
  std::atomic<bool> committed_{false};
  std::thread thread_;
};

Meddler::Meddler(const std::string& agent, const Fault& fault) {
  char name[] = "/tmp/hk-meddler-XXXXXX";
  if (!mkdtemp(name)) std::abort();
  folder_ = name;
  path_ = folder_ + "/agent.sock";
  relay_ = std::make_unique<Relay>(agent, fault, path_);
}

Meddler::~Meddler() {
  relay_.reset();
  unlink(path_.c_str());
  rmdir(folder_.c_str());
}

bool Meddler::committed() const { return relay_->committed(); }

}  // namespace heterok8s::heterosock::behaviour
