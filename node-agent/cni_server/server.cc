#include "node-agent/cni_server/server.h"

#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <filesystem>
#include <mutex>
#include <thread>
#include <vector>

#include "common/cni/wire.h"
#include "common/sys/unique_fd.h"
#include "node-agent/cni_server/calls.h"
#include "node-agent/cni_server/replay.h"

namespace heterok8s::cni_server {
namespace {

using Clock = std::chrono::steady_clock;

absl::StatusOr<sys::UniqueFd> Listen(const std::string& path) {
  sockaddr_un address = {.sun_family = AF_UNIX};
  if (path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(fmt::format("socket path '{}' is too long", path));
  }
  memcpy(address.sun_path, path.data(), path.size());
  sys::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoToStatus(errno, "make a socket");

  // The socket of a heterod that was killed is still there; one that answers is somebody else's.
  sys::UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (connect(probe.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN) {
    return absl::FailedPreconditionError(fmt::format("another process serves '{}'", path));
  }
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  unlink(path.c_str());
  // Bound before it has its mode, but nobody can connect before listen().
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || chmod(path.c_str(), 0600) != 0 ||
      listen(fd.get(), 1024) != 0) {
    return ErrnoToStatus(errno, fmt::format("listen on '{}'", path));
  }
  return fd;
}

bool IsRoot(int fd) {
  ucred peer = {};
  socklen_t size = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == 0;
}

// A shim never half-closes, so an end of its stream is its end.
bool IsGone(int fd) {
  pollfd p = {fd, POLLRDHUP, 0};
  return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

}  // namespace

class Server::Impl {
 public:
  Impl(Options options, attach::Engine& engine)
      : options_(std::move(options)),
        calls_(engine, options_.queue_dir, options_.on_call),
        replay_(options_.queue_dir,
                [this](const cni::WireRequest& request, const std::string& file) { return Replay(request, file); }) {}

  absl::Status Start() {
    HK_RETURN_IF_ERROR(replay_.Start());
    HK_ASSIGN_OR_RETURN(listener_, Listen(options_.socket_path));
    wake_ = sys::UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_.valid()) return ErrnoToStatus(errno, "make an event descriptor");
    for (int i = 0; i < options_.workers; ++i) workers_.emplace_back([this] { Work(); });
    acceptor_ = std::thread([this] { Accept(); });
    return absl::OkStatus();
  }

  void Stop() {
    {
      std::lock_guard lock(mutex_);
      if (stopping_) return;
      stopping_ = true;
    }
    if (wake_.valid()) eventfd_write(wake_.get(), 1);
    room_.notify_all();
    work_.notify_all();
    if (acceptor_.joinable()) acceptor_.join();
    for (std::thread& worker : workers_) worker.join();
    replay_.Stop();
    if (listener_.valid()) unlink(options_.socket_path.c_str());
    listener_.reset();
  }

 private:
  struct Connection {
    sys::UniqueFd fd;
    Clock::time_point arrived;
  };

  void Accept() {
    while (true) {
      {
        std::unique_lock lock(mutex_);
        room_.wait(lock, [&] { return stopping_ || waiting_.size() < static_cast<size_t>(options_.max_waiting); });
        if (stopping_) return;
      }
      pollfd fds[2] = {{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
      if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
      if (fds[0].revents != 0) return;
      sys::UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!fd.valid()) {
        // Out of descriptors: the connection stays in the backlog; running calls free some.
        if (errno == EMFILE || errno == ENFILE) poll(fds, 1, 100);
        continue;
      }
      if (!IsRoot(fd.get())) {
        spdlog::warn("a process that is not root's tried to make a CNI call; refused");
        continue;
      }
      {
        std::lock_guard lock(mutex_);
        waiting_.push_back({std::move(fd), Clock::now()});
      }
      // One connection, one worker: waking all of them costs half a millisecond of every call on two cores.
      work_.notify_one();
    }
  }

  void Work() {
    while (true) {
      Connection connection;
      {
        std::unique_lock lock(mutex_);
        work_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
        if (stopping_) return;
        connection = std::move(waiting_.front());
        waiting_.pop_front();
      }
      room_.notify_one();
      Serve(connection);
    }
  }

  void Serve(const Connection& connection) {
    const int fd = connection.fd.get();
    absl::StatusOr<std::string> text = cni::ReadFrame(fd, Clock::now() + options_.read_timeout);
    absl::StatusOr<cni::WireRequest> request = text.ok() ? cni::DecodeRequest(*text) : text.status();
    if (!request.ok()) {
      spdlog::warn("CNI call not received: {}", Message(request.status()));
      return;
    }
    auto status =
        calls_.Serve(*request, {.arrived = connection.arrived,
                                .is_gone = [fd] { return IsGone(fd); },
                                .deliver =
                                    [&](const cni::WireReply& reply) {
                                      auto deadline = Clock::now() + options_.read_timeout;
                                      return !IsGone(fd) && cni::WriteFrame(fd, cni::EncodeReply(reply), deadline).ok();
                                    }});
    status.IgnoreError();  // the caller has it, and the log
  }

  absl::Status Replay(const cni::WireRequest& request, const std::string& file) {
    return calls_.Serve(request, {.arrived = Clock::now(),
                                  .is_gone = [] { return false; },
                                  .deliver = [](const cni::WireReply&) { return true; },
                                  .queue_file = file});
  }

  const Options options_;
  Calls calls_;
  QueueReplay replay_;
  sys::UniqueFd listener_, wake_;
  std::mutex mutex_;
  std::condition_variable work_, room_;  // the workers', the acceptor's: waiting_ or stopping_ changed
  std::deque<Connection> waiting_;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
  std::thread acceptor_;
};

Server::Server(Options options, attach::Engine& engine) : impl_(std::make_unique<Impl>(std::move(options), engine)) {}
Server::~Server() { Stop(); }
absl::Status Server::Start() { return impl_->Start(); }
void Server::Stop() { impl_->Stop(); }

}  // namespace heterok8s::cni_server
