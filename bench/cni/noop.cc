// A CNI plugin that does nothing: what cnitool and the start of any plugin cost.
#include <unistd.h>

int main() {
  constexpr char kResult[] = R"({"cniVersion": "1.0.0", "ips": []})";
  return write(STDOUT_FILENO, kResult, sizeof kResult - 1) > 0 ? 0 : 1;
}
