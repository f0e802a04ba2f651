// heterok8s-cni without its process: a CNI call in, an exit status and what to print out.
//
// Purpose: everything that needs no heterod (checks of the call, VERSION, errors), the exchange with heterod over its
// Unix socket, and what happens when heterod is away:
//   ADD, CHECK  code 11 (try again later): nothing was done, or DEL will undo it
//   STATUS      code 50
//   DEL         success; the call is left in queueDir and heterod carries it out when it is back
//   GC          success with a note on stderr; heterod compares ledger and kernel at its start, and GC comes again
// A DEL that heterod received but did not answer in time is queued too: it may be carried out twice, which is harmless.
// Threading: none. Ownership: values. Errors: all end up in Outcome.
//
//   Outcome outcome = HandleCall(environment, stdin_text, FetchStdin);
#pragma once

#include <functional>
#include <map>
#include <string>

#include "common/status/status.h"

namespace heterok8s::cni {

struct Outcome {
  int exit_code = 0;
  std::string stdout_text;  // the protocol's
  std::string stderr_text;  // for people; runtimes put it into their log
};

// `read_stdin` is called at most once, and not for VERSION, whose caller may leave stdin open.
Outcome HandleCall(const std::map<std::string, std::string>& environment,
                   const std::function<absl::StatusOr<std::string>()>& read_stdin);

}  // namespace heterok8s::cni
