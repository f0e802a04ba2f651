// Routing netlink of one network namespace, as a port: LibnlNetlink is the kernel, FakeNetlink behaves like it.
//
// Purpose: read links, addresses, routes, rules, neighbours and queues; change them in batches that go to the kernel
// in one system call.
// Threading: thread-compatible (one caller at a time). An instance stays with the namespace it was made in, whatever
// the calling thread's namespace is.
// Ownership: owns its socket; borrows the namespace descriptors in VethEnd and SetLink during the call only.
// Errors: what the kernel said, with the change and the object named: "add route 10.0.0.5/32 dev 7: File exists".
// kNotFound: no such link, address, route, rule or neighbour; kAlreadyExists; kPermissionDenied; kInvalidArgument.
//
//   HK_ASSIGN_OR_RETURN(Link eth0, netlink.FindLink("eth0"));
//   Batch batch;
//   batch.Add(SetLink{.link = eth0.index, .up = true});
//   batch.Add(ReplaceAddress{{.link = eth0.index, .prefix = *IpPrefix::Parse("10.88.0.5/32")}});
//   HK_RETURN_IF_ERROR(netlink.Apply(batch));
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/netlink/types.h"
#include "common/status/status.h"

namespace heterok8s::netlink {

// A pair whose ends are born with their names, in their namespaces: nothing is ever moved or renamed, which would cost
// the kernel an RCU grace period. kAlreadyExists when either name is taken. The kernel takes no alias here: follow with
// SetLink{.by_name, .alias} in the same batch.
struct AddVeth {
  VethEnd end, peer;
};
struct AddIfb {  // the device that gives arriving packets a queue
  std::string name;
};
struct DeleteLink {  // of a veth: both ends
  int link = 0;
};
// Every member that is set is changed in one request, `inet4` and `no_link_local` in one before it. With `netns_fd` the
// link moves there first (which takes it down and drops its addresses and routes), then `name` and `up` are applied to
// it in its new home; `inet4` and `no_link_local` are refused then, because a link loses them when it moves.
struct SetLink {
  int link = 0;
  std::string by_name;  // instead of `link`, for one whose index is not known yet; excludes `name`
  std::optional<std::string> name, mac, alias;
  std::optional<int> mtu;
  std::optional<bool> up;
  std::optional<Inet4Conf> inet4;
  bool no_link_local = false;  // no automatic fe80:: address, so no DAD and no router solicitation
  int netns_fd = -1;
};
struct AddAltName {  // kAlreadyExists when any link of the namespace has the name
  int link = 0;
  std::string name;
};
struct AddAddress {  // kAlreadyExists when it is there
  Address address;
};
struct ReplaceAddress {  // adds, or changes what is there
  Address address;
};
struct DeleteAddress {
  Address address;
};
struct AddRoute {  // kAlreadyExists when a route with this destination, table and metric exists
  Route route;
};
struct ReplaceRoute {  // adds, or replaces the route with the same destination, table and metric, whatever its link
  Route route;
};
struct DeleteRoute {  // matches destination, table, metric, and link and via when given
  Route route;
};
struct AddRule {  // kAlreadyExists when there is an equal one
  Rule rule;
};
struct DeleteRule {
  Rule rule;
};
struct ReplaceNeighbor {
  Neighbor neighbor;
};
struct DeleteNeighbor {
  Neighbor neighbor;  // mac is not compared
};
struct ReplaceTbf {
  int link = 0;
  Tbf tbf;
};
struct DeleteRootQueue {
  int link = 0;
};
struct AddRedirect {  // everything that arrives on `link` leaves through `to`; kAlreadyExists when `link` has one
  int link = 0;
  int to = 0;
};
struct DeleteRedirect {
  int link = 0;
};

using Change = std::variant<AddVeth, AddIfb, DeleteLink, SetLink, AddAltName, AddAddress, ReplaceAddress, DeleteAddress,
                            AddRoute, ReplaceRoute, DeleteRoute, AddRule, DeleteRule, ReplaceNeighbor, DeleteNeighbor,
                            ReplaceTbf, DeleteRootQueue, AddRedirect, DeleteRedirect>;

// "add route 10.88.0.5/32 dev 7 table 254": what error texts call a change.
std::string Describe(const Change& change);
// "AddRoute": the name by which FakeNetlink::FailNext knows it.
std::string_view KindOf(const Change& change);

class Batch {
 public:
  struct Item {
    Change change;
    absl::StatusCode tolerated;  // this failure counts as success
  };
  // E.g. Add(AddRule{…}, absl::StatusCode::kAlreadyExists), Add(DeleteRoute{…}, absl::StatusCode::kNotFound).
  Batch& Add(Change change, absl::StatusCode tolerated = absl::StatusCode::kOk) {
    items_.push_back({std::move(change), tolerated});
    return *this;
  }
  const std::vector<Item>& items() const { return items_; }
  bool empty() const { return items_.empty(); }

 private:
  std::vector<Item> items_;
};

class Netlink {
 public:
  virtual ~Netlink() = default;

  virtual absl::StatusOr<std::vector<Link>> Links() = 0;
  // By name or alternative name. One look-up in the kernel, however many links there are.
  virtual absl::StatusOr<Link> FindLink(const std::string& name) = 0;
  // Of one link; `link` 0: of all.
  virtual absl::StatusOr<std::vector<Address>> Addresses(int link) = 0;
  // One table, of one link (0: of all), of one family (absent: of both); one for each next hop of a route with several.
  // Routes the kernel makes by itself are included, cached clones are not.
  virtual absl::StatusOr<std::vector<Route>> Routes(uint32_t table, int link = 0,
                                                    std::optional<Family> family = std::nullopt) = 0;
  virtual absl::StatusOr<std::vector<Rule>> Rules(Family family) = 0;
  // Permanent ones of one link; `link` 0: of all.
  virtual absl::StatusOr<std::vector<Neighbor>> Neighbors(int link) = 0;
  virtual absl::StatusOr<Shaping> ShapingOf(int link) = 0;

  // The end of a veth that came up first has no carrier then, and goes on dropping what it sends until the kernel's
  // link watch has run, which a busy machine does late. This makes it run now. Without it the first packet may be lost.
  virtual absl::Status SyncCarrier(const std::string& name) = 0;

  // All changes in order, in one system call where they fit. Every change is attempted even when one before it
  // failed; the result is the first failure that was not tolerated.
  virtual absl::Status Apply(const Batch& batch) = 0;

  absl::Status Do(Change change, absl::StatusCode tolerated = absl::StatusCode::kOk) {
    Batch batch;
    batch.Add(std::move(change), tolerated);
    return Apply(batch);
  }
};

// FindLink, for which no such link is an answer and not a failure.
absl::StatusOr<std::optional<Link>> FindIfThere(Netlink& netlink, const std::string& name);

// Waits until the kernel takes packets for `addresses` of `link`. Linux gives an IPv6 address its local route from a
// work queue that needs RTNL, even without DAD: usually some milliseconds after it was added, seconds when hundreds of
// interfaces come and go at once. (IPv4 ones have theirs at once.) kDeadlineExceeded names the address that is missing
// after `timeout`.
absl::Status WaitForLocalRoutes(Netlink& netlink, int link, const std::vector<IpAddress>& addresses,
                                std::chrono::milliseconds timeout = std::chrono::milliseconds(15000));

}  // namespace heterok8s::netlink
