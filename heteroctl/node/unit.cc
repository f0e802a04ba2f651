#include "heteroctl/node/unit.h"

#include <fmt/format.h>

#include <sstream>

namespace heterok8s::ctl {
namespace {

std::string Trim(const std::string& text) {
  size_t first = text.find_first_not_of(" \t\r"), last = text.find_last_not_of(" \t\r");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

}  // namespace

absl::StatusOr<std::string> ExecStartOf(const std::string& cat, const std::string& without) {
  std::istringstream lines(cat);
  std::string command, section;
  bool skip = false;
  int commands = 0;
  for (std::string line; std::getline(lines, line);) {
    // "# /etc/systemd/system/kubelet.service.d/10-kubeadm.conf" is how `systemctl cat` begins a file.
    if (line.rfind("# /", 0) == 0) skip = Trim(line.substr(2)) == without;
    std::string text = Trim(line);
    if (skip || text.empty() || text[0] == '#' || text[0] == ';') continue;
    for (std::string more; text.back() == '\\' && std::getline(lines, more);) {
      text = Trim(text.substr(0, text.size() - 1)) + " " + Trim(more);
    }
    if (text[0] == '[') section = text;
    if (section != "[Service]" || text.rfind("ExecStart", 0) != 0) continue;
    size_t equals = text.find('=');
    if (equals == std::string::npos || Trim(text.substr(0, equals)) != "ExecStart")
      continue;  // ExecStartPre and others
    command = Trim(text.substr(equals + 1));
    commands = command.empty() ? 0 : commands + 1;
  }
  if (commands == 0) return absl::NotFoundError("the unit has no ExecStart");
  if (commands > 1) return absl::FailedPreconditionError("the unit has several ExecStart");
  return command;
}

std::string DropIn(const std::string& command, const std::string& arguments, const std::vector<std::string>& unit_lines,
                   const std::vector<std::string>& service_lines) {
  std::string text = "# Made by `heteroctl node enable`; `heteroctl node disable` takes it away.\n";
  if (!unit_lines.empty()) text += "[Unit]\n";
  for (const std::string& line : unit_lines) text += line + "\n";
  text += fmt::format("[Service]\nExecStart=\nExecStart={} {}\n", command, arguments);
  for (const std::string& line : service_lines) text += line + "\n";
  return text;
}

}  // namespace heterok8s::ctl
