// SPDX-License-Identifier: Apache-2.0
#include <sluice/stream/object.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

using namespace sluice;
using namespace sluice::stream;

namespace {

std::string hash(std::string_view s) { return to_hex(sha256().add(std::as_bytes(std::span(s))).finish()); }

}  // namespace

TEST_CASE("object: SHA-256 of the examples of FIPS 180-4") {
  CHECK(hash("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(hash(std::string(1'000'000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  sha256 pieces;
  pieces.add(std::as_bytes(std::span(std::string_view("a"))));
  CHECK(to_hex(pieces.finish()) == hash("a"));  // looking changes nothing
  pieces.add(std::as_bytes(std::span(std::string_view("bc"))));
  CHECK(to_hex(pieces.finish()) == hash("abc"));
}

TEST_CASE("object: a key follows from the model, the codec and every token before") {
  const std::byte model[2] = {std::byte{1}, std::byte{2}};
  const codec_id id{0, 1, 1, 0, 1}, other_id{0, 1, 1, 0, 2};
  const std::vector<std::int32_t> a{1, 2, 3}, b{4, 5}, c{1, 2, 9};
  chunk_keys keys(model, 7, id);
  const digest first = keys.next(a), second = keys.peek(b);
  CHECK(keys.peek(b) == second);
  CHECK(keys.next(b) == second);
  CHECK(first != second);
  CHECK(chunk_keys(model, 7, id).next(a) == first);
  CHECK(chunk_keys(std::span(model).first(1), 7, id).next(a) != first);
  CHECK(chunk_keys(model, 8, id).next(a) != first);
  CHECK(chunk_keys(model, 7, other_id).next(a) != first);
  chunk_keys elsewhere(model, 7, id);
  CHECK(elsewhere.next(c) != first);
  CHECK(elsewhere.next(b) != second);  // the same tokens after others
  chunk_keys split(model, 7, id);
  split.next(std::span(a).first(2));
  CHECK(split.next(std::span(a).subspan(2)) != first);
}

TEST_CASE("object: every corruption of a header and every foreign key is found") {
  const std::byte model[1] = {std::byte{1}};
  const std::vector<std::int32_t> a{1, 2, 3}, b{4};
  chunk_keys keys(model, 7, {});
  const digest key = keys.next(a), other = keys.next(b);
  const object_header h = make_object_header(key);
  std::vector<std::byte> object(sizeof h + 5);
  std::memcpy(object.data(), &h, sizeof h);
  REQUIRE(open_object(object, key));
  CHECK(open_object(object, key)->size() == 5);
  CHECK(open_object(object, other).status() == status::wrong_key);
  for (std::size_t n = 0; n < sizeof h; ++n)
    CHECK(open_object(std::span(object).first(n), key).status() == status::truncated);
  for (std::size_t i = 0; i < 8 * sizeof h; ++i) {
    auto bad = object;
    bad[i / 8] ^= std::byte(1 << i % 8);
    CHECK_FALSE(open_object(bad, key));
  }
}
