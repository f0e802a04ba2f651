// What this kernel offers and what is used instead of what it does not: a line each in `heterosockctl status`.
//
// Threading: any thread. Ownership: values. Errors: none; an absent feature is a line.
//
//   std::vector<Mechanism> lines = ProbeMechanisms();
#pragma once

#include <vector>

#include "heterosock/agent/agent.h"

namespace heterok8s::heterosock::agent {

std::vector<Mechanism> ProbeMechanisms();
// The line about how ends are matched: by tokens, or by addresses because `why_not`.
Mechanism DescribeMatching(bool tokens, const std::string& detail);

}  // namespace heterok8s::heterosock::agent
