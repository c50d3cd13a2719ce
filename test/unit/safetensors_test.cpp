// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <safetensors.hpp>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using safetensors::dtype;
using safetensors::fault;

std::string with_length(std::string text) {
  const std::uint64_t n = text.size();
  std::string front(8, '\0');
  std::memcpy(front.data(), &n, 8);
  return front + text;
}

/// The verdict on a file with this header and so many bytes of data.
fault verdict(const std::string& json, std::uint64_t data_size = 0) {
  const std::string front = with_length(json);
  safetensors::header header;
  return safetensors::parse_header(std::as_bytes(std::span(front)), front.size() + data_size, header).what;
}

struct scratch {
  fs::path path = fs::temp_directory_path() / ("sluice_safetensors_test." + std::to_string(::getpid()));
  scratch() { fs::create_directories(path); }
  ~scratch() { fs::remove_all(path); }
  std::string operator/(const char* name) const { return (path / name).string(); }
};

std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

const std::string a_tensor = R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}})";

}  // namespace

TEST_CASE("safetensors: valid headers") {
  CHECK(verdict(a_tensor, 12) == fault::none);
  CHECK(verdict("{}") == fault::none);
  CHECK(verdict(a_tensor + "      ", 12) == fault::none);
  CHECK(
      verdict(R"({"__metadata__":{"made":"by hand","é":"\u00e9"},"a":{"data_offsets":[0,1],"shape":[],"dtype":"U8"}})",
              1) == fault::none);
  // Data in another order than the header, and empty tensors between.
  CHECK(
      verdict(
          R"({"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]},"e":{"dtype":"F32","shape":[0,9],"data_offsets":[3,3]},
                    "a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})",
          7) == fault::none);
}

TEST_CASE("safetensors: lengths that lie") {
  const std::string whole = with_length(a_tensor) + std::string(12, 'x');
  for (std::size_t size = 0; size < whole.size(); ++size) {
    safetensors::header header;
    const fault f = safetensors::parse_header(std::as_bytes(std::span(whole.data(), size)), size, header).what;
    CAPTURE(size);
    CHECK(f == (size < 8                   ? fault::no_header
                : size < whole.size() - 12 ? fault::truncated_header
                                           : fault::out_of_range));
  }
  for (const std::uint64_t length : {std::uint64_t{100'000'001}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    std::string lie = whole;
    std::memcpy(lie.data(), &length, 8);
    safetensors::header header;
    CHECK(safetensors::parse_header(std::as_bytes(std::span(lie)), lie.size(), header).what == fault::header_too_large);
  }
}

TEST_CASE("safetensors: text that is not a header") {
  for (const char* text : {"", "[]", "null", " {}", "{", "{\"a\"}", "{}x", "{,}", "{\"\xff\":1}", "{'a':1}"}) {
    CAPTURE(text);
    CHECK(verdict(text) == fault::malformed_header);
  }
  for (const char* entry :
       {"1", "null", "true", "\"x\"", "[]", "{}", R"({"dtype":"U8","shape":[1]})",
        R"({"dtype":1,"shape":[],"data_offsets":[0,1]})", R"({"dtype":"U8","shape":1,"data_offsets":[0,1]})",
        R"({"dtype":"U8","shape":["1"],"data_offsets":[0,1]})", R"({"dtype":"U8","shape":[-1],"data_offsets":[0,1]})",
        R"({"dtype":"U8","shape":[1.0],"data_offsets":[0,1]})", R"({"dtype":"U8","shape":[1],"data_offsets":[0]})",
        R"({"dtype":"U8","shape":[1],"data_offsets":[0,1,2]})",
        R"({"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":0})",
        R"({"dtype":"U8","shape":[1],"data_offsets":{}})"}) {
    CAPTURE(entry);
    const fault f = verdict(std::string("{\"a\":") + entry + "}", 1);
    CHECK((f == fault::malformed_entry || (f == fault::too_deep && std::strstr(entry, ":{}"))));
  }
  CHECK(verdict(R"({"__metadata__":{"a":1}})") == fault::malformed_entry);
  CHECK(verdict(R"({"__metadata__":{"a":null}})") == fault::malformed_entry);
}

TEST_CASE("safetensors: depth bombs end early") {
  for (const char* open : {"[", "{\"a\":"}) {
    std::string bomb = "{\"a\":{\"shape\":";
    for (int i = 0; i < 1'000'000; ++i) bomb += open;
    CHECK(verdict(bomb) == fault::too_deep);
  }
  CHECK(verdict(R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1) == fault::too_deep);
  CHECK(verdict(R"({"__metadata__":{"a":{"b":"c"}}})") == fault::too_deep);
}

TEST_CASE("safetensors: names, types and shapes") {
  const std::string entry = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  CHECK(verdict("{\"a\":" + entry + ",\"a\":" + entry + "}") == fault::duplicate_name);
  CHECK(verdict("{\"a\":" + entry + ",\"\\u0061\":" + entry + "}") == fault::duplicate_name);
  CHECK(verdict(R"({"__metadata__":{"a":"1","a":"2"}})") == fault::duplicate_name);
  CHECK(verdict(R"({"a":{"dtype":"U8","dtype":"F16","shape":[0],"data_offsets":[0,0]}})") == fault::duplicate_name);
  for (const char* type : {"F12", "f16", "", "F8_E8M0", "F16 "})
    CHECK(verdict(std::string(R"({"a":{"shape":[0],"data_offsets":[0,0],"dtype":")") + type + "\"}}") ==
          fault::unknown_dtype);

  const auto shape = [](const std::string& dims, const std::string& offsets, std::uint64_t data) {
    return verdict(R"({"a":{"dtype":"F16","shape":[)" + dims + R"(],"data_offsets":[)" + offsets + "]}}", data);
  };
  CHECK(shape("2,3", "0,11", 11) == fault::wrong_size);
  CHECK(shape("2,3", "0,14", 14) == fault::wrong_size);
  CHECK(shape("4294967296,4294967296", "0,0", 0) == fault::absurd_shape);
  CHECK(shape("9223372036854775808", "0,0", 0) == fault::absurd_shape);
  CHECK(shape("9223372036854775807", "0,18446744073709551614", 0) == fault::absurd_shape);
  CHECK(shape("4611686018427387904,4", "0,0", 0) == fault::absurd_shape);
  CHECK(shape("99999999999999999999999", "0,0", 0) == fault::malformed_entry);  // no longer an integer in JSON
  CHECK(shape("1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", "0,2", 2) == fault::absurd_shape);
  CHECK(shape("9223372036854775807,0", "0,0", 0) == fault::none);
}

TEST_CASE("safetensors: offsets") {
  const auto two = [](const std::string& a, const std::string& b, std::uint64_t data) {
    return verdict(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[)" + a +
                       R"(]},"b":{"dtype":"U8","shape":[4],"data_offsets":[)" + b + "]}}",
                   data);
  };
  CHECK(two("0,4", "4,8", 8) == fault::none);
  CHECK(two("4,8", "0,4", 8) == fault::none);
  CHECK(two("0,4", "2,6", 6) == fault::overlap);
  CHECK(two("0,4", "0,4", 4) == fault::overlap);
  CHECK(two("0,4", "5,9", 9) == fault::gap);
  CHECK(two("1,5", "5,9", 9) == fault::gap);
  CHECK(two("0,4", "4,8", 9) == fault::gap);
  CHECK(two("0,4", "4,8", 7) == fault::out_of_range);
  CHECK(two("4,0", "4,8", 8) == fault::out_of_range);
  CHECK(two("18446744073709551612,18446744073709551615", "0,4", 8) == fault::out_of_range);
}

TEST_CASE("safetensors: what is written is read back, aligned") {
  const scratch dir;
  const std::string path = dir / "all.safetensors";
  std::vector<std::byte> data(7 * 5 * 8);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = std::byte(i * 37);
  safetensors::writer out({{"model", "a \"model\"\n"}, {"tokens", "7"}});
  for (std::size_t i = 0; i < safetensors::dtypes.size(); ++i)
    CHECK(!out.add("t." + std::to_string(i), dtype(i), {7, 5},
                   std::span(data).first(35 * std::size_t(safetensors::size_of(dtype(i))))));
  CHECK(!out.add("scalar", dtype::u8, {}, std::span(data).first(1)));
  CHECK(!out.add("empty", dtype::f64, {3, 0}, {}));
  CHECK(out.add("scalar", dtype::u8, {}, std::span(data).first(1)).what == fault::duplicate_name);
  CHECK(out.add("short", dtype::f32, {3}, std::span(data).first(11)).what == fault::wrong_size);
  CHECK(out.add("negative", dtype::f32, {-3, -1}, std::span(data).first(12)).what == fault::absurd_shape);
  REQUIRE(!out.save(path));
  CHECK(contents(path).substr(8, 1) == "{");
  CHECK(out.header_bytes().size() % 8 == 0);

  safetensors::file in;
  REQUIRE(in.open(path).message() == "ok");
  CHECK(in.meta() == safetensors::metadata{{"model", "a \"model\"\n"}, {"tokens", "7"}});
  CHECK(in.tensors().size() == safetensors::dtypes.size() + 2);
  for (std::size_t i = 0; i < safetensors::dtypes.size(); ++i) {
    const safetensors::tensor* t = in.find("t." + std::to_string(i));
    REQUIRE(t);
    CHECK(t->type == dtype(i));
    CHECK(t->shape == std::vector<std::int64_t>{7, 5});
    CHECK(std::ranges::equal(in.bytes(*t), std::span(data).first(in.bytes(*t).size())));
    CHECK(reinterpret_cast<std::uintptr_t>(in.bytes(*t).data()) % 64 == 0);
  }
  CHECK(in.values<std::uint16_t>(in.find("t.7")).size() == 35);
  CHECK(in.values<float>(in.find("t.7")).empty());
  CHECK(in.values<float>(nullptr).empty());
  CHECK(in.find("no such tensor") == nullptr);
}

TEST_CASE("safetensors: a refused file says which and why") {
  const scratch dir;
  const std::string path = dir / "broken.safetensors";
  safetensors::file in;
  CHECK(in.open(path).what == fault::io);
  CHECK(in.open(path).message() == path + ": No such file or directory");
  CHECK(in.open(dir.path.string()).what == fault::io);
  std::ofstream(path, std::ios::binary) << with_length(a_tensor) << "only ten..";
  const safetensors::problem trouble = in.open(path);
  CHECK(trouble.what == fault::out_of_range);
  CHECK(trouble.message() == path + ": a: data_offsets outside the file (truncated?)");
  CHECK(in.tensors().empty());
}

TEST_CASE("output_file: the whole file or what was there before") {
  const scratch dir;
  const std::string path = dir / "out";
  std::ofstream(path) << "before";
  const std::string text = "after";
  {
    output_file out(path);
    CHECK(out.write(std::as_bytes(std::span(text))));
    CHECK(contents(path) == "before");
  }
  CHECK(contents(path) == "before");
  CHECK(std::distance(fs::directory_iterator(dir.path), {}) == 1);
  {
    output_file out(path);
    CHECK(out.write(std::as_bytes(std::span(text))));
    CHECK(out.commit());
  }
  CHECK(contents(path) == "after");
  CHECK(std::distance(fs::directory_iterator(dir.path), {}) == 1);

  fs::create_symlink("out", dir / "link");
  {
    output_file out(dir / "link");
    CHECK(out.commit());
  }
  CHECK(fs::is_symlink(dir / "link"));
  CHECK(contents(path).empty());

  output_file nowhere(dir / "no/such/folder");
  CHECK_FALSE(nowhere);
  CHECK_FALSE(nowhere.write({}));
  CHECK_FALSE(nowhere.commit());
  CHECK(nowhere.error().find("No such file") != std::string::npos);

  output_file null("/dev/null");
  CHECK(null.write(std::as_bytes(std::span(text))));
  CHECK(null.commit());
  CHECK(fs::is_character_file("/dev/null"));
  output_file full("/dev/full");
  full.write(std::as_bytes(std::span(text)));
  CHECK_FALSE(full.commit());
}

TEST_CASE("safetensors: captures of real models") {
  std::vector<std::string> captures;
  for (const char* dir : {SLUICE_TEST_DATA, SLUICE_SOURCE_DIR "/../shared/data/kv"}) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(dir, error))
      if (entry.path().extension() == ".safetensors") captures.push_back(entry.path().string());
  }
  if (captures.empty()) MESSAGE("no capture is here");
  const scratch dir;
  for (const std::string& path : captures) {
    CAPTURE(path);
    safetensors::file in;
    REQUIRE(in.open(path).message() == "ok");
    const int layers = std::stoi(in.meta().at("layers"));
    const std::vector<std::int64_t> shape{std::stoi(in.meta().at("tokens")), std::stoi(in.meta().at("kv_heads")),
                                          std::stoi(in.meta().at("head_dim"))};
    for (int layer = 0; layer < layers; ++layer)
      for (const char* plane : {"k.", "v."}) {
        const safetensors::tensor* t = in.find(plane + std::to_string(layer));
        REQUIRE(t);
        CHECK(t->type == dtype::f16);
        CHECK(t->shape == shape);
      }
    CHECK(in.values<std::int32_t>(in.find("ids")).size() > std::size_t(shape[0]));

    // Written again it is the same data, byte for byte, in the same order.
    safetensors::writer out(in.meta());
    for (const safetensors::tensor& t : in.tensors()) REQUIRE(!out.add(t.name, t.type, t.shape, in.bytes(t)));
    REQUIRE(!out.save(dir / "copy"));
    const std::string before = contents(path), after = contents(dir / "copy");
    const std::size_t data = std::size_t(in.tensors().back().end);
    CHECK(before.substr(before.size() - data) == after.substr(after.size() - data));
  }
}
