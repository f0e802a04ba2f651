// Network namespaces that are made before it is known where they will be bound.
//
// Threading: any thread. Ownership: an unbound namespace lives as long as its NetnsRef, a bound one as its path.
// Errors: what the kernel said; kAlreadyExists when `path` is a mounted namespace already.
//
//   HK_ASSIGN_OR_RETURN(NetnsRef spare, CreateUnboundNetns());
//   HK_ASSIGN_OR_RETURN(NetnsRef ns, BindNetns(spare, "/run/netns/pod-a"));
#pragma once

#include <string>

#include "common/sys/netns.h"

namespace heterok8s::sys {

// Makes one with lo up that has no path of its own: it lives as long as the reference, or until it is bound.
absl::StatusOr<NetnsRef> CreateUnboundNetns();

// Binds `ns` at `path`, as CreateNetns does with the one it makes.
absl::StatusOr<NetnsRef> BindNetns(const NetnsRef& ns, const std::string& path);

}  // namespace heterok8s::sys
