// Namespaces, of which the next one is made ahead.
//
// Purpose: the kernel takes most of a millisecond to make a network namespace, while an ADD waits. The spare one has no
// path until Ensure takes it, so it ends with this process and needs no clean-up.
// Threading: thread-safe; one thread of its own makes the spare ones. Errors: as Namespaces; a spare one that cannot be
// made is none, and Ensure then makes its own.
//
//   std::unique_ptr<Namespaces> namespaces = NewSpareNamespaces(NewKernelNamespaces());
#pragma once

#include <memory>

#include "node-agent/attach/namespaces.h"

namespace heterok8s::attach {

std::unique_ptr<Namespaces> NewSpareNamespaces(std::unique_ptr<Namespaces> kernel);

}  // namespace heterok8s::attach
