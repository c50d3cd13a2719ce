// SPDX-License-Identifier: Apache-2.0
// URLs of stores: any text is read or refused in words, what is read keeps what it was made of, and neither words nor the
// printed form hold the password.
#include <sluice/stream/store/sources/s3.hpp>
#include <sluice/stream/store/sources/url.hpp>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

namespace {
void require(bool fact) {
  if (!fact) std::abort();
}
bool holds(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sluice;
  using namespace sluice::stream;
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::string why;
  const result<store_url> s = parse_store_url(text, &why);
  const std::string printed = redacted(text);
  if (s) {
    require(s->printed == printed && s->port >= 0 && s->port <= 65535 && s->database >= 0);
    if (s->kind == store_kind::folder && !looks_like_url(text)) require(s->folder == text);
    if (s->kind == store_kind::folder) require(!s->folder.empty());
    if (s->kind == store_kind::http || s->kind == store_kind::s3) {
      const result<std::string> address = address_of(*s, {});
      require(bool(address));
      const result<url> again = parse_url(*address);
      require(again && !again->has_user && !again->has_query);
      if (s->bucket.empty()) require(again->host == s->host && (again->path == s->path));
      const result<std::string> path = s3_path(s->path);
      require(bool(path) && s3_path(*path).value() == *path);
    }
  } else {
    require(!why.empty());
  }
  // A marked password stays inside, wherever it stands.
  const std::string mark = "xSECRETx";
  if (holds(text, mark)) return 0;
  for (const std::string& url : {"redis://" + text + ":" + mark + "@h/", "http://u:" + mark + text + "@h/" + text,
                                 "redis:" + mark + text + "@h", "unix://:" + mark + "@/s?" + text}) {
    std::string words;
    const result<store_url> r = parse_store_url(url, &words);
    require(!holds(redacted(url), mark) && !holds(words, mark));
    if (r) require(!holds(r->printed, mark));
  }
  const result<std::string> plain = percent_decode(text);
  if (plain && plain->find('\0') == plain->npos) require(percent_decode(percent_encode(*plain)).value() == *plain);
  return 0;
}
