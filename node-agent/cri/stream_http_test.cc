// What of an HTTP head is looked at on the way of an Exec: the first line, and a URL that a runtime gave.
#include "node-agent/cri/stream_http.h"

#include "common/testing/matchers.h"

namespace heterok8s::cri {
namespace {

using testing::HasCode;

TEST_CASE("the path is exchanged and every other byte is kept") {
  auto request = ParseStreamRequest("POST /exec/ours?command=sh&tty=1 HTTP/1.1\r\nHost: x\r\n\r\nbody");

  REQUIRE(request.ok());
  CHECK(request->path == "/exec/ours");
  CHECK(ForwardedHead(*request, "/exec/T") == "POST /exec/T?command=sh&tty=1 HTTP/1.1\r\nHost: x\r\n\r\nbody");
}

TEST_CASE("what is no request of a client of Exec is refused") {
  for (const char* bad : {"", "GET / HTTP/1.1", "GET HTTP/1.1\r\n\r\n", "PUT /x HTTP/1.1\r\n\r\n",
                          "GET x HTTP/1.1\r\n\r\n", "GET /x HTTP/2\r\n\r\n", "GET /x y HTTP/1.1\r\n\r\n"}) {
    INFO(bad);
    CHECK_THAT(ParseStreamRequest(bad).status(), HasCode(absl::StatusCode::kInvalidArgument));
  }
}

TEST_CASE("only a plain HTTP server on loopback is a runtime's") {
  CHECK(ParseRuntimeUrl("http://127.0.0.1:37297/exec/abc")->port == 37297);
  CHECK(ParseRuntimeUrl("http://127.0.0.1:37297/exec/abc")->path == "/exec/abc");
  CHECK(ParseRuntimeUrl("http://[::1]:1/x")->address == "::1");
  CHECK(ParseRuntimeUrl("http://localhost:1/x")->address == "127.0.0.1");
  for (const char* bad :
       {"", "https://127.0.0.1:1/x", "http://10.0.0.1:1/x", "http://127.0.0.1/x", "http://127.0.0.1:0/x",
        "http://127.0.0.1:70000/x", "http://127.0.0.1:1", "http://evil.example:1/x", "http://127.0.0.1:1/x y",
        "http://127.0.0.1:1/x\r\nA: b", "/exec/abc"}) {
    INFO(bad);
    CHECK_THAT(ParseRuntimeUrl(bad).status(), HasCode(absl::StatusCode::kInvalidArgument));
  }
}

}  // namespace
}  // namespace heterok8s::cri
