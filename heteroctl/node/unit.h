// Drop-ins that give a systemd unit's program more arguments.
//
// Purpose: kubelet is pointed at heterocri, and containerd at another socket, by one file each that can be taken away
// again; nothing of the distribution's is edited. A flag that comes last wins over earlier flags and over kubelet's
// configuration file.
// Threading: pure. Errors: kNotFound and kFailedPrecondition say what of the unit is not as expected.
//
//   HK_ASSIGN_OR_RETURN(std::string command, ExecStartOf(systemctl_cat_output, kDropInPath));
//   std::string text = DropIn(command, "--container-runtime-endpoint=unix:///run/heterok8s/cri.sock", {});
#pragma once

#include <string>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::ctl {

// The command that the unit runs, from what `systemctl cat` prints: of all its files but `without`, in their order. An
// empty ExecStart= forgets what came before (systemd.service(5)).
absl::StatusOr<std::string> ExecStartOf(const std::string& cat, const std::string& without);

// `command` with `arguments` after it; `unit_lines` go to [Unit], `service_lines` to [Service].
std::string DropIn(const std::string& command, const std::string& arguments, const std::vector<std::string>& unit_lines,
                   const std::vector<std::string>& service_lines = {});

}  // namespace heterok8s::ctl
