// SPDX-License-Identifier: Apache-2.0
#include <sluice/stream/store/object.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace sluice;
using namespace sluice::stream;

namespace {

std::string hash(std::string_view s) { return to_hex(sha256().add(std::as_bytes(std::span(s))).finish()); }

const codec_id standard_id{stage_id::of(0, 256), {}, stage_id::of(1), stage_id::of(1, 3), {}, stage_id::of(1)};

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
  const codec_id id = standard_id;
  codec_id other_id = id, wider_id = id;
  other_id.entropy = stage_id::of(2);
  wider_id.bit_widths.parameter[0] = 8;  // a parameter alone
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
  CHECK(chunk_keys(model, 7, wider_id).next(a) != first);
  chunk_keys elsewhere(model, 7, id);
  CHECK(elsewhere.next(c) != first);
  CHECK(elsewhere.next(b) != second);  // the same tokens after others
  chunk_keys split(model, 7, id);
  split.next(std::span(a).first(2));
  CHECK(split.next(std::span(a).subspan(2)) != first);
}

TEST_CASE("object: a salt and contents are part of the key, and nothing runs together") {
  const auto bytes = [](std::string_view s) { return std::as_bytes(std::span(s)); };
  const codec_id id = standard_id;
  const std::vector<std::int32_t> a{1, 2, 3}, b{4, 5};
  const auto hash_of = [&](std::string_view s) { return sha256().add(bytes(s)).finish(); };
  const content cat{1, 3, hash_of("cat")}, dog{1, 3, hash_of("dog")}, later{4, 5, hash_of("cat")};

  // Keys of the second of two chunks, and of the first.
  using contents = std::vector<content>;
  const auto keys = [&](std::string_view model, std::string_view salt, const contents& c) {
    chunk_keys k(bytes(model), 7, id, bytes(salt));
    const digest first = k.next(a, c);
    CHECK(k.peek(b, c) == k.peek(b, c));
    return std::pair(to_hex(first), to_hex(k.next(b, c)));
  };

  // Pinned, from FORMAT.md section 11 and another SHA-256.
  const auto plain = keys("model", "", {});
  CHECK(plain.first == "0e443d30267d4810b5f68fa661082a15df60ea6d76815a012470a78833ea5429");
  CHECK(plain.second == "4761c8a9aba9881fdd967bfc37231de38f32a6afcea1522719764840e63f4623");
  CHECK(keys("model", "tenant", {}).first == "1df139475c0c9757a59e4b3879887d27c47a85b4a44c37290ac902b7b149ce45");
  CHECK(keys("model", "", {cat}).first == "08ff7d65147cf4e24421f19e42f41ce3ed801c884d5da10e90612a0d132b4f6f");
  CHECK(keys("model", "tenant", {cat, later}).second ==
        "93e3e05496bb60f389ea8fcdeae39c8b9289fe02da29eec3e2d5fb5e54cde94c");

  // Each input changes every key from where it stands on; what moves from one input to the next is not the same.
  const std::vector<std::pair<std::string, std::string>> all{
      plain,
      keys("model", "tenant", {}),
      keys("model", "tenanu", {}),
      keys("model", "tenant ", {}),
      keys("modelt", "enant", {}),
      keys("modeltenant", "", {}),
      keys("model", std::string_view("\0", 1), {}),
      keys("model", std::string_view("\0\0", 2), {}),
      keys("model", "", {cat}),
      keys("model", "", {dog}),
      keys("model", "tenant", {cat}),
      keys("model", "", {cat, dog}),
      keys("model", "", {dog, cat}),
      keys("model", "", {cat, cat}),
      keys("model", "", {{0, 3, cat.hash}}),
      keys("model", "", {{1, 2, cat.hash}}),
      keys("model", "", {{1, 4, cat.hash}}),
      keys("model", "", {{-1, 3, cat.hash}}),
  };
  for (std::size_t i = 0; i < all.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) {
      CAPTURE(i);
      CAPTURE(j);
      CHECK(all[i].first != all[j].first);
      CHECK(all[i].second != all[j].second);
    }

  // A content that begins in a later chunk leaves those before it alone.
  CHECK(keys("model", "", {later}).first == plain.first);
  CHECK(keys("model", "", {later}).second != plain.second);
  CHECK(keys("model", "", {cat, later}).first == keys("model", "", {cat}).first);
  CHECK(keys("model", "", {cat, later}).second != keys("model", "", {cat}).second);

  // Neither a salt nor contents can be written as tokens or as a codec.
  chunk_keys four(bytes("model"), 7, id);
  CHECK(to_hex(four.peek(std::vector<std::int32_t>{1, 2, 3, 1})) != keys("model", "", {cat}).first);
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
