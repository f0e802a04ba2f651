// The beginning of a kubectl exec over SPDY, for tests: frames that open streams, as client-go sends them.
//
//   SpdyClient client;
//   std::string opened = client.Open(1, "error");
//   opened += client.Open(3, "stdout");  // a line each: frames share a compression, so their order counts
#pragma once

#include <zlib.h>

#include <cstdlib>
#include <string>

#include "node-agent/cri/spdy.h"

namespace heterok8s::cri {

class SpdyClient {
 public:
  SpdyClient() {
    const std::string& dictionary = SpdyDictionary();
    if (deflateInit(&zlib_, Z_BEST_COMPRESSION) != Z_OK ||
        deflateSetDictionary(&zlib_, reinterpret_cast<const Bytef*>(dictionary.data()),
                             static_cast<uInt>(dictionary.size())) != Z_OK)
      abort();
  }
  ~SpdyClient() { deflateEnd(&zlib_); }
  SpdyClient(const SpdyClient&) = delete;
  SpdyClient& operator=(const SpdyClient&) = delete;

  // SYN_STREAM.
  std::string Open(char stream, const std::string& type) {
    using namespace std::string_literals;
    const std::string name = "streamtype";
    std::string block =
        "\0\0\0\1\0\0\0"s + static_cast<char>(name.size()) + name + "\0\0\0"s + static_cast<char>(type.size()) + type;
    char packed[1024];
    zlib_.next_in = reinterpret_cast<Bytef*>(block.data());
    zlib_.avail_in = static_cast<uInt>(block.size());
    zlib_.next_out = reinterpret_cast<Bytef*>(packed);
    zlib_.avail_out = sizeof packed;
    if (deflate(&zlib_, Z_SYNC_FLUSH) != Z_OK) abort();
    const std::string rest =
        "\0\0\0"s + stream + "\0\0\0\0\0\0"s + std::string(packed, sizeof packed - zlib_.avail_out);
    return "\x80\3\0\1\0\0"s + static_cast<char>(rest.size() >> 8) + static_cast<char>(rest.size()) + rest;
  }

  // SYN_REPLY without fields, which the server sends.
  static std::string Reply(char stream) {
    using namespace std::string_literals;
    return "\x80\3\0\2\0\0\0\4\0\0\0"s + stream;
  }

 private:
  z_stream zlib_ = {};
};

}  // namespace heterok8s::cri
