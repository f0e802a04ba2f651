// How a link between this Node's two processing units is made and found again.
//
// Purpose: hide whether the DPU is a second namespace, a VM or a BlueField. Core code asks for capabilities, never for
// a name. One instance per heterod; the host's instance makes links, the DPU's finds its ends.
// Threading: thread-safe. Ownership: kernel objects belong to the Pod named by their OwnerTag, which is stored on the
// object (ifalias), so ListLinks() needs no database.
// Errors: kUnavailable when the other PU's device is gone; kNotFound from FindLink.
//
//   HK_ASSIGN_OR_RETURN(LinkEnd mine, backend.AcquireLink(tag, {.mtu = 1500, .netns = &pod_h, .ifname = "eth0"}));
#pragma once

#include <string>
#include <vector>

#include "common/status/status.h"
#include "common/sys/netns.h"

namespace heterok8s::pu {

enum class Side { kHost, kDpu };

// Which Pod a kernel object belongs to. Its text form is the object's ifalias: "heterok8s:<instance>:<pod
// key>:<ifname>".
struct OwnerTag {
  std::string instance;  // which heterok8s installation on this kernel; several labs share one
  std::string pod_key;   // Pod UID, or the container id where the runtime gives no UID
  std::string ifname;    // CNI_IFNAME of the Pod's interface, e.g. "eth0"

  std::string ToAlias() const;
  static absl::StatusOr<OwnerTag> FromAlias(const std::string& alias);
  auto operator<=>(const OwnerTag&) const = default;
};

// "hk" + role letter + 11 hex digits of a hash of the tag: at most 15 characters, the same at every call.
std::string InterfaceName(const OwnerTag& tag, char role);
// A locally administered address, the same at every call: permanent neighbour entries need no exchange.
std::string LinkMac(const OwnerTag& tag, Side side);

struct LinkEnd {
  std::string ifname;  // in the namespace where it is now
  std::string mac;     // of this end
  int mtu = 0;         // bytes
};

struct LinkRequest {
  int mtu = 1500;                        // bytes
  const sys::NetnsRef* netns = nullptr;  // where this PU's end is wanted; null: this PU's root namespace
  std::string ifname;                    // its name there; empty: InterfaceName(tag, 'x')
};

struct Capabilities {
  std::string backend;  // for people only
  int max_mtu = 0;      // bytes
  bool shared_kernel = false;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual Capabilities caps() const = 0;
  // Host: makes the link, or finds it when it exists already, this end as `request` says, the other end where
  // AcceptLink finds it: in the DPU's root namespace, named InterfaceName(tag, 'x'), or already in place: the Pod's
  // DPU half, its namespace and its uplink, are there before this is called.
  virtual absl::StatusOr<LinkEnd> AcquireLink(const OwnerTag& tag, const LinkRequest& request) = 0;
  // DPU: takes this PU's end from the root namespace (or from `request.netns`, when a former call got that far) to
  // where `request` says. kNotFound when the host has not made the link, or it is gone.
  virtual absl::StatusOr<LinkEnd> AcceptLink(const OwnerTag& tag, const LinkRequest& request) = 0;
  // Either side: removes the link. OK when there is none. `netns` is where this side's end may be; null: only the root.
  virtual absl::Status ReleaseLink(const OwnerTag& tag, const sys::NetnsRef* netns) = 0;
  // Tags of all link ends now in this PU's root namespace (orphan scan).
  virtual absl::StatusOr<std::vector<OwnerTag>> ListLinks() = 0;
};

}  // namespace heterok8s::pu
