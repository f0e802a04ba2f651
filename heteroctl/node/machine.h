// What setting a Node up does to its machine: files, systemd, and looks at kubelet. A port, so that the order of the
// steps is tested against a kubelet that behaves as a script says.
//
// Threading: one thread. Ownership: a lock, which the kernel frees with the process; what it changes is the machine's.
// Errors: name the file or the command and what it printed.
//
//   SystemdMachine machine("");                       // or a folder that stands for "/"
//   HK_RETURN_IF_ERROR(machine.Systemctl({"restart", "kubelet"}));
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::ctl {

class Machine {
 public:
  virtual ~Machine() = default;

  virtual absl::StatusOr<std::string> Read(const std::string& path) = 0;
  virtual absl::Status Write(const std::string& path, const std::string& text) = 0;  // with its folders
  virtual absl::Status Remove(const std::string& path) = 0;                          // also when it is gone
  // What it prints; an exit code but 0 is an error with what it said.
  virtual absl::StatusOr<std::string> Systemctl(const std::vector<std::string>& arguments) = 0;
  virtual absl::StatusOr<std::string> Run(const std::vector<std::string>& argv) = 0;
  // Of a plain HTTP server on this machine: whether it says 200.
  virtual absl::Status HttpOk(int port, const std::string& path) = 0;
  // Whether a CRI runtime answers there, and how many split Pods run through it; 0 for one that is not heterocri.
  virtual absl::StatusOr<int> SplitPods(const std::string& socket) = 0;
  virtual void Sleep(std::chrono::milliseconds time) = 0;
  virtual std::chrono::milliseconds Now() = 0;    // of a clock that nobody sets: for how long something took
  virtual std::chrono::milliseconds Clock() = 0;  // since 1970, as the cluster counts
  // This program is the only one that switches the Node, for as long as the object lives and however the program ends;
  // kUnavailable while another is. Also when it has been called before.
  virtual absl::Status BeTheOnlyOne() = 0;
};

class SystemdMachine final : public Machine {
 public:
  // `root` stands before every path of a file.
  explicit SystemdMachine(std::string root) : root_(std::move(root)) {}

  absl::StatusOr<std::string> Read(const std::string& path) override;
  absl::Status Write(const std::string& path, const std::string& text) override;
  absl::Status Remove(const std::string& path) override;
  absl::StatusOr<std::string> Systemctl(const std::vector<std::string>& arguments) override;
  absl::StatusOr<std::string> Run(const std::vector<std::string>& argv) override;
  absl::Status HttpOk(int port, const std::string& path) override;
  absl::StatusOr<int> SplitPods(const std::string& socket) override;
  void Sleep(std::chrono::milliseconds time) override;
  std::chrono::milliseconds Now() override;
  std::chrono::milliseconds Clock() override;
  absl::Status BeTheOnlyOne() override;

 private:
  const std::string root_;
  sys::UniqueFd lock_;
};

}  // namespace heterok8s::ctl
