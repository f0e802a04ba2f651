#include "heteroctl/lab/layout.h"

#include <fmt/format.h>

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
  const bool right_characters = name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string::npos;
  if (name.empty() || name.size() > 20 || name.front() == '-' || name.back() == '-' || !right_characters) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' cannot name a lab: lower-case letters, digits and inner '-', at most 20 characters", name));
  }
  return absl::OkStatus();
}

}  // namespace heterok8s::lab
