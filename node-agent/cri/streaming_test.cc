// A whole streaming path in one process:  client ─ StreamingServer ─ gRPC ─ DpuRuntimeService ─ a runtime's server.
#include "node-agent/cri/streaming.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <thread>

#include "common/testing/eventually.h"
#include "common/testing/held_port.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/dpu_runtime.h"
#include "node-agent/cri/spdy_client.h"
#include "node-agent/cri/splice.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;

int Listen(int* port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  REQUIRE(bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0);
  REQUIRE(listen(fd, 8) == 0);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  *port = ntohs(address.sin_port);
  return fd;
}

sys::UniqueFd ConnectTo(int port) {
  sys::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  REQUIRE(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  return fd;
}

std::string ReadAll(int fd) {
  std::string all;
  char piece[65536];
  for (ssize_t got; (got = recv(fd, piece, sizeof piece, 0)) > 0;) all.append(piece, static_cast<size_t>(got));
  return all;
}

void SendText(int fd, const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    ssize_t sent = send(fd, text.data() + at, text.size() - at, MSG_NOSIGNAL);
    if (sent <= 0) return;
    at += static_cast<size_t>(sent);
  }
}

// Takes one connection at a time and does `serve` with it.
class FakeRuntime {
 public:
  explicit FakeRuntime(std::function<void(int)> serve) : listener_(Listen(&port)) {
    thread_ = std::thread([this, serve] {
      while (true) {
        sys::UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!fd.valid()) return;
        serve(fd.get());
      }
    });
  }
  ~FakeRuntime() {
    shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  std::string Url(const std::string& path) const { return fmt::format("http://127.0.0.1:{}{}", port, path); }
  int port = 0;

 private:
  sys::UniqueFd listener_;
  std::thread thread_;
};

struct Path {
  Path() {
    root = fs::temp_directory_path() / fmt::format("hk-streaming-{}", getpid());
    auto opened = DpuRuntimeService::Open({.pod_log_root = root / "logs", .volume_root = root / "volumes"});
    REQUIRE_OK(opened);
    service = *std::move(opened);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service.get());
    server = builder.BuildAndStart();
    stub = v1::DpuRuntime::NewStub(
        grpc::CreateChannel(fmt::format("127.0.0.1:{}", port), grpc::InsecureChannelCredentials()));
    auto started = StreamingServer::Start(*stub, [this] { return alive.load(); });
    REQUIRE_OK(started);
    streaming = *std::move(started);
  }
  ~Path() {
    streaming.reset();
    server->Shutdown(std::chrono::system_clock::now());
    fs::remove_all(root);
  }
  // Connects to the URL that is offered for `url`, and sends `request` with our path in it.
  sys::UniqueFd Open(const std::string& url, const std::string& query = "") {
    auto offered = streaming->Offer(url);
    REQUIRE_OK(offered);
    ours = *offered;
    sys::UniqueFd fd = ConnectTo(streaming->port());
    SendText(fd.get(), fmt::format("POST {}{} HTTP/1.1\r\nHost: x\r\nUpgrade: SPDY/3.1\r\n\r\n",
                                   ours.substr(ours.find('/', 7)), query));
    return fd;
  }
  std::string Ask(const std::string& request) {
    sys::UniqueFd fd = ConnectTo(streaming->port());
    SendText(fd.get(), request);
    return ReadAll(fd.get());
  }

  fs::path root;
  std::unique_ptr<DpuRuntimeService> service;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<v1::DpuRuntime::Stub> stub;
  std::atomic<bool> alive{true};
  std::unique_ptr<StreamingServer> streaming;
  std::string ours;
};

std::string ReadHeadOf(int fd) {
  std::string head;
  for (char c; head.find("\r\n\r\n") == std::string::npos && recv(fd, &c, 1, 0) == 1;) head += c;
  return head;
}

TEST_CASE("a session passes both ways unread, with the runtime's path and the client's fields") {
  FakeRuntime runtime([](int fd) {
    std::string head = ReadHeadOf(fd);
    SendText(fd, "HTTP/1.1 101 Switching\r\n\r\n" + head);
    char piece[65536];
    for (ssize_t got; (got = recv(fd, piece, sizeof piece, 0)) > 0;) {
      std::string_view text(piece, static_cast<size_t>(got));
      SendText(fd, std::string(text));
      if (text.find("bye") != std::string_view::npos) return;
    }
  });
  Path path;

  sys::UniqueFd fd = path.Open(runtime.Url("/exec/SECRET"), "?command=sh");
  std::string much(300000, 'm');
  std::thread writer([&] { SendText(fd.get(), std::string("\0\xff", 2) + much + "bye"); });
  std::string all = ReadAll(fd.get());
  writer.join();

  std::string head =
      "HTTP/1.1 101 Switching\r\n\r\n"
      "POST /exec/SECRET?command=sh HTTP/1.1\r\nHost: x\r\nUpgrade: SPDY/3.1\r\n\r\n";
  REQUIRE(all.size() == head.size() + 2 + much.size() + 3);
  CHECK(all.compare(0, head.size(), head) == 0);
  CHECK(all.substr(head.size()) == std::string("\0\xff", 2) + much + "bye");
  CHECK(path.ours.find("http://127.0.0.1:") == 0);
  CHECK(path.ours.find("SECRET") == std::string::npos);
}

TEST_CASE("what the runtime sends before it closes arrives whole") {
  std::string last(2 << 20, 'z');
  FakeRuntime runtime([&](int fd) {
    ReadHeadOf(fd);
    SendText(fd, last);
  });
  Path path;

  sys::UniqueFd fd = path.Open(runtime.Url("/attach/T"));

  CHECK(ReadAll(fd.get()) == last);
}

TEST_CASE("a client that goes away ends the runtime's side") {
  std::atomic<bool> ended{false};
  FakeRuntime runtime([&](int fd) {
    ReadHeadOf(fd);
    SendText(fd, "up");
    ReadAll(fd);
    ended = true;
  });
  Path path;

  sys::UniqueFd fd = path.Open(runtime.Url("/exec/T"));
  char up[2];
  REQUIRE(recv(fd.get(), up, 2, MSG_WAITALL) == 2);
  fd.reset();

  CHECK(testing::Eventually([&] { return ended.load(); }));
  CHECK(testing::Eventually([&] { return path.streaming->sessions() == 0; }));
}

TEST_CASE("a URL is good for one connection, and nothing else is served") {
  FakeRuntime runtime([](int fd) {
    ReadHeadOf(fd);
    SendText(fd, "HTTP/1.1 200 OK\r\n\r\n");
  });
  Path path;
  CHECK(ReadAll(path.Open(runtime.Url("/exec/T")).get()).find("200 OK") != std::string::npos);

  std::string again = path.Ask(fmt::format("POST {} HTTP/1.1\r\n\r\n", path.ours.substr(path.ours.find('/', 7))));
  CHECK(again.find("HTTP/1.1 404 Not Found\r\n") == 0);
  for (const char* bad : {"DELETE /exec/T HTTP/1.1\r\n\r\n", "POST /exec/T HTTP/1.0\r\n\r\n", "\r\n\r\n",
                          "POST\r\n\r\n", "POST exec HTTP/1.1\r\n\r\n"}) {
    INFO(bad);
    CHECK(path.Ask(bad).find("HTTP/1.1 400 Bad Request\r\n") == 0);
  }
  CHECK(path.Ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").find("404") != std::string::npos);
}

TEST_CASE("a client that is refused and goes on sending does not keep its place") {
  Path path;
  sys::UniqueFd fd = ConnectTo(path.streaming->port());
  SendText(fd.get(), "POST /exec/none HTTP/1.1\r\n\r\n");
  std::atomic<bool> enough{false};
  std::thread sender([&] {
    while (!enough && send(fd.get(), "more", 4, MSG_NOSIGNAL) > 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });

  CHECK_THAT(ReadHeadOf(fd.get()), Catch::StartsWith("HTTP/1.1 404"));
  CHECK(testing::Eventually([&] { return path.streaming->sessions() == 0; }));

  enough = true;
  sender.join();
}

TEST_CASE("a runtime that is not there, and a DPU that is away, are told as 502") {
  testing::HeldPort refusing;
  Path path;
  const std::string url = fmt::format("http://127.0.0.1:{}/exec/T", refusing.number());
  CHECK_THAT(ReadAll(path.Open(url).get()), Catch::StartsWith("HTTP/1.1 502"));
  path.alive = false;
  CHECK_THAT(ReadAll(path.Open(url).get()), Catch::StartsWith("HTTP/1.1 502"));
}

TEST_CASE("a DPU that is lost ends its sessions, and so does our own end") {
  FakeRuntime runtime([](int fd) {
    ReadHeadOf(fd);
    SendText(fd, "up");
    ReadAll(fd);
  });
  for (bool lost : {true, false}) {
    Path path;
    sys::UniqueFd fd = path.Open(runtime.Url("/exec/T"));
    char up[2];
    REQUIRE(recv(fd.get(), up, 2, MSG_WAITALL) == 2);
    if (lost) {
      path.alive = false;
    } else {
      path.streaming->Stop();
    }
    CHECK(ReadAll(fd.get()).empty());
  }
}

TEST_CASE("a session ends with the DPU, or with us, also when nobody moves") {
  FakeRuntime runtime([](int fd) {
    ReadHeadOf(fd);
    SendText(fd, "HTTP/1.1 101 Switching Protocols\r\n\r\n");
    pollfd until_closed = {.fd = fd, .events = POLLRDHUP, .revents = 0};  // reads nothing, says nothing
    poll(&until_closed, 1, -1);
  });
  Path path;
  sys::UniqueFd client = path.Open(runtime.Url("/exec/abc"));
  ReadHeadOf(client.get());
  std::thread sender;
  SECTION("the runtime takes no more of what the client sends") {
    sender = std::thread([&] { SendText(client.get(), std::string(64 << 20, 'x')); });
    int queued = -1, before = -2;  // until the client's own socket takes no more either
    REQUIRE(testing::Eventually([&] {
      before = queued;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      return ioctl(client.get(), TIOCOUTQ, &queued) == 0 && queued > 0 && queued == before;
    }));
  }
  SECTION("the client has said all") { shutdown(client.get(), SHUT_WR); }

  const bool lost = GENERATE(true, false);
  if (lost) {
    path.alive = false;
    CHECK(testing::Eventually([&] { return path.streaming->sessions() == 0; }));
  } else {
    path.streaming->Stop();
    CHECK(path.streaming->sessions() == 0);
  }
  shutdown(client.get(), SHUT_RDWR);
  if (sender.joinable()) sender.join();
}

TEST_CASE("a session that is cut tells its client of a failure, one that had its result does not") {
  const std::string head =
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";
  const std::string replies = SpdyClient::Reply(1) + SpdyClient::Reply(3) + SpdyData(3, 0, "some output");
  const std::string result = SpdyData(1, 0, R"({"status":"Success"})");
  enum class Cut { kByRuntime, kDpuLost, kOurEnd, kNot };
  for (Cut cut : {Cut::kByRuntime, Cut::kDpuLost, Cut::kOurEnd, Cut::kNot}) {
    INFO(static_cast<int>(cut));
    SpdyClient client;
    std::string opened = client.Open(1, "error");
    opened += client.Open(3, "stdout");
    FakeRuntime runtime([&](int fd) {
      ReadHeadOf(fd);
      SendText(fd, head);
      std::string streams(opened.size(), '\0');
      if (recv(fd, streams.data(), streams.size(), MSG_WAITALL) <= 0) return;
      SendText(fd, replies);
      if (cut == Cut::kNot) SendText(fd, result);
      if (cut == Cut::kDpuLost || cut == Cut::kOurEnd) ReadAll(fd);
    });
    Path path;
    sys::UniqueFd fd = path.Open(runtime.Url("/exec/T"));
    ReadHeadOf(fd.get());
    SendText(fd.get(), opened);
    std::string got(replies.size(), '\0');
    REQUIRE(recv(fd.get(), got.data(), got.size(), MSG_WAITALL) == static_cast<ssize_t>(got.size()));
    CHECK(got == replies);

    if (cut == Cut::kDpuLost) path.alive = false;
    std::thread stop([&] {
      if (cut == Cut::kOurEnd) path.streaming->Stop();
    });
    const std::string last = ReadAll(fd.get());
    fd.reset();
    stop.join();
    if (cut == Cut::kNot) {
      CHECK(last == result);
    } else {
      REQUIRE(last.size() > kSpdyHead);
      CHECK(ReadSpdyHead(last).stream == 1);
      CHECK_THAT(last.substr(kSpdyHead), Catch::Contains(R"("status":"Failure")"));
    }
  }
}

}  // namespace
}  // namespace heterok8s::cri
