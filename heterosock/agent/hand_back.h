// Has a channel's ends move back to TCP, and brings bytes of a ring there for a sender that is busy elsewhere
// (layout/channel.h, "Moving back").
//
// Purpose: a receiver that hands its socket to a program without the library calls back what it has not read. The
// sender answers from its next call into the library; until then only somebody with its socket can.
// Threading: any thread. Ownership: borrows all descriptors. Never blocks. Errors: kFailedPrecondition: nothing was
// called back, or the memory could be truncated under us. kAlreadyExists: the sender is at it. Others: of errno.
//
//   HK_ASSIGN_OR_RETURN(sys::UniqueFd socket, TakeSocket(pidfd, pid, cookie));
//   HK_ASSIGN_OR_RETURN(uint64_t bytes, HandBack(memory, side, socket.get()));
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::heterosock::agent {

// A copy of the descriptor under which the process has the socket with this SO_COOKIE and inode.
absl::StatusOr<sys::UniqueFd> TakeSocket(int pidfd, pid_t pid, uint64_t inode, uint64_t cookie);

// Each end's next call that sends or waits moves its direction back, as if the other end had asked.
absl::Status AskForTcp(int memory);

// Whether the side `receiver` called its unread bytes back.
bool CalledBack(int memory, int receiver);

// `receiver`: the side that called its bytes back. `socket`: the sender's. Returns how many bytes it wrote.
absl::StatusOr<uint64_t> HandBack(int memory, int receiver, int socket);

}  // namespace heterok8s::heterosock::agent
