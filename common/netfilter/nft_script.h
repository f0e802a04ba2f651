// Scripts in a part of nft's language, run without libnftables.
//
// Purpose: the tables of Pods are made while somebody waits. libnftables takes two milliseconds to parse and check the
// sixty rules of one; this takes a twentieth of that. It knows the words that these tables are written in and
// refuses all others, so what it does not refuse means what it means to nft: nft_script_test compares the two.
// In one script: declarations of tables of family inet, sets, counters and chains, `flush table`, `delete table`,
// rules. Threading: any thread, any number of them. The script works on the network namespace of the calling thread.
// Ownership: none kept. Errors: kInvalidArgument quotes the line that is not understood. What the kernel said
// otherwise, with the number of the line; nothing of the script is done then.
//
//   HK_RETURN_IF_ERROR(RunScript("add table inet t\nadd chain inet t c\nadd rule inet t c ip saddr 10.0.0.1 drop\n"));
#pragma once

#include <string>
#include <string_view>

#include "common/status/status.h"

namespace heterok8s::netfilter {

// The messages between the begin and the end of a batch; the last one asks for an acknowledgement.
absl::StatusOr<std::string> CompileScript(std::string_view script);

absl::Status RunScript(std::string_view script);

}  // namespace heterok8s::netfilter
