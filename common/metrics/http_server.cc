#include "common/metrics/http_server.h"

#include <CivetServer.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <thread>

#include "common/sys/unique_fd.h"

namespace heterok8s::metrics {
namespace {

void Answer(mg_connection* connection, int code, const char* reason, const char* type, const std::string& body) {
  mg_printf(connection, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", code,
            reason, type, body.size());
  mg_write(connection, body.data(), body.size());
}

// civetweb's threads have 100 KiB of stack (USE_STACK_SIZE of its build): less than libnftables' parser takes.
// False where the kernel gives no thread.
bool OnOrdinaryStack(const std::function<void()>& fn) {
  try {
    std::thread(fn).join();
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

void AnswerNoThread(mg_connection* connection) {
  Answer(connection, 503, "Service Unavailable", "text/plain; charset=utf-8", "no thread to read it with\n");
}

constexpr char kPlain[] = "text/plain; charset=utf-8";

class MetricsHandler final : public CivetHandler {
 public:
  explicit MetricsHandler(std::vector<std::weak_ptr<prometheus::Collectable>> collectables)
      : collectables_(std::move(collectables)) {}
  bool handleGet(CivetServer*, mg_connection* connection) override {
    std::string text;
    if (OnOrdinaryStack([&] { text = prometheus::TextSerializer().Serialize(Collect()); })) {
      Answer(connection, 200, "OK", "text/plain; version=0.0.4; charset=utf-8", text);
    } else {
      AnswerNoThread(connection);
    }
    return true;
  }

 private:
  std::vector<prometheus::MetricFamily> Collect() const {
    std::vector<prometheus::MetricFamily> families;
    for (const auto& weak : collectables_) {
      const auto collectable = weak.lock();
      if (!collectable) continue;
      std::vector<prometheus::MetricFamily> more = collectable->Collect();
      families.insert(families.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
    }
    return families;
  }

  const std::vector<std::weak_ptr<prometheus::Collectable>> collectables_;
};

class StatusHandler final : public CivetHandler {
 public:
  explicit StatusHandler(std::function<absl::Status()> status) : status_(std::move(status)) {}
  bool handleGet(CivetServer*, mg_connection* connection) override {
    absl::Status status;
    if (status_ && !OnOrdinaryStack([&] { status = status_(); })) {
      AnswerNoThread(connection);
    } else if (status.ok()) {
      Answer(connection, 200, "OK", kPlain, "ok\n");
    } else {
      Answer(connection, 503, "Service Unavailable", kPlain, Message(status) + "\n");
    }
    return true;
  }

 private:
  const std::function<absl::Status()> status_;
};

// A connection that says nothing. Only of use for who listens; it waits for nobody.
void Knock(const std::string& host, int port) {
  addrinfo numeric = {};
  numeric.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &numeric, &found) != 0) return;
  sys::UniqueFd fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  (void)connect(fd.get(), found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
}

int LocalPort(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return 0;
  if (address.ss_family == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  return 0;
}

// What clients have not said yet is not waited for: a civetweb worker that reads looks for its end every two seconds
// only. Answers under way are still written.
void StopReadingClients(int port) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ignored)) {
    int fd = -1;
    const std::string name = entry.path().filename();
    std::from_chars(name.data(), name.data() + name.size(), fd);
    int listens = 0;
    socklen_t length = sizeof listens;
    if (fd >= 0 && LocalPort(fd) == port && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) == 0 &&
        listens == 0)
      shutdown(fd, SHUT_RD);
  }
}

// Of "127.0.0.1:9464" and "[::1]:9464".
std::string HostOf(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  std::string host = listen.substr(0, colon == std::string::npos ? 0 : colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return host;
}

}  // namespace

HttpServer::HttpServer() = default;

// civetweb's master thread looks whether it is to end when a connection comes, else every two seconds, for which a
// daemon that restarts would be away.
HttpServer::~HttpServer() {
  if (!server_ || host_.empty()) return;
  std::atomic<bool> closed = false;
  try {
    std::thread closing([&] {
      server_->close();
      closed = true;
    });
    while (!closed) {
      Knock(host_, port_);
      StopReadingClients(port_);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    closing.join();
  } catch (const std::system_error&) {
    // The kernel gives no thread: it takes the two seconds.
  }
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(Options options) {
  auto self = std::unique_ptr<HttpServer>(new HttpServer);
  try {
    self->server_ = std::make_unique<CivetServer>(std::vector<std::string>{"listening_ports", options.listen,
                                                                           "num_threads", "2", "request_timeout_ms",
                                                                           "5000", "keep_alive_timeout_ms", "1"});
  } catch (const CivetException& error) {
    return absl::UnavailableError(fmt::format("metrics: cannot listen on {}: {}", options.listen, error.what()));
  }
  const std::vector<int> ports = self->server_->getListeningPorts();
  self->port_ = ports.empty() ? 0 : ports.front();
  self->host_ = HostOf(options.listen);
  auto add = [&](const char* path, std::unique_ptr<CivetHandler> handler) {
    self->server_->addHandler(path, *handler);
    self->handlers_.push_back(std::move(handler));
  };
  add("/metrics", std::make_unique<MetricsHandler>(std::move(options.collectables)));
  add("/healthz", std::make_unique<StatusHandler>(nullptr));
  add("/readyz", std::make_unique<StatusHandler>(std::move(options.ready)));
  return self;
}

}  // namespace heterok8s::metrics
