// Namespaces, of which the next ones are made ahead.
//
// Purpose: the kernel takes most of a millisecond to make a network namespace, while an ADD waits, and more to change
// settings of it that need the kernel's network lock. A spare one is made and furnished before. It has no path until
// Ensure takes it, so it ends with this process and needs no clean-up. One that Ensure makes itself is not furnished.
// Threading: thread-safe; one thread of its own makes the spare ones, at the lowest priority. `furnish` runs on it.
// Errors: as Namespaces; a spare one that cannot be made or furnished is none, and Ensure then makes its own.
//
//   std::unique_ptr<Namespaces> namespaces = NewSpareNamespaces(NewKernelNamespaces(), podnet::FurnishDpuNetns);
#pragma once

#include <functional>
#include <memory>

#include "node-agent/attach/namespaces.h"

namespace heterok8s::attach {

using Furnish = std::function<absl::Status(const sys::NetnsRef& ns)>;
std::unique_ptr<Namespaces> NewSpareNamespaces(std::unique_ptr<Namespaces> kernel, Furnish furnish);

}  // namespace heterok8s::attach
