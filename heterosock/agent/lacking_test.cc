// Kernels that lack something, made of this one by seccomp: status says so in one line, and connections move without it
// or stay on TCP.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include "common/testing/matchers.h"
#include "heterosock/agent/mechanisms.h"
#include "heterosock/agent/testing/client.h"
#include "heterosock/agent/testing/joined.h"

namespace heterok8s::heterosock::agent {
namespace {

using namespace testing;

constexpr uint32_t kWhatever = ~0u;

struct Lack {
  const char* what;
  uint32_t call;
  uint32_t argument, value;  // which of its arguments is what; kWhatever: all calls
  uint32_t error;
  const char *mechanism, *instead;
  const char* answer;  // to an offer
};

// This thread, and those that it starts, have such a kernel from here on.
bool Take(const Lack& lack) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, lack.call, 0, 3),
      // The low word, as both of our instruction sets are little-endian.
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
               static_cast<uint32_t>(lack.argument == kWhatever ? offsetof(seccomp_data, nr)
                                                                : offsetof(seccomp_data, args) + 8 * lack.argument)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, lack.argument == kWhatever ? lack.call : lack.value, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | lack.error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{static_cast<unsigned short>(std::size(program)), program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

// "paired", or why not.
absl::StatusOr<std::string> AnswerToAnOffer() {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<RunningAgent> agent, RunningAgent::Start(Patient()));
  HK_ASSIGN_OR_RETURN(Client client, Client::Connect(agent->socket()));
  HK_ASSIGN_OR_RETURN(Client server, Client::Connect(agent->socket()));
  HK_ASSIGN_OR_RETURN(Connection connection, MakeConnection());
  HK_RETURN_IF_ERROR(client.Offer(1, connection.client.get()));
  HK_RETURN_IF_ERROR(server.Offer(1, connection.server.get()));
  HK_ASSIGN_OR_RETURN(Packet packet, client.Next());
  protocol::Declined declined;
  if (protocol::Parse(packet.bytes.data(), packet.bytes.size(), packet.descriptors.size(), declined))
    return protocol::ReasonText(static_cast<protocol::Reason>(declined.reason));
  protocol::Paired paired;
  if (protocol::Parse(packet.bytes.data(), packet.bytes.size(), packet.descriptors.size(), paired)) return "paired";
  return absl::InternalError("neither PAIRED nor DECLINED");
}

TEST_CASE("what a kernel lacks is said in one line, and replaced or done without") {
  const Lack lack = GENERATE(values<Lack>({
      {"memfds", SYS_memfd_create, kWhatever, 0, ENOSYS, "memory", "none", "the agent failed"},
      {"sealing", SYS_fcntl, 1, F_ADD_SEALS, EINVAL, "memory", "none", "the agent failed"},
      // The probe's call alone: glibc, which has registered an area for the first thread, aborts when it cannot for
      // another.
      {"rseq", SYS_rseq, 1, 0, ENOSYS, "rseq", "none", "paired"},
      {"SO_PEERPIDFD", SYS_getsockopt, 2, 77, ENOPROTOOPT, "process identity", "pid", "paired"},
  }));
  CAPTURE(lack.what);

  bool taken = false;
  std::vector<Mechanism> lines;
  absl::StatusOr<std::string> answer;
  std::thread([&] {
    taken = Take(lack);
    lines = ProbeMechanisms();
    answer = AnswerToAnOffer();
  }).join();

  REQUIRE(taken);
  std::string instead;
  for (const Mechanism& line : lines) {
    if (line.name == lack.mechanism) instead = line.active;
  }
  CHECK(instead == lack.instead);
  REQUIRE_OK(answer);
  CHECK(*answer == lack.answer);
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
