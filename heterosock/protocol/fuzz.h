// The entry of the protocol's fuzzer, also called by its test with seeded mutations.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
