#include "node-agent/cri/session_status.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "common/testing/matchers.h"
#include "node-agent/cri/spdy_client.h"

namespace heterok8s::cri {
namespace {

using namespace std::string_literals;
using testing::HasCode;

std::string SpdyHead(const std::string& version = "v4.channel.k8s.io") {
  return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: " +
         version + "\r\n\r\n";
}
const std::string kSpdyRequest =
    "POST /exec/a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: "
    "v4.channel.k8s.io\r\n\r\n";
const std::string kWebSocketRequest =
    "GET /exec/a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: "
    "v5.channel.k8s.io\r\n\r\n";
const std::string kWebSocketHead =
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n";

// What kubectl, told to run a command, opens; the error stream is the second, so that its place tells nothing.
std::string Opened() {
  SpdyClient client;
  std::string frames = client.Open(1, "stdin");
  frames += SpdyData(1, 0, "typed");
  frames += client.Open(3, "error");
  return frames + client.Open(5, "stdout");
}

void CheckFailure(const std::string& json, const std::string& why) {
  auto status = nlohmann::json::parse(json);
  CHECK(status["status"] == "Failure");
  CHECK(status["message"] == why);
}

TEST_CASE("a session over SPDY that is cut ends with a failure on its error stream, however its bytes came") {
  const std::string from_client = Opened();
  const std::string from_runtime =
      SpdyHead() + SpdyClient::Reply(1) + SpdyClient::Reply(3) + SpdyData(5, 0, "some output");
  for (size_t piece : {size_t{1}, size_t{7}, from_client.size() + from_runtime.size()}) {
    INFO(piece);
    SessionStatus status(kSpdyRequest);
    for (size_t at = 0; at < from_client.size(); at += piece) status.FromClient(from_client.substr(at, piece));
    std::string passed;
    for (size_t at = 0; at < from_runtime.size(); at += piece)
      passed += status.FromRuntime(from_runtime.substr(at, piece));

    const std::string last = status.Ending("cut");

    CHECK(passed == from_runtime);
    REQUIRE(last.size() > kSpdyHead);
    const SpdyFrame frame = ReadSpdyHead(last);
    CHECK((!frame.control && frame.stream == 3 && frame.flags == kSpdyFin));
    CHECK(frame.length == last.size() - kSpdyHead);
    CheckFailure(last.substr(kSpdyHead), "cut");
    CHECK(status.Ending("again").empty());
  }
}

TEST_CASE("frames that came in one piece are each seen, however small") {
  std::string many;
  for (int i = 0; i < 20000; ++i) many += SpdyData(5, 0, "x");
  SessionStatus status(kSpdyRequest);
  status.FromClient(many + Opened() + many);

  CHECK(status.FromRuntime(SpdyHead() + many) == SpdyHead() + many);
  CHECK(status.FromRuntime(SpdyData(3, 0, "result") + many) == SpdyData(3, 0, "result") + many);

  CHECK(status.Ending("cut").empty());
}

TEST_CASE("a session that had its result gets nothing more") {
  struct Case {
    const char* what;
    std::string frame;
  };
  for (const Case& c :
       {Case{"a status", SpdyData(3, 0, R"({"status":"Success"})")}, Case{"its end", SpdyData(3, kSpdyFin, "")},
        Case{"a reset", "\x80\3\0\3\0\0\0\10\0\0\0\3\0\0\0\5"s}}) {
    INFO(c.what);
    SessionStatus status(kSpdyRequest);
    status.FromClient(Opened());
    CHECK(status.FromRuntime(SpdyHead() + c.frame) == SpdyHead() + c.frame);

    CHECK(status.Ending("cut").empty());
  }
}

TEST_CASE("a frame that was cut is not passed on, so that the failure is understood") {
  SessionStatus status(kSpdyRequest);
  status.FromClient(Opened());
  const std::string half = SpdyData(5, 0, std::string(1000, 'x')).substr(0, 500);

  CHECK(status.FromRuntime(SpdyHead() + half) == SpdyHead());
  CHECK(ReadSpdyHead(status.Ending("cut")).stream == 3);
}

TEST_CASE("a session over WebSocket that is cut ends with a failure on its error channel and a close frame") {
  const std::string output = "\x82\x03\x01hi"s;
  for (const std::string& why : {"cut"s, std::string(300, 'w')}) {
    SessionStatus status(kWebSocketRequest);
    CHECK(status.FromRuntime(kWebSocketHead + output) == kWebSocketHead + output);

    const std::string last = status.Ending(why);

    const size_t head = last[1] == '\x7e' ? 4 : 2;
    const size_t length =
        head == 2 ? static_cast<unsigned char>(last[1])
                  : static_cast<size_t>(static_cast<unsigned char>(last[2])) << 8 | static_cast<unsigned char>(last[3]);
    REQUIRE(last.size() == head + length + 4);
    CHECK(last[0] == '\x82');
    CHECK(last[head] == 3);
    CheckFailure(last.substr(head + 1, length - 1), why);
    CHECK(last.substr(head + length) == "\x88\x02\x03\xf3");
  }
}

TEST_CASE("a session over WebSocket that had its result, or closes, or is within a message, gets nothing more") {
  for (const std::string& frame : {"\x82\x03\x03{}"s, "\x88\x02\x03\xe8"s, "\x02\x03\x01hi"s}) {
    SessionStatus status(kWebSocketRequest);
    CHECK(status.FromRuntime(kWebSocketHead + frame) == kWebSocketHead + frame);
    CHECK(status.Ending("cut").empty());
  }
  SessionStatus empty_result(kWebSocketRequest);  // what says that the connection is up
  empty_result.FromRuntime(kWebSocketHead + "\x82\x01\x03"s);
  CHECK_FALSE(empty_result.Ending("cut").empty());
}

TEST_CASE("what is not understood is passed on as it comes") {
  const std::string longer_than_any = SpdyData(5, 0, std::string(1 << 20, 'x'));
  for (const std::string& bytes :
       {"HTTP/1.1 404 Not Found\r\n\r\nno such session"s, SpdyHead("v3.channel.k8s.io") + SpdyData(1, 0, "x"),
        SpdyHead() + longer_than_any, "HTTP/1.1 101 " + std::string(100000, 'h'), "up"s, ""s}) {
    SessionStatus status(kSpdyRequest);
    status.FromClient(Opened());
    std::string passed = status.FromRuntime(bytes.substr(0, bytes.size() / 2));
    passed += status.FromRuntime(bytes.substr(bytes.size() / 2));
    CHECK(passed == bytes);
    CHECK(status.Ending("cut").empty());
  }
  SessionStatus beginning(kSpdyRequest);
  CHECK(beginning.FromRuntime("HTTP/1.1 1").empty());
  CHECK(beginning.Ending("cut") == "HTTP/1.1 1");
}

TEST_CASE("a client whose error stream is not seen gets nothing of ours") {
  SpdyClient client;
  for (const std::string& bytes : {""s, client.Open(1, "stdout"), "\x80\3\0\1\0\0\0\x14"s + std::string(20, 'z'),
                                   "\x80\3\0\1\0\0\0\3abc"s, "\x80\3\0\10\0\0\0\0"s + Opened()}) {
    SessionStatus status(kSpdyRequest);
    status.FromClient(bytes);
    status.FromRuntime(SpdyHead());

    CHECK(status.Ending("cut").empty());
  }
}

TEST_CASE("what came with the client's request counts, and is looked at when it asks for SPDY") {
  struct Case {
    std::string request;
    bool watched;
  };
  for (const Case& c : {Case{kSpdyRequest, true}, Case{"POST / HTTP/1.1\r\nupgrade:spdy/3.1\r\n\r\n", true},
                        Case{kWebSocketRequest, false}, Case{"GET / HTTP/1.1\r\n\r\n", false}}) {
    INFO(c.request);
    const std::string opened = Opened();
    SessionStatus status(c.request + opened.substr(0, 20));
    status.FromClient(opened.substr(20));
    status.FromRuntime(SpdyHead());

    CHECK(status.Ending("cut").empty() != c.watched);
  }
}

TEST_CASE("header blocks share one compression, and one that is none ends it") {
  SpdyClient client;
  SpdyHeaders headers;
  for (const char* type : {"error", "stdin", "stdout"}) {
    auto fields = headers.Read(client.Open(1, type).substr(kSpdyHead + 10));
    REQUIRE_OK(fields);
    CHECK(fields->at("streamtype") == type);
  }
  CHECK_THAT(headers.Read("zzzzzzzz").status(), HasCode(absl::StatusCode::kInvalidArgument));
  CHECK_THAT(headers.Read(client.Open(1, "error").substr(kSpdyHead + 10)).status(),
             HasCode(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace heterok8s::cri
