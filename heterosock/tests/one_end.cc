#include "heterosock/tests/one_end.h"

#include <sys/socket.h>

#include <cstdlib>
#include <cstring>

#include "heterosock/tests/case.h"
#include "heterosock/tests/meddler.h"

namespace heterok8s::heterosock::behaviour {
namespace {

int RunOneEnd(char** words) {  // server|client 4|6 warm|cold NAME
  Meddler::Introduce();
  for (const Case* each : Cases()) {
    if (std::strcmp(each->name, words[3]) != 0) continue;
    End end(words[0][0] == 's' ? Role::kServer : Role::kClient, words[1][0] == '4' ? AF_INET : AF_INET6,
            words[2][0] == 'w');
    return RunEnd(*each, end);
  }
  return 3;
}

int RunOneStep(char** words) {  // STEP server|client 4|6 FD
  End end(words[1][0] == 's' ? Role::kServer : Role::kClient, words[2][0] == '4' ? AF_INET : AF_INET6, false);
  Step step = FindStep(words[0]);
  if (!step) return 3;
  step(end, std::atoi(words[3]));
  return 0;
}

}  // namespace

std::optional<int> RunAsEnd(int argc, char** argv) {
  if (argc == 6 && !std::strcmp(argv[1], "--end")) return RunOneEnd(argv + 2);
  if (argc == 6 && !std::strcmp(argv[1], "--step")) return RunOneStep(argv + 2);
  return std::nullopt;
}

}  // namespace heterok8s::heterosock::behaviour
