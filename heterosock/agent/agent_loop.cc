// Descriptors and time: the only place that waits.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "heterosock/agent/agent_impl.h"
#include "heterosock/protocol/parse.h"

namespace heterok8s::heterosock::agent {
namespace {

using Clock = std::chrono::steady_clock;

// What an event is about: small numbers are listeners and such, others sessions or, with the high bit, admin clients.
enum Tag : uint64_t { kListener = 2, kAdminListener = 3, kPuListener = 4, kWake = 5 };
constexpr uint64_t kAdminBit = uint64_t{1} << 63;

constexpr int kPacketsPerTurn = 16;       // of one session, so that nobody starves the others
constexpr std::chrono::seconds kTidy{1};  // how long after its last use a namespace is let go
constexpr size_t kMaxAdminClients = 64;

constexpr int kNumberShift = 64 - 48;  // channel numbers stay whole in JSON, where 2^53 is the end

uint64_t RandomNonZero() {
  uint64_t value = 0;
  while (value == 0) {
    if (getrandom(&value, sizeof value, 0) != sizeof value) value = 0;
  }
  return value;
}

}  // namespace

Agent::Impl::Impl(Options options)
    : options_(std::move(options)),
      policy_(std::move(options_.policy)),
      epoch_(RandomNonZero()),
      pairing_([this](const Domain& a, const Domain& b) { return policy_.Allows(a, b); }, options_.believe_addresses),
      credits_(options_.credits),
      next_channel_(RandomNonZero() >> kNumberShift | 1) {}

absl::Status Agent::Impl::Open() {
  // Channels of 10,000 connections are as many descriptors.
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  reserve_.reset(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!epoll_.valid() || !wake_.valid()) return ErrnoToStatus(errno, "make an event loop");
  Watch(wake_.get(), kWake, EPOLLIN);
  // The socket comes last in the eyes of whoever waits for it: what else can fail has not.
  if (!options_.admin.empty()) {
    HK_ASSIGN_OR_RETURN(admin_listener_, ListenPackets(options_.admin, SOCK_STREAM, 0600));
    Watch(admin_listener_.get(), kAdminListener, EPOLLIN);
  }
  if (!options_.pu_listen.empty()) {
    HK_ASSIGN_OR_RETURN(pu_listener_, ListenPackets(options_.pu_listen, SOCK_SEQPACKET, 0600));
    Watch(pu_listener_.get(), kPuListener, EPOLLIN);
  }
  // Processes of any user may offer; what they get is decided by what they offer.
  HK_ASSIGN_OR_RETURN(listener_, ListenPackets(options_.socket, SOCK_SEQPACKET, 0666));
  Watch(listener_.get(), kListener, EPOLLIN);
  return absl::OkStatus();
}

void Agent::Impl::Watch(int fd, uint64_t tag, uint32_t events, bool change) {
  epoll_event event{.events = events, .data = {.u64 = tag}};
  epoll_ctl(epoll_.get(), change ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
}

int Agent::Impl::TimeoutMs() const {
  std::optional<Clock::time_point> next = pairing_.NextDeadline();
  const auto earlier = [&](Clock::time_point when) { next = next ? std::min(*next, when) : when; };
  if (inspector_.namespaces() != 0) earlier(Clock::now() + kTidy);
  if (brings_offers() && link_ == nullptr) earlier(next_connect_);
  if (!later_.empty()) earlier(retry_at_);
  if (looking_) return 0;
  if (!next) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*next - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60000));
}

absl::Status Agent::Impl::Run() {
  epoll_event events[64];
  while (true) {
    RunTasks();
    if (stopping_) return absl::OkStatus();
    TendLink();
    const int count = epoll_wait(epoll_.get(), events, std::size(events), TimeoutMs());
    if (count < 0 && errno != EINTR) return ErrnoToStatus(errno, "wait for events");
    for (int i = 0; i < count; ++i) {
      const uint64_t tag = events[i].data.u64;
      switch (tag) {
        case kListener:
          Accept();
          break;
        case kAdminListener:
          AcceptAdmin();
          break;
        case kPuListener: {
          sys::UniqueFd fd = AcceptFrom(pu_listener_.get());
          if (!fd.valid()) break;
          absl::StatusOr<std::unique_ptr<PuLink>> link = AcceptUnixPuLink(std::move(fd), options_.pu_listen);
          if (link.ok()) {
            SetLink(*std::move(link));
          } else {
            spdlog::warn("the other PU's agent was not accepted: {}", Message(link.status()));
          }
          break;
        }
        case kWake: {
          eventfd_t ignored;
          eventfd_read(wake_.get(), &ignored);
          break;
        }
        case kLinkTag:
          OnLink(events[i].events);
          break;
        default:
          if ((tag & kAdminBit) != 0) {
            OnAdmin(tag, events[i].events);
          } else {
            OnSession(tag, events[i].events);
          }
      }
      while (!doomed_.empty()) Close(doomed_.begin()->first, doomed_.begin()->second);
    }
    Handle(pairing_.Expire(Clock::now()));
    inspector_.Tidy();
    if (looking_) LookOn();
    if (!later_.empty() && Clock::now() >= retry_at_) TryAgain();
    while (!doomed_.empty()) Close(doomed_.begin()->first, doomed_.begin()->second);
  }
}

void Agent::Impl::Wake() { eventfd_write(wake_.get(), 1); }

// What strangers can cause as often as they like is logged ten times in ten seconds; the counters have it all.
bool Agent::Impl::MayLog() {
  constexpr std::chrono::seconds kWindow{10};
  constexpr int kLines = 10;
  const Clock::time_point now = Clock::now();
  if (now - log_window_ > kWindow) {
    log_window_ = now;
    logged_ = 0;
  }
  return ++logged_ <= kLines;
}

void Agent::Impl::RunTasks() {
  std::deque<std::function<void(Agent&)>> tasks;
  {
    std::lock_guard lock(tasks_mutex_);
    tasks.swap(tasks_);
  }
  for (auto& task : tasks) task(*self_);
}

// Out of descriptors, a connection that nobody accepts would wake the loop for ever: it is turned away.
sys::UniqueFd Agent::Impl::AcceptFrom(int listener) {
  sys::UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd.valid() || (errno != EMFILE && errno != ENFILE)) return fd;
  reserve_.reset();
  fd.reset(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd.valid()) {
    ++counters_.refused;
    if (MayLog())
      spdlog::error("no descriptors left: a process was turned away; its connections stay on TCP until it tries again");
    // Its cgroup is in a file, for which there is no descriptor.
    const std::string whose = fmt::format("user {}", UserOfPeer(fd.get()));
    closer_.Close(std::move(fd), whose);
  }
  reserve_.reset(open("/dev/null", O_RDONLY | O_CLOEXEC));
  // Until it is closed there is no reserve, and nothing to do for those that wait to be accepted.
  if (!reserve_.valid()) poll(nullptr, 0, 1);
  return {};
}

void Agent::Impl::Accept() {
  sys::UniqueFd fd = AcceptFrom(listener_.get());
  if (!fd.valid()) return;
  const uint64_t id = next_session_++;
  Session session{.id = id, .fd = std::move(fd)};
  session.who = IdentifyPeer(session.fd.get());
  session.pidfd = PidFdOfPeer(session.fd.get());
  session.credit_key = CreditKey({.pod_uid = session.who.pod_uid, .cgroup = session.who.cgroup});
  const auto others = sessions_of_.find(session.credit_key);
  const uint32_t processes = others == sessions_of_.end() ? 0 : others->second;
  if (processes >= options_.max_processes || closer_.Saturated(session.credit_key) ||
      (processes == 0 && closer_.Full())) {
    ++counters_.refused;
    protocol::Refused refused = protocol::Make<protocol::Refused>();
    refused.reason = static_cast<uint32_t>(Reason::kTooManyProcesses);
    refused.version_min = refused.version_max = protocol::kVersion;
    refused.retry_after_ms = 10000;
    SendMessage(session, refused);
    closer_.Close(std::move(session.fd), session.credit_key);  // it may have sent something already
    return;
  }
  ++sessions_of_[session.credit_key];
  ++counters_.sessions;
  Watch(session.fd.get(), id, EPOLLIN);
  sessions_.emplace(id, std::move(session));
}

void Agent::Impl::AcceptAdmin() {
  sys::UniqueFd fd = AcceptFrom(admin_listener_.get());
  if (!fd.valid()) return;
  const ProcessIdentity who = IdentifyPeer(fd.get());
  if (!MayAdminister(who, own_) || admins_.size() >= kMaxAdminClients) {
    constexpr char kNo[] = "{\"error\": \"a container of a Pod, or too many at once, is not served\"}\n";
    send(fd.get(), kNo, sizeof kNo - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    const std::string whose = CreditKey({.pod_uid = who.pod_uid, .cgroup = who.cgroup});
    closer_.Close(std::move(fd), whose);
    return;
  }
  const uint64_t id = kAdminBit | next_session_++;
  Watch(fd.get(), id, EPOLLIN);
  admins_[id].fd = std::move(fd);
}

void Agent::Impl::OnSession(uint64_t id, uint32_t events) {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Session& session = found->second;
  if ((events & EPOLLOUT) != 0 && !Flush(session)) return Close(id, nullptr);
  Packet packet;
  for (int i = 0; i < kPacketsPerTurn; ++i) {
    switch (ReceivePacket(session.fd.get(), packet, protocol::kMaxMessageBytes, protocol::kMaxDescriptors)) {
      case Received::kNothing:
        return;
      case Received::kGone:
        return Close(id, nullptr);
      case Received::kBroken:
        ++counters_.malformed;
        return Close(id, "it sent a packet that is no message");
      case Received::kStarved:
        return Close(id, "no descriptors are left for what it sends");
      case Received::kPacket:
        break;
    }
    const bool good = Dispatch(session, packet);
    // Whatever a handler did not take is still a stranger's descriptor.
    for (sys::UniqueFd& fd : packet.descriptors) {
      if (fd.valid()) closer_.Close(std::move(fd), session.credit_key);
    }
    if (good) continue;
    ++counters_.malformed;
    return Close(id, "it broke the protocol");
  }
}

bool Agent::Impl::Dispatch(Session& session, Packet& packet) {
  const uint16_t type = protocol::TypeOf(packet.bytes.data(), packet.bytes.size());
  if (type == static_cast<uint16_t>(protocol::Type::kHello)) return !session.welcomed && OnHello(session, packet);
  if (!session.welcomed) return false;
  switch (static_cast<protocol::Type>(type)) {
    case protocol::Type::kOffer:
      return OnOffer(session, packet);
    case protocol::Type::kWithdraw:
      return OnWithdraw(session, packet);
    case protocol::Type::kRelease:
      return OnRelease(session, packet);
    case protocol::Type::kResume:
      return OnResume(session, packet);
    case protocol::Type::kHandBack:
      return OnHandBack(session, packet);
    default:
      return false;
  }
}

void Agent::Impl::Close(uint64_t id, const char* why) {
  doomed_.erase(id);
  later_.erase(id);
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Session& session = found->second;
  if (why != nullptr && MayLog())
    spdlog::warn("library of {} (pid {}) is dropped: {}", session.who.command, session.who.pid, why);
  for (const Offer& offer : pairing_.RemoveSession(id)) {
    if (brought_.erase(offer.name) != 0) SendToPu(PuWithdraw{offer.name});
  }
  const std::set<ChannelKey> channels = session.channels;
  for (const ChannelKey& key : channels) {
    for (int side = 0; side < 2; ++side) LetGo(key, side, id, Reason::kClosed);
  }
  if (auto count = sessions_of_.find(session.credit_key); count != sessions_of_.end() && --count->second == 0) {
    sessions_of_.erase(count);
  }
  // In its queue there may be descriptors of a stranger, which go with it.
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, session.fd.get(), nullptr);
  closer_.Close(std::move(session.fd), session.credit_key);
  sessions_.erase(found);
}

Agent::Agent(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) { impl_->self_ = this; }

Agent::~Agent() {
  for (auto& [id, session] : impl_->sessions_) impl_->closer_.Close(std::move(session.fd), session.credit_key);
  for (const std::string& path : {impl_->options_.socket, impl_->options_.admin, impl_->options_.pu_listen}) {
    if (!path.empty()) unlink(path.c_str());
  }
}

absl::StatusOr<std::unique_ptr<Agent>> Agent::Start(Options options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  HK_RETURN_IF_ERROR(impl->Open());
  return std::unique_ptr<Agent>(new Agent(std::move(impl)));
}

absl::Status Agent::Run() { return impl_->Run(); }

void Agent::Stop() {
  Post([](Agent& agent) { agent.impl_->stopping_ = true; });
}

void Agent::Post(std::function<void(Agent&)> task) {
  {
    std::lock_guard lock(impl_->tasks_mutex_);
    impl_->tasks_.push_back(std::move(task));
  }
  impl_->Wake();
}

void Agent::SetPolicy(Policy policy) {
  impl_->policy_ = std::move(policy);
  impl_->FenceChannels(Reason::kPolicyChanged, [this](const Channel& channel) { return !impl_->MayShare(channel); });
}

nlohmann::json Agent::Status() { return impl_->Status(); }
nlohmann::json Agent::Totals() { return impl_->Totals(); }

}  // namespace heterok8s::heterosock::agent
