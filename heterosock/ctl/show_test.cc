#include "heterosock/ctl/show.h"

#include <catch2/catch.hpp>

namespace heterok8s::heterosock::ctl {
namespace {

using nlohmann::json;

json SomeStatus() {
  return json::parse(R"({
    "started_unix_ms": 1000,
    "totals": {"processes": 2, "channels": 1, "memory_bytes": 8192, "waiting_offers": 0, "shared_bytes": 1048576},
    "mechanisms": [{"name": "matching", "active": "addresses", "detail": "no BPF"}],
    "channels": [{"channel": 7, "since_unix_ms": 1000, "memory_bytes": 8192, "ends": [
      {"pid": 10, "command": "nginx", "local": "127.0.0.1:80", "sending_on": "shared", "counters": {"sent": 2048}},
      {"pid": 11, "command": "wrk", "local": "127.0.0.1:5000", "sending_on": "back on TCP", "fenced": "fdopen",
       "pu": "other"}]}],
    "processes": [
      {"pid": 10, "command": "nginx", "cgroup": "/kubepods/pod1", "domain": "pod:1", "groups": ["web", "all"],
       "channels": 1, "offers": 4, "waiting_offers": 2, "declined": 1},
      {"pid": 11, "command": "wrk", "cgroup": "/user", "domain": "cgroup:/user", "groups": [], "channels": 0,
       "offers": 0, "waiting_offers": 0, "declined": 0}],
    "domains": [{"domain": "pod:x", "channels": 1, "channels_limit": 10, "bytes": 0, "bytes_limit": 0, "refused": 3}],
    "recent_declines": [{"command": "curl", "pid": 5, "local": "a:1", "remote": "b:2", "reason": "policy"}]})");
}

TEST_CASE("a connection's line says who, where and over what") {
  const std::string text = ConnectionTable(SomeStatus(), 61000).Render(false);
  for (const char* part :
       {"7", "60 s", "nginx(10)", "127.0.0.1:80", "shared", "wrk(11) on the other PU", "TCP (fdopen)", "8.0 KiB"}) {
    CHECK(text.find(part) != std::string::npos);
  }
}

TEST_CASE("a process's line says who it is, where it belongs and what became of its offers") {
  CHECK(ProcessTable(SomeStatus()).Render(false) ==
        "PROCESS    DOMAIN        CGROUP          GROUPS   SHARED  OFFERS  WAITING  DECLINED\n"
        "nginx(10)  pod:1         /kubepods/pod1  web all  1       4       2        1\n"
        "wrk(11)    cgroup:/user  -               -        0       0       0        0\n");
  CHECK(ProcessTable(json::object()).empty());
}

TEST_CASE("counters, declines, domains and mechanisms are tables") {
  const json status = SomeStatus();
  CHECK(CounterTable(status).Render(false).find("2.0 KiB") != std::string::npos);
  CHECK(DeclineTable(status).Render(false).find("curl(5)") != std::string::npos);
  CHECK(DomainTable(status).Render(false).find("pod:x") != std::string::npos);
  CHECK(MechanismTable(status).Render(false).find("no BPF") != std::string::npos);
  CHECK(Headline(status, 61000).find("2 processes, 1 connection on shared memory (8.0 KiB)") != std::string::npos);
}

TEST_CASE("that an operator has connections stay on TCP is said at once") {
  json status = SomeStatus();
  CHECK(Headline(status, 61000).find("resume") == std::string::npos);

  status["totals"]["stays_on_tcp"] = true;

  CHECK(Headline(status, 61000).find("no connection moves until `heterosockctl resume`") != std::string::npos);
}

TEST_CASE("an answer with nothing in it is shown without a crash") {
  for (const char* text :
       {"{}", "[]", "null", R"({"channels": [{}], "totals": 3, "recent_declines": [1]})",
        R"({"started_unix_ms": -9223372036854775808, "totals": {"channels": 1e300, "processes": -1}})",
        R"({"processes": [{"groups": 1}, 2, {"groups": [3], "channels": -1}]})",
        R"({"channels": [{"channel": 1e300, "since_unix_ms": -1e300, "ends": [{"pid": 0.5}, {}]}]})"}) {
    const json status = json::parse(text);
    ConnectionTable(status, 0).Render(true);
    CounterTable(status).Render(true);
    ProcessTable(status).Render(true);
    DeclineTable(status).Render(true);
    DomainTable(status).Render(true);
    MechanismTable(status).Render(true);
    CHECK_FALSE(Headline(status, 0).empty());
  }
}

TEST_CASE("a number that cannot be is shown as absent") {
  const json status =
      json::parse(R"({"started_unix_ms": 1e300, "totals": {"channels": -1, "processes": 1e300, "stays_on_tcp": "?"}})");
  CHECK(Headline(status, 61000).find("0 processes, 0 connections") != std::string::npos);
  CHECK(EventLine(json::parse(R"({"unix_ms": 9223372036854775807, "event": "x"})")).find("00:00:00.000") == 0);
}

TEST_CASE("an event is a line") {
  const json event = {{"unix_ms", 1500}, {"event", "declined"}, {"command", "curl"}, {"pid", 5},
                      {"local", "a:1"},  {"remote", "b:2"},     {"reason", "policy"}};
  CHECK(EventLine(event) == "00:00:01.500 declined   curl(5)  a:1 - b:2  policy");
  const json pair = {{"unix_ms", 0},  {"event", "paired"},     {"channel", 3},
                     {"by", "token"}, {"command", {"a", "b"}}, {"pid", {1, 2}}};
  CHECK(EventLine(pair) == "00:00:00.000 paired    channel 3  a(1) - b(2)  by token");
}

}  // namespace
}  // namespace heterok8s::heterosock::ctl
