// What heteroctl shows: common/terminal under this program's own names; threading, ownership and errors are its.
//
//   context.output.Line("done", Style::kGood);
#pragma once

#include "common/terminal/output.h"

namespace heterok8s::ctl {

using namespace terminal;  // NOLINT: these are this program's words

}  // namespace heterok8s::ctl
