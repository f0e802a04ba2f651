// A heterosockd of one test, in a folder of its own; gone with the object.
#pragma once

#include <sys/types.h>

#include <string>

namespace heterok8s::heterosock::behaviour {

// `name` relative to the folder of this executable; "" when there is no such file.
std::string BesideThisProgram(const std::string& name);

class Agent {
 public:
  Agent() = default;
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // False when the program is not built or did not come up. `program`: another heterosockd than the one built with
  // this.
  bool Start(const std::string& program = "");
  void Kill();        // as a crash
  bool StartAgain();  // after Kill(), at the same path
  void Stop();        // it does nothing until it is killed, or
  void Continue();
  const std::string& path() const { return path_; }
  std::string admin() const { return folder_ + "/admin.sock"; }
  pid_t pid() const { return pid_; }  // -1: none

 private:
  std::string program_, folder_, path_;
  pid_t pid_ = -1;
};

}  // namespace heterok8s::heterosock::behaviour
