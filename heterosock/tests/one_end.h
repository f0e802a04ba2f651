// The programs that a test of cases starts: itself, as one end of a case, and as what an end became by exec.
//
//   int main(int argc, char** argv) {
//     if (std::optional<int> status = RunAsEnd(argc, argv)) return *status;
//     ...
#pragma once

#include <optional>

namespace heterok8s::heterosock::behaviour {

// The exit status of an end; nothing when the words are not of one.
std::optional<int> RunAsEnd(int argc, char** argv);

}  // namespace heterok8s::heterosock::behaviour
