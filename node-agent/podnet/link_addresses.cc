#include <algorithm>

#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {

IpAddress LinkAddresses::ToV6(const IpAddress& v4) {
  // The bytes 68 6b 38 73 38 read "hk8s8": a unique local prefix that is easy to spot.
  IpAddress v6{.family = Family::kV6, .bytes = {0xfd, 0x68, 0x6b, 0x38, 0x73, 0x38}};
  std::copy_n(v4.bytes.begin(), 4, v6.bytes.begin() + 12);
  return v6;
}

IpPrefix LinkAddresses::RangeV6() { return {ToV6({.family = Family::kV4}), 48}; }

IpAddress LinkAddresses::Localhost(Family family) {
  const IpAddress v4 = IpAddress::V4(0xa9fed502);  // 169.254.213.2: a9fe + d502 = 7f00 + 0001, in ones' complement
  if (family == Family::kV4) return v4;
  IpAddress v6 = ToV6(v4);  // fd68:6b38:7338::a525:a9fe:d502
  v6.bytes[10] = 0xa5;
  v6.bytes[11] = 0x25;
  return v6;
}

}  // namespace heterok8s::podnet
