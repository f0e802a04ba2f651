#include "node-agent/cri/wire.h"

#include <google/protobuf/stubs/logging.h>

#include <random>

#include "common/testing/matchers.h"
#include "proto/cri/v1/cri.pb.h"

using heterok8s::testing::HasCode;

namespace heterok8s::cri {
namespace {

TEST_CASE("the id of a request is found without parsing the request") {
  runtime::v1::StopContainerRequest stop;
  stop.set_container_id("abc");
  stop.set_timeout(-5);
  auto id = FirstField(stop.SerializeAsString());
  REQUIRE_OK(id);
  CHECK(*id == "abc");
}

TEST_CASE("an absent id is empty, and other fields are skipped whatever their type") {
  CHECK(*FirstField("") == "");
  CHECK(*FirstField(std::string("\x10\x07"
                                "\x19"
                                "12345678"
                                "\x25"
                                "1234"
                                "\x0a\x02id",
                                20)) == "id");
}

TEST_CASE("the last of several ids counts, as for protobuf") {
  CHECK(*FirstField("\x0a\x01"
                    "a"
                    "\x0a\x01"
                    "b") == "b");
}

TEST_CASE("bytes that are no message are refused") {
  for (std::string bytes : {std::string("\x0a"),
                            std::string("\x0a\x05"
                                        "ab"),
                            std::string("\x0b"), std::string(12, '\xff'), std::string("\x00\x00", 2),
                            std::string("\x0d"
                                        "ab")}) {
    CHECK_THAT(FirstField(bytes).status(), HasCode(absl::StatusCode::kInvalidArgument));
  }
}

TEST_CASE("whatever the bytes, the answer is protobuf's or a refusal") {
  google::protobuf::LogSilencer quiet;  // about ids that are no UTF-8
  std::mt19937 random(20260101);
  runtime::v1::ExecSyncRequest seed;
  seed.set_container_id(std::string(64, 'f'));
  seed.add_cmd("sh");
  seed.add_cmd("-c");
  seed.set_timeout(300);
  const std::string good = seed.SerializeAsString();
  int accepted = 0;
  for (int round = 0; round < 200000; ++round) {
    std::string bytes = good;
    for (int change = random() % 4; change >= 0; --change) {
      size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at);
          break;
        case 2:
          bytes.insert(at, 1, static_cast<char>(random()));
          break;
      }
      if (bytes.empty()) bytes = good;
    }
    auto id = FirstField(bytes);
    runtime::v1::ExecSyncRequest parsed;
    if (!id.ok() || !parsed.ParseFromString(bytes)) continue;
    ++accepted;
    REQUIRE(*id == parsed.container_id());
  }
  CHECK(accepted > 1000);
}

}  // namespace
}  // namespace heterok8s::cri
