// Where the library is known not to be as Linux: such a difference is shown and is no failure. Every line is a debt.
#pragma once

#include <string_view>

namespace heterok8s::heterosock::behaviour {

// Why the case differs, or nullptr: it must not.
const char* LimitOf(std::string_view case_name);

}  // namespace heterok8s::heterosock::behaviour
