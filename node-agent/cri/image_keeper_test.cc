// The keeper against a runtime that is a gRPC service here: images, containers, and a disk that shrinks with them.
#include "node-agent/cri/image_keeper.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "common/testing/matchers.h"
#include "proto/cri/v1/cri.grpc.pb.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;
namespace rt = runtime::v1;
using Time = std::chrono::system_clock::time_point;
using std::chrono::hours;

struct Runtime final : rt::RuntimeService::Service {
  grpc::Status ListContainers(grpc::ServerContext*, const rt::ListContainersRequest*,
                              rt::ListContainersResponse* response) override {
    for (const std::string& image : used) response->add_containers()->set_image_ref(image);
    return grpc::Status::OK;
  }
  grpc::Status Status(grpc::ServerContext*, const rt::StatusRequest*, rt::StatusResponse* response) override {
    (*response->mutable_info())["config"] = R"({"sandboxImage":"pause:1"})";
    return grpc::Status::OK;
  }
  std::vector<std::string> used;
};

struct Images final : rt::ImageService::Service {
  grpc::Status ListImages(grpc::ServerContext*, const rt::ListImagesRequest*,
                          rt::ListImagesResponse* response) override {
    for (const auto& [id, tag] : there) {
      rt::Image& image = *response->add_images();
      image.set_id(id);
      image.add_repo_tags(tag);
      image.set_pinned(id == "pinned");
    }
    return grpc::Status::OK;
  }
  grpc::Status ImageFsInfo(grpc::ServerContext*, const rt::ImageFsInfoRequest*,
                           rt::ImageFsInfoResponse* response) override {
    response->add_image_filesystems()->mutable_fs_id()->set_mountpoint("/images");
    return grpc::Status::OK;
  }
  grpc::Status RemoveImage(grpc::ServerContext*, const rt::RemoveImageRequest* request,
                           rt::RemoveImageResponse*) override {
    if (request->image().image() == stuck) return grpc::Status(grpc::StatusCode::UNKNOWN, "its content is locked");
    if (there.erase(request->image().image()) == 0) return grpc::Status(grpc::StatusCode::NOT_FOUND, "no such image");
    return grpc::Status::OK;
  }
  std::map<std::string, std::string> there;
  std::string stuck;
};

struct World {
  World() {
    folder = fs::temp_directory_path() / fmt::format("hk-images-{}", getpid());
    fs::create_directories(folder);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(fmt::format("unix:{}/sock", folder.string()), grpc::InsecureServerCredentials());
    builder.RegisterService(&runtime);
    builder.RegisterService(&images);
    server = builder.BuildAndStart();
    for (const char* id : {"a", "b", "c", "pinned"}) images.there[id] = std::string(id) + ":1";
    images.there["pause"] = "pause:1";
  }
  ~World() {
    server->Shutdown(std::chrono::system_clock::now());
    fs::remove_all(folder);
  }
  std::unique_ptr<ImageKeeper> Keeper(int high = 85) {
    return std::make_unique<ImageKeeper>(ImageKeeperOptions{
        .socket = folder / "sock", .state_file = folder / "state", .high_percent = high, .low_percent = 80});
  }
  // Every image is ten of a hundred bytes, beside `other`.
  std::vector<std::string> Round(ImageKeeper& keeper, Time now) {
    auto removed = keeper.Round(now, [this](const std::string& mountpoint) {
      CHECK(mountpoint == "/images");
      return DiskUse{.total = 100, .used = other + 10 * images.there.size()};
    });
    REQUIRE_OK(removed);
    return *removed;
  }

  fs::path folder;
  Runtime runtime;
  Images images;
  uint64_t other = 0;
  std::unique_ptr<grpc::Server> server;
};

using Ids = std::vector<std::string>;

TEST_CASE("a full disk loses the images that are longest unused, and no more than it must") {
  World world;
  auto keeper = world.Keeper();
  Time start = Time(hours(500000));
  CHECK(world.Round(*keeper, start - hours(1)).empty());
  world.runtime.used = {"a", "c"};
  CHECK(world.Round(*keeper, start).empty());
  world.runtime.used = {"c"};
  CHECK(world.Round(*keeper, start + hours(1)).empty());
  world.runtime.used = {};
  world.other = 40;  // 90 %

  CHECK(world.Round(*keeper, start + hours(2)) == Ids{"b"});
  world.other = 60;  // 100 %
  CHECK(world.Round(*keeper, start + hours(3)) == Ids{"a", "c"});
  world.other = 90;
  CHECK(world.Round(*keeper, start + hours(4)).empty());  // only what must stay is left
  CHECK(world.images.there.size() == 2);
}

TEST_CASE("what a container uses, by id or by name, stays, and so does what came just now") {
  World world;
  auto keeper = world.Keeper();
  Time start = Time(hours(500000));
  world.runtime.used = {"a", "b:1"};
  world.other = 50;
  CHECK(world.Round(*keeper, start).empty());  // c has only been seen
  world.images.there["new"] = "new:1";

  CHECK(world.Round(*keeper, start + hours(1)) == Ids{"c"});
  CHECK(world.images.there.contains("new"));
}

TEST_CASE("an image that cannot be removed keeps no other from being removed") {
  World world;
  auto keeper = world.Keeper();
  Time start = Time(hours(500000));
  CHECK(world.Round(*keeper, start - hours(1)).empty());
  world.runtime.used = {"b", "c"};
  CHECK(world.Round(*keeper, start).empty());
  world.runtime.used = {"c"};
  CHECK(world.Round(*keeper, start + hours(1)).empty());
  world.runtime.used = {};
  world.images.stuck = "a";  // the longest unused
  world.other = 40;

  CHECK(world.Round(*keeper, start + hours(2)) == Ids{"b"});
  CHECK(world.images.there.contains("a"));
}

TEST_CASE("a restart does not make images young") {
  World world;
  Time start = Time(hours(500000));
  world.Round(*world.Keeper(), start);
  world.other = 45;

  CHECK(world.Round(*world.Keeper(), start + hours(1)).size() == 2);
}

TEST_CASE("at 100 percent nothing is ever removed") {
  World world;
  auto keeper = world.Keeper(100);
  Time start = Time(hours(500000));
  world.Round(*keeper, start);
  world.other = 90;

  CHECK(world.Round(*keeper, start + hours(1)).empty());
}

}  // namespace
}  // namespace heterok8s::cri
