#include "node-agent/cri/spdy.h"

#include <fmt/format.h>

namespace heterok8s::cri {
namespace {

constexpr size_t kMostBytes = 16 << 10;  // of one block, unpacked

std::string Number(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
          static_cast<char>(value)};
}

// Takes a number, and as many bytes, from the front.
bool TakeText(std::string_view* from, std::string* text) {
  if (from->size() < 4) return false;
  const uint32_t size = SpdyNumber(*from);
  from->remove_prefix(4);
  if (from->size() < size) return false;
  *text = from->substr(0, size);
  from->remove_prefix(size);
  return true;
}

}  // namespace

uint32_t SpdyNumber(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

SpdyFrame ReadSpdyHead(std::string_view head) {
  const uint32_t first = SpdyNumber(head), second = SpdyNumber(head.substr(4));
  const bool control = (first >> 31) != 0;
  return {.control = control,
          .type = control ? static_cast<uint16_t>(first) : uint16_t{0},
          .stream = control ? 0 : first,
          .flags = static_cast<uint8_t>(second >> 24),
          .length = second & 0xffffff};
}

std::string SpdyData(uint32_t stream, uint8_t flags, std::string_view data) {
  std::string frame = Number(stream) + Number(uint32_t{flags} << 24 | static_cast<uint32_t>(data.size()));
  return frame.append(data);
}

const std::string& SpdyDictionary() {
  static const std::string dictionary = [] {
    std::string all;
    for (std::string_view word : {"options",
                                  "head",
                                  "post",
                                  "put",
                                  "delete",
                                  "trace",
                                  "accept",
                                  "accept-charset",
                                  "accept-encoding",
                                  "accept-language",
                                  "accept-ranges",
                                  "age",
                                  "allow",
                                  "authorization",
                                  "cache-control",
                                  "connection",
                                  "content-base",
                                  "content-encoding",
                                  "content-language",
                                  "content-length",
                                  "content-location",
                                  "content-md5",
                                  "content-range",
                                  "content-type",
                                  "date",
                                  "etag",
                                  "expect",
                                  "expires",
                                  "from",
                                  "host",
                                  "if-match",
                                  "if-modified-since",
                                  "if-none-match",
                                  "if-range",
                                  "if-unmodified-since",
                                  "last-modified",
                                  "location",
                                  "max-forwards",
                                  "pragma",
                                  "proxy-authenticate",
                                  "proxy-authorization",
                                  "range",
                                  "referer",
                                  "retry-after",
                                  "server",
                                  "te",
                                  "trailer",
                                  "transfer-encoding",
                                  "upgrade",
                                  "user-agent",
                                  "vary",
                                  "via",
                                  "warning",
                                  "www-authenticate",
                                  "method",
                                  "get",
                                  "status",
                                  "200 OK",
                                  "version",
                                  "HTTP/1.1",
                                  "url",
                                  "public",
                                  "set-cookie",
                                  "keep-alive",
                                  "origin"}) {
      all += Number(static_cast<uint32_t>(word.size()));
      all += word;
    }
    return all +
           "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
           "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
           "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
           "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
           "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
           "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
  }();
  return dictionary;
}

SpdyHeaders::SpdyHeaders() { broken_ = inflateInit(&zlib_) != Z_OK; }
SpdyHeaders::~SpdyHeaders() { inflateEnd(&zlib_); }

absl::StatusOr<std::map<std::string, std::string>> SpdyHeaders::Read(std::string_view block) {
  auto bad = [this](const char* why) {
    broken_ = true;
    return absl::InvalidArgumentError(fmt::format("no header block of SPDY, {}", why));
  };
  if (broken_) return bad("nor was one before");
  std::string text(kMostBytes, '\0');
  zlib_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(block.data()));
  zlib_.avail_in = static_cast<uInt>(block.size());
  zlib_.next_out = reinterpret_cast<Bytef*>(text.data());
  zlib_.avail_out = static_cast<uInt>(text.size());
  while (zlib_.avail_in > 0) {
    const int result = inflate(&zlib_, Z_SYNC_FLUSH);
    if (result == Z_NEED_DICT) {
      const std::string& dictionary = SpdyDictionary();
      if (inflateSetDictionary(&zlib_, reinterpret_cast<const Bytef*>(dictionary.data()),
                               static_cast<uInt>(dictionary.size())) != Z_OK)
        return bad("of another dictionary");
    } else if (result != Z_OK || zlib_.avail_out == 0) {
      return bad("not compressed so, or too long");
    }
  }
  std::string_view left(text.data(), text.size() - zlib_.avail_out);
  if (left.size() < 4) return bad("without a number of fields");
  uint32_t count = SpdyNumber(left);
  left.remove_prefix(4);
  std::map<std::string, std::string> fields;
  for (std::string name, value; count > 0; --count) {
    if (!TakeText(&left, &name) || !TakeText(&left, &value)) return bad("cut short");
    fields[name] = value;
  }
  return fields;
}

}  // namespace heterok8s::cri
