// The little of SPDY/3 that knowing a session's error stream takes: the names and values that open a stream.
//
// Purpose: the header blocks of one direction of a connection, which share one compression (the draft of
// SPDY/3, 2.6.10). Threading: thread-compatible. Ownership: owns zlib's state. Errors: kInvalidArgument for what is no
// such block, or a longer one than any client of ours sends; after one the connection's other blocks cannot be read
// either.
//
//   SpdyHeaders headers;
//   HK_ASSIGN_OR_RETURN(auto fields, headers.Read(block));   // {{"streamtype", "error"}}
#pragma once

#include <zlib.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "common/status/status.h"

namespace heterok8s::cri {

inline constexpr size_t kSpdyHead = 8;  // of a frame: type or stream, flags and the length of the rest

struct SpdyFrame {
  bool control;
  uint16_t type;    // of a control frame
  uint32_t stream;  // of a data frame
  uint8_t flags;
  uint32_t length;  // of what follows the head
};
enum : uint16_t { kSpdySynStream = 1, kSpdySynReply = 2, kSpdyRstStream = 3, kSpdyHeaders = 8 };
inline constexpr uint8_t kSpdyFin = 1;

uint32_t SpdyNumber(std::string_view bytes);    // the first four
SpdyFrame ReadSpdyHead(std::string_view head);  // kSpdyHead bytes
std::string SpdyData(uint32_t stream, uint8_t flags, std::string_view data);

class SpdyHeaders {
 public:
  SpdyHeaders();
  ~SpdyHeaders();
  SpdyHeaders(const SpdyHeaders&) = delete;
  SpdyHeaders& operator=(const SpdyHeaders&) = delete;

  absl::StatusOr<std::map<std::string, std::string>> Read(std::string_view block);

 private:
  z_stream zlib_ = {};
  bool broken_ = false;
};

// What both ends' compressions begin with.
const std::string& SpdyDictionary();

}  // namespace heterok8s::cri
