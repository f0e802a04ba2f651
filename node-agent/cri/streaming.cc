#include "node-agent/cri/streaming.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <cerrno>
#include <system_error>

#include "node-agent/cri/session_status.h"
#include "node-agent/cri/splice.h"
#include "node-agent/cri/stream_http.h"

namespace heterok8s::cri {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kHeadTime{10};
constexpr std::chrono::seconds kSayTime{5};  // for the client to take an answer of ours and go
constexpr std::chrono::milliseconds kLook{200};

absl::StatusOr<std::string> RandomToken() {
  unsigned char bytes[16];
  if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return ErrnoToStatus(errno, "getrandom");
  std::string token;
  for (unsigned char byte : bytes) token += fmt::format("{:02x}", byte);
  return token;
}

// `text` has no colon: client-go takes an error's body for YAML, and "a: b" would be a Status without a message.
void Say(int socket, const std::string& status, const std::string& text) {
  std::string response = PlainResponse(status, text + "\n");
  send(socket, response.data(), response.size(), MSG_NOSIGNAL);
  shutdown(socket, SHUT_WR);
  // What the client still sends is read, or closing would reset the connection before it has our answer.
  char rest[4096];
  const auto until = steady_clock::now() + kSayTime;
  for (pollfd waiting = {.fd = socket, .events = POLLIN, .revents = 0};
       steady_clock::now() < until && poll(&waiting, 1, 1000) > 0 && recv(socket, rest, sizeof rest, 0) > 0;) {
  }
}

// Up to and with the empty line, and whatever came in the same piece.
absl::StatusOr<std::string> ReadHead(int socket, const std::atomic<bool>& stop) {
  std::string head;
  auto until = steady_clock::now() + kHeadTime;
  while (head.find("\r\n\r\n") == std::string::npos) {
    if (head.size() > kMaxStreamHead) return absl::InvalidArgumentError("the request's head is too long");
    if (stop || steady_clock::now() > until) return absl::DeadlineExceededError("no whole request came");
    pollfd waiting = {.fd = socket, .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, static_cast<int>(kLook.count())) <= 0) continue;
    char piece[8192];
    ssize_t got = recv(socket, piece, sizeof piece, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return absl::CancelledError("the client has gone");
    head.append(piece, static_cast<size_t>(got));
  }
  return head;
}

// A call is among those that can be cancelled from elsewhere for as long as it is there.
class OpenCall {
 public:
  OpenCall(std::mutex& mutex, std::set<grpc::ClientContext*>& calls, grpc::ClientContext& call)
      : mutex_(mutex), calls_(calls), call_(&call) {
    std::lock_guard lock(mutex_);
    calls_.insert(call_);
  }
  ~OpenCall() {
    std::lock_guard lock(mutex_);
    calls_.erase(call_);
  }

 private:
  std::mutex& mutex_;
  std::set<grpc::ClientContext*>& calls_;
  grpc::ClientContext* const call_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StreamingServer>> StreamingServer::Start(v1::DpuRuntime::StubInterface& stub,
                                                                        std::function<bool()> alive) {
  std::unique_ptr<StreamingServer> server(new StreamingServer(stub, std::move(alive)));
  server->listener_ = sys::UniqueFd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  int fd = server->listener_.get();
  if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(fd, 128) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return ErrnoToStatus(errno, "streaming server on 127.0.0.1");
  }
  server->port_ = ntohs(address.sin_port);
  server->thread_ = std::thread([raw = server.get()] { raw->Accept(); });
  return server;
}

void StreamingServer::Stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
  listener_.reset();
  for (bool ended = false; !ended;) {
    CancelSessions();
    std::unique_lock lock(mutex_);
    ended = changed_.wait_for(lock, kLook, [this] { return sessions_ == 0; });
  }
}

// A session that waits for the DPU to take or to send something looks at nothing else.
void StreamingServer::CancelSessions() {
  std::lock_guard lock(mutex_);
  for (grpc::ClientContext* call : calls_) call->TryCancel();
}

size_t StreamingServer::sessions() const {
  std::lock_guard lock(mutex_);
  return sessions_;
}

absl::StatusOr<std::string> StreamingServer::Offer(const std::string& dpu_url) {
  HK_ASSIGN_OR_RETURN(RuntimeUrl parsed, ParseRuntimeUrl(dpu_url));
  HK_ASSIGN_OR_RETURN(std::string token, RandomToken());
  // "/exec/TOKEN" keeps its first part, by which people know what a connection is.
  std::string path = parsed.path.substr(0, parsed.path.rfind('/')) + "/" + token;
  auto now = steady_clock::now();
  std::lock_guard lock(mutex_);
  std::erase_if(offers_, [now](const auto& offer) { return offer.second.until < now; });
  if (offers_.size() >= kMostOffers) return absl::ResourceExhaustedError("too many streaming URLs are not used yet");
  offers_[path] = {.url = dpu_url, .path = parsed.path, .until = now + kTokenLife};
  return fmt::format("http://127.0.0.1:{}{}", port_, path);
}

absl::StatusOr<StreamingServer::Target> StreamingServer::Take(const std::string& path) {
  std::lock_guard lock(mutex_);
  auto found = offers_.find(path);
  if (found == offers_.end()) return absl::NotFoundError("no such session, its URL was used before or is too old");
  Target target = std::move(found->second);
  offers_.erase(found);
  if (target.until < steady_clock::now()) return absl::NotFoundError("no such session, its URL is too old");
  return target;
}

void StreamingServer::Accept() {
  while (!stop_) {
    if (!alive_()) CancelSessions();
    pollfd waiting = {.fd = listener_.get(), .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, static_cast<int>(kLook.count())) <= 0) continue;
    sys::UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.valid()) {
      // Out of descriptors: the waiting connection stays, so looking again at once would spin.
      if (errno == EMFILE || errno == ENFILE) std::this_thread::sleep_for(kLook);
      continue;
    }
    int yes = 1;
    setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);  // keys that are typed
    {
      std::lock_guard lock(mutex_);
      if (sessions_ >= kMostSessions) {
        spdlog::warn("streaming: {} sessions are open; one more is refused", sessions_);
        continue;
      }
      ++sessions_;
    }
    auto done = [this] {
      std::lock_guard lock(mutex_);
      --sessions_;
      changed_.notify_all();
    };
    try {
      std::thread([this, done, socket = std::move(socket)]() mutable {
        Serve(std::move(socket));
        done();
      }).detach();
    } catch (const std::system_error&) {
      done();
    }
  }
}

void StreamingServer::Serve(sys::UniqueFd socket) {
  absl::StatusOr<std::string> head = ReadHead(socket.get(), stop_);
  if (!head.ok()) {
    if (head.status().code() == absl::StatusCode::kInvalidArgument)
      Say(socket.get(), "400 Bad Request", Message(head.status()));
    return;
  }
  absl::StatusOr<StreamRequest> request = ParseStreamRequest(*head);
  if (!request.ok()) return Say(socket.get(), "400 Bad Request", Message(request.status()));
  absl::StatusOr<Target> target = Take(request->path);
  if (!target.ok()) return Say(socket.get(), "404 Not Found", Message(target.status()));
  if (!alive_()) return Say(socket.get(), "502 Bad Gateway", "the DPU is away");
  Session(socket.get(), *target, ForwardedHead(*request, target->path));
}

void StreamingServer::Session(int socket, const Target& target, const std::string& head) {
  grpc::ClientContext context;
  const OpenCall open(mutex_, calls_, context);
  auto stream = stub_.Stream(&context);
  v1::StreamBytes first;
  first.set_url(target.url);
  first.set_data(head);
  stream->Write(first);  // when it fails, so does the first read
  SessionStatus status(head);
  bool answered = false, refused = false;
  // While nothing was sent there is room for an answer of our own.
  auto refuse = [&](const char* status, const char* text) {
    if (!answered && !refused) Say(socket, status, text);
    refused = true;
  };
  auto read = [&](std::string* data, bool* end) {
    v1::StreamBytes piece;
    const bool came = stream->Read(&piece);
    if (!came && !answered) {
      refuse("502 Bad Gateway", "the DPU's runtime was not reached");
      return false;
    }
    answered = true;
    *end = !came || piece.end();
    *data = status.FromRuntime(piece.data());
    if (*end) *data += status.Ending("the session with the container on the DPU was cut before it had a result");
    return true;
  };
  auto write = [&](const std::string& data) {
    status.FromClient(data);  // before the runtime can answer to it
    v1::StreamBytes piece;
    piece.set_data(data);
    return stream->Write(piece);
  };
  Splice(socket, {.read = read,
                  .write = write,
                  .finish = [&] { stream->WritesDone(); },
                  .cancel = [&] { context.TryCancel(); },
                  .alive = [&] { return !stop_ && alive_(); }});
  // It has read nothing. The runtime may have begun all the same: it has the request.
  refuse("503 Service Unavailable", "the CRI router of this node has no thread for the session");
  context.TryCancel();  // nothing more is wanted of it, whichever end was first
  for (v1::StreamBytes rest; stream->Read(&rest);) {
  }
  grpc::Status finished = stream->Finish();
  if (!answered) {
    spdlog::warn("streaming: '{}' on the DPU: {}", target.path.substr(0, target.path.rfind('/')),
                 finished.error_message());
  }
}

}  // namespace heterok8s::cri
