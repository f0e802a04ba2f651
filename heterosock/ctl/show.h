// heterosockd's answers as people read them.
//
// Threading: pure functions. Errors: fields that a newer agent leaves out are shown as "-".
//
//   output.Print(ConnectionTable(status, now_ms));
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "common/terminal/output.h"

namespace heterok8s::heterosock::ctl {

// "up for 3 min, 2 processes, 1 connection, 1.1 MiB of shared memory, 5 offers waiting", and a line if none may move.
std::string Headline(const nlohmann::json& status, int64_t now_ms);
// Who talks over what.
terminal::Table ConnectionTable(const nlohmann::json& status, int64_t now_ms);
// What has the library and made an offer, and what became of its offers.
terminal::Table ProcessTable(const nlohmann::json& status);
// Each end's counters: tcpdump and ss see none of these bytes.
terminal::Table CounterTable(const nlohmann::json& status);
// Why others stay on TCP.
terminal::Table DeclineTable(const nlohmann::json& status);
terminal::Table DomainTable(const nlohmann::json& status);
terminal::Table MechanismTable(const nlohmann::json& status);
// One line of `heterosockctl trace`: "12:00:00.123 declined  curl(12)  10.0.0.1:5 - 10.0.0.2:80  policy"
std::string EventLine(const nlohmann::json& event);

}  // namespace heterok8s::heterosock::ctl
