// The calls of a random program's steps, each by the system call that the step names, and what they say.
//
// Threading: the calling process, thread or child of the step. Errors: said, as everything that Linux defines.
//
//   SendAs(end, fd, step);  // step.b: by which call
#pragma once

#include <cstddef>

#include "heterosock/tests/program.h"

namespace heterok8s::heterosock::behaviour {

void SendAs(End& e, int fd, const ProgramStep& step);
// there: bytes that have arrived; some: whether a call that may wait would return at once.
void ReceiveAs(End& e, int fd, const ProgramStep& step, size_t there, bool some);
// Into a pipe of one page, which is emptied now and then. at_end: what is not there will not come.
void SpliceAs(End& e, int fd, const ProgramStep& step, size_t there, bool at_end);
void SetOption(End& e, int fd, const ProgramStep& step);
// Another program reads or writes.
void SpawnAs(End& e, int fd, const ProgramStep& step);
// other: a descriptor of the other connection, or -1.
void PollAs(End& e, int fd, int other, const ProgramStep& step);
// timeout in milliseconds, as epoll_wait's.
void WaitOn(End& e, int ep, int timeout);
// A read that a time limit or a signal ends.
void WaitInVain(End& e, int fd, const ProgramStep& step);

}  // namespace heterok8s::heterosock::behaviour
