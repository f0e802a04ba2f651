#include "heterosock/ctl/show.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdint>

#include "common/json/whole.h"

namespace heterok8s::heterosock::ctl {
namespace {

using nlohmann::json;
using terminal::Cell;
using terminal::HumanAge;
using terminal::HumanBytes;
using terminal::Style;
using terminal::Table;

const json& Member(const json& object, const char* key) {
  static const json kNone;
  auto found = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && found != object.end() ? *found : kNone;
}

// What an agent of another version leaves out, or says in another way, is shown as absent.
std::string Text(const json& object, const char* key, const char* otherwise = "-") {
  const json& member = Member(object, key);
  return member.is_string() ? member.get<std::string>() : otherwise;
}
uint64_t Number(const json& object, const char* key) { return Whole<uint64_t>(Member(object, key), key).value_or(0); }
// Milliseconds since 1970, of a time that system_clock can say in nanoseconds.
int64_t Time(const json& object, const char* key, int64_t otherwise) {
  return Whole<int64_t>(Member(object, key), key, 0, INT64_MAX / 1'000'000).value_or(otherwise);
}

std::string Words(const json& object, const char* key) {
  std::string words;
  for (const json& word : Member(object, key)) {
    if (word.is_string()) words += (words.empty() ? "" : " ") + word.get<std::string>();
  }
  return words.empty() ? "-" : words;
}

std::string Plural(uint64_t count, const char* one, const char* many) {
  return fmt::format("{} {}", count, count == 1 ? one : many);
}

std::string Who(const json& end) {
  std::string name = Text(end, "command");
  if (name.empty()) name = "?";
  const std::string elsewhere = Text(end, "pu") == "other" ? " on the other PU" : "";
  return fmt::format("{}({}){}", name, Number(end, "pid"), elsewhere);
}

// What one end sends over.
Cell Medium(const json& end) {
  const std::string on = Text(end, "sending_on");
  if (on == "shared") return {"shared", Style::kGood};
  if (on == "TCP") return {"TCP (not yet)", Style::kWarning};
  if (on == "back on TCP") return {"TCP (" + Text(end, "fenced", "peer asked") + ")", Style::kWarning};
  return {on, Style::kDim};
}

}  // namespace

std::string Headline(const json& status, int64_t now_ms) {
  const json& totals = Member(status, "totals");
  const int64_t started = Time(status, "started_unix_ms", now_ms);
  const std::string headline = fmt::format(
      "up for {}, {}, {} on shared memory ({}), {} waiting, {} moved so far",
      HumanAge(std::chrono::milliseconds(now_ms - started)),
      Plural(Number(totals, "processes"), "process", "processes"),
      Plural(Number(totals, "channels"), "connection", "connections"), HumanBytes(Number(totals, "memory_bytes")),
      Plural(Number(totals, "waiting_offers"), "offer", "offers"), HumanBytes(Number(totals, "shared_bytes")));
  const json& stays = Member(totals, "stays_on_tcp");
  if (!stays.is_boolean() || !stays.get<bool>()) return headline;
  return headline + "\nno connection moves until `heterosockctl resume`: an operator has all of them stay on TCP";
}

Table ConnectionTable(const json& status, int64_t now_ms) {
  Table table({"CHANNEL", "AGE", "ONE END", "ADDRESS", "SENDS ON", "OTHER END", "ADDRESS", "SENDS ON", "MEMORY"});
  for (const json& channel : Member(status, "channels")) {
    const json& ends = Member(channel, "ends");
    if (!ends.is_array() || ends.size() != 2) continue;
    const int64_t since = Time(channel, "since_unix_ms", now_ms);
    table.Row({std::to_string(Number(channel, "channel")),
               HumanAge(std::chrono::milliseconds(now_ms - since)),
               Who(ends[0]),
               {Text(ends[0], "local"), Style::kDim},
               Medium(ends[0]),
               Who(ends[1]),
               {Text(ends[1], "local"), Style::kDim},
               Medium(ends[1]),
               HumanBytes(Number(channel, "memory_bytes"))});
  }
  return table;
}

Table ProcessTable(const json& status) {
  Table table({"PROCESS", "DOMAIN", "CGROUP", "GROUPS", "SHARED", "OFFERS", "WAITING", "DECLINED"});
  for (const json& process : Member(status, "processes")) {
    const std::string domain = Text(process, "domain"), cgroup = Text(process, "cgroup");
    const auto count = [&](const char* key, Style some) {
      const uint64_t number = Number(process, key);
      return Cell(std::to_string(number), number != 0 ? some : Style::kDim);
    };
    table.Row({Who(process),
               domain,
               {domain == "cgroup:" + cgroup ? "-" : cgroup, Style::kDim},
               Words(process, "groups"),
               count("channels", Style::kGood),
               count("offers", Style::kPlain),
               count("waiting_offers", Style::kPlain),
               count("declined", Style::kWarning)});
  }
  return table;
}

Table CounterTable(const json& status) {
  Table table({"CHANNEL", "END", "SENT", "RECEIVED", "TCP SENT", "TCP RECEIVED", "SENDS", "RECEIVES", "SLEEPS", "RINGS",
               "SPINS", "FULL"});
  for (const json& channel : Member(status, "channels")) {
    for (const json& end : Member(channel, "ends")) {
      const json& c = Member(end, "counters");
      const auto bytes = [&](const char* key) { return Cell(HumanBytes(Number(c, key))); };
      const auto count = [&](const char* key) { return Cell(std::to_string(Number(c, key))); };
      table.Row({std::to_string(Number(channel, "channel")), Who(end), bytes("sent"), bytes("received"),
                 bytes("tcp_sent"), bytes("tcp_received"), count("sends"), count("receives"), count("sleeps"),
                 count("rings"), count("spins"), count("full")});
    }
  }
  return table;
}

Table DeclineTable(const json& status) {
  Table table({"PROCESS", "FROM", "TO", "STAYED ON TCP BECAUSE"});
  for (const json& decline : Member(status, "recent_declines")) {
    table.Row({Who(decline),
               {Text(decline, "local"), Style::kDim},
               {Text(decline, "remote"), Style::kDim},
               {Text(decline, "reason"), Style::kWarning}});
  }
  return table;
}

Table DomainTable(const json& status) {
  Table table({"DOMAIN", "CONNECTIONS", "OF", "ADDRESS SPACE", "OF", "REFUSED"});
  for (const json& domain : Member(status, "domains")) {
    const uint64_t refused = Number(domain, "refused");
    table.Row({Text(domain, "domain"),
               std::to_string(Number(domain, "channels")),
               {std::to_string(Number(domain, "channels_limit")), Style::kDim},
               HumanBytes(Number(domain, "bytes")),
               {HumanBytes(Number(domain, "bytes_limit")), Style::kDim},
               {std::to_string(refused), refused != 0 ? Style::kWarning : Style::kPlain}});
  }
  return table;
}

Table MechanismTable(const json& status) {
  Table table({"MECHANISM", "ACTIVE", "DETAIL"});
  for (const json& mechanism : Member(status, "mechanisms")) {
    const std::string active = Text(mechanism, "active");
    const bool lacking = active == "none" || active == "not joined" || active == "memfd, not sealed";
    table.Row({Text(mechanism, "name"),
               {active, lacking ? Style::kWarning : Style::kPlain},
               {Text(mechanism, "detail"), Style::kDim}});
  }
  return table;
}

std::string EventLine(const json& event) {
  const std::chrono::system_clock::time_point when{std::chrono::milliseconds(Time(event, "unix_ms", 0))};
  std::string line = fmt::format("{:%H:%M:%S}.{:03} {:<9}", fmt::gmtime(std::chrono::system_clock::to_time_t(when)),
                                 Time(event, "unix_ms", 0) % 1000, Text(event, "event"));
  if (event.contains("channel")) line += fmt::format(" channel {}", Number(event, "channel"));
  const json& commands = Member(event, "command");
  if (commands.is_array() && commands.size() == 2) {
    const json& pids = Member(event, "pid");
    for (size_t i = 0; i < 2; ++i) {
      const json end = {{"command", commands[i]}, {"pid", pids.is_array() && pids.size() == 2 ? pids[i] : json(0)}};
      line += (i == 0 ? "  " : " - ") + Who(end);
    }
  } else if (commands.is_string()) {
    line += "  " + Who(event);
  }
  if (event.contains("local")) line += fmt::format("  {} - {}", Text(event, "local"), Text(event, "remote"));
  if (event.contains("by")) line += "  by " + Text(event, "by");
  if (event.contains("reason")) line += "  " + Text(event, "reason");
  return line;
}

}  // namespace heterok8s::heterosock::ctl
