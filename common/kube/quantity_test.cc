#include "common/kube/quantity.h"

#include <catch2/catch.hpp>

namespace heterok8s::kube {

TEST_CASE("quantities are read as Kubernetes reads them") {
  CHECK(*ParseMilli("250m") == 250);
  CHECK(*ParseMilli("1.5") == 1500);
  CHECK(*ParseMilli("64Mi") == int64_t{64} * 1048576 * 1000);
  CHECK(*ParseMilli("1k") == 1000000);
  CHECK(*ParseMilli("1e3") == 1000000);
  CHECK(*ParseMilli("2E+3") == 2000000);
  CHECK(*ParseMilli("5e-3") == 5);
  CHECK(*ParseMilli("100n") == 1);  // rounded up
}

TEST_CASE("what is no quantity is refused, however large") {
  for (const std::string text :
       {"", ".", "1.2.3", "lots", "10x", "1 k", "-1", "+1", "1e", "1e+", "1e1000", "1e--3", "10E", "0x10", "1k5"}) {
    INFO(text);
    CHECK_FALSE(ParseMilli(text).ok());
  }
  CHECK_FALSE(ParseMilli(std::string(5000, '9')).ok());
}

}  // namespace heterok8s::kube
