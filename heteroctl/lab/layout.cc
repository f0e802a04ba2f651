#include "heteroctl/lab/layout.h"

#include <fmt/format.h>

#include <cstdlib>

namespace heterok8s::lab {

std::string Name(Place place) {
  switch (place) {
    case Place::kHost:
      return "host";
    case Place::kDpu:
      return "dpu";
    case Place::kClient:
      return "client";
  }
  return "unknown";
}

absl::StatusOr<Place> ParsePlace(const std::string& text) {
  for (Place place : kPlaces) {
    if (Name(place) == text) return place;
  }
  return absl::InvalidArgumentError(fmt::format("'{}' is no place of a lab: host, dpu or client", text));
}

absl::Status CheckName(const std::string& name) {
  const Layout layout{name};
  const std::string first = layout.First();
  const bool right_characters = first.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string::npos;
  if (first.empty() || first.size() > 20 || first.front() == '-' || first.back() == '-' || !right_characters) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' cannot name a lab: lower-case letters, digits and inner '-', at most 20 characters", name));
  }
  if (name != first && (layout.Node() < 2 || layout.Node() > kMaxNodes || name != layout.OfNode(layout.Node()).name)) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' cannot name a Node of a lab: .2 to .{} behind its name", name, kMaxNodes));
  }
  return absl::OkStatus();
}

int Layout::Node() const {
  const size_t dot = name.find('.');
  return dot == std::string::npos ? 1 : std::atoi(name.c_str() + dot + 1);
}

std::string Layout::First() const { return name.substr(0, name.find('.')); }

Layout Layout::OfNode(int number) const { return {number == 1 ? First() : fmt::format("{}.{}", First(), number)}; }

}  // namespace heterok8s::lab
