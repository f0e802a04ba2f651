// Epoll sets of this process that the library did not see being made: by system calls of the program's own, inherited,
// received, or one more than there is room for. A set may hold any connection, and the kernel would tell it nothing of
// bytes in shared memory; so where there is one, connections stay on TCP. One that is made after a connection has moved
// is not noticed.
//
// Threading: one thread at a time (the agent's lock). Costs a system call for each open file that is not the library's,
// and for some closed numbers.
//
//   if (HasUnseenSet(channel.own_bell)) return GiveUpChannel(index, Reason::kEpoll);
#pragma once

namespace heterok8s::heterosock {

// `stranger` is a file that can be polled and that nobody but the library puts into sets.
bool HasUnseenSet(int stranger);
// The one that was found last is still open: no need to ask the agent for what would be given up.
bool UnseenSetStays(int stranger);

}  // namespace heterok8s::heterosock
