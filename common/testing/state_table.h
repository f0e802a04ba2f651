// The table of a state machine as its test found it, in Markdown: a column for each state, a row for each event.
//
// Purpose: a test runs every event in every state and compares this text with the one in docs/protocols, so that the
// document is true. Threading: none. Errors: none.
//
//   const std::string table = StateTable(States(), Events(), [](const Step& state, const Step& event) { … });
//   INFO("the table is now\n" << table);
//   CHECK(document.find(table) != std::string::npos);
#pragma once

#include <string>
#include <vector>

namespace heterok8s::testing {

// Of states and events that have a `name`. `cell`: what becomes of the state by the event.
template <typename Step, typename Cell>
std::string StateTable(const std::vector<Step>& states, const std::vector<Step>& events, Cell cell) {
  std::string table = "| |", line = "|---|";
  for (const Step& state : states) {
    table += std::string(" ") + state.name + " |";
    line += "---|";
  }
  table += "\n" + line + "\n";
  for (const Step& event : events) {
    table += std::string("| ") + event.name + " |";
    for (const Step& state : states) table += " " + cell(state, event) + " |";
    table += "\n";
  }
  return table;
}

}  // namespace heterok8s::testing
