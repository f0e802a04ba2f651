// heterok8s-cni: the CNI plugin. Hands the call to heterod and prints its answer; see shim.h.
//
// It lives for about a millisecond, many times a second on a busy Node: statically linked, no thread, no iostream.
#include <unistd.h>

#include <cerrno>

#include "cni/read_input.h"
#include "cni/shim.h"

namespace {

void WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;  // whoever called us is gone; DEL will clean up
    text.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace

int main(int, char**, char** variables) {
  std::map<std::string, std::string> environment;
  for (char** entry = variables; *entry != nullptr; ++entry) {
    std::string_view pair = *entry;
    size_t equals = pair.find('=');
    if (equals != std::string_view::npos) environment.emplace(pair.substr(0, equals), pair.substr(equals + 1));
  }
  heterok8s::cni::Outcome outcome = heterok8s::cni::HandleCall(
      environment, [] { return heterok8s::cni::ReadInput(STDIN_FILENO, heterok8s::cni::kInputPatience); });
  WriteAll(STDERR_FILENO, outcome.stderr_text);
  WriteAll(STDOUT_FILENO, outcome.stdout_text);
  // No destructors and no exit handlers: nothing of ours needs them.
  _exit(outcome.exit_code);
}
