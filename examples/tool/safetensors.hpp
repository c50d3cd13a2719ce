// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <output_file.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The safetensors file format (huggingface/safetensors), read as untrusted bytes: u64 length of the header, the header
/// (JSON: name -> dtype, shape, data_offsets), then the data, which the tensors tile without gap or overlap.
namespace safetensors {

static_assert(std::endian::native == std::endian::little, "the format is little endian");

enum class dtype : std::uint8_t {
  boolean,
  u8,
  i8,
  f8_e4m3,
  f8_e5m2,
  u16,
  i16,
  f16,
  bf16,
  u32,
  i32,
  f32,
  u64,
  i64,
  f64
};

struct dtype_info {
  std::string_view name;
  int size;
};

inline constexpr std::array<dtype_info, 15> dtypes{{{"BOOL", 1},
                                                    {"U8", 1},
                                                    {"I8", 1},
                                                    {"F8_E4M3", 1},
                                                    {"F8_E5M2", 1},
                                                    {"U16", 2},
                                                    {"I16", 2},
                                                    {"F16", 2},
                                                    {"BF16", 2},
                                                    {"U32", 4},
                                                    {"I32", 4},
                                                    {"F32", 4},
                                                    {"U64", 8},
                                                    {"I64", 8},
                                                    {"F64", 8}}};

constexpr std::string_view name_of(dtype t) noexcept { return dtypes[std::size_t(t)].name; }
constexpr int size_of(dtype t) noexcept { return dtypes[std::size_t(t)].size; }

/// What can be wrong with a file; each has a test.
enum class fault {
  none,
  io,                ///< the system refused to open, read or write
  no_header,         ///< fewer bytes than the length of a header takes
  header_too_large,  ///< beyond 100 MB, the limit of the reference implementation
  truncated_header,  ///< the file ends inside the header
  malformed_header,  ///< not one JSON object in UTF-8
  malformed_entry,   ///< an entry that is not {dtype, shape, data_offsets}, or metadata that is not text
  too_deep,          ///< nested deeper than any valid header
  duplicate_name,    ///< one name twice: readers would disagree on which is meant
  unknown_dtype,
  absurd_shape,  ///< more dimensions or elements than can be addressed
  wrong_size,    ///< data_offsets do not span shape times dtype
  out_of_range,  ///< data_offsets run backwards or past the end of the file
  overlap,       ///< two tensors share bytes
  gap,           ///< bytes that belong to no tensor
  out_of_memory,
};

constexpr const char* to_string(fault f) noexcept {
  switch (f) {
    case fault::none: return "ok";
    case fault::io: return "cannot be read or written";
    case fault::no_header: return "too short for a safetensors file";
    case fault::header_too_large: return "header length is absurd; not a safetensors file?";
    case fault::truncated_header: return "file ends inside the header";
    case fault::malformed_header: return "header is not a JSON object";
    case fault::malformed_entry: return "malformed header entry";
    case fault::too_deep: return "header is nested too deeply";
    case fault::duplicate_name: return "name appears twice";
    case fault::unknown_dtype: return "unknown dtype";
    case fault::absurd_shape: return "absurd shape";
    case fault::wrong_size: return "data_offsets do not match dtype and shape";
    case fault::out_of_range: return "data_offsets outside the file (truncated?)";
    case fault::overlap: return "data overlaps that of another tensor";
    case fault::gap: return "file has bytes that belong to no tensor";
    case fault::out_of_memory: return "out of memory";
  }
  return "unknown fault";
}

/// A fault and where it is; converts to true where there is one.
struct [[nodiscard]] problem {
  fault what = fault::none;
  std::string where{};   ///< a tensor's name, a position, a file
  std::string system{};  ///< what the system said, in place of our own words
  explicit operator bool() const noexcept { return what != fault::none; }
  std::string message() const {
    const std::string words = system.empty() ? to_string(what) : system;
    return where.empty() ? words : where + ": " + words;
  }
};

struct tensor {
  std::string name;
  dtype type = dtype::u8;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  ///< bytes within the data section

  std::uint64_t size_bytes() const noexcept { return end - begin; }
};

using metadata = std::map<std::string, std::string>;

/// What stands before the data.
struct header {
  metadata meta;
  std::vector<tensor> tensors;   ///< in the order of their data
  std::uint64_t data_begin = 0;  ///< offset of the data section in the file
};

inline constexpr std::uint64_t max_header_size = 100'000'000;
inline constexpr std::size_t max_dimensions = 16;

namespace detail {

/// Takes the header apart while it is parsed: no document is built, nothing but the three known levels is accepted.
class header_reader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit header_reader(header& out) : out_(out) {}
  problem trouble;

  bool null() override { return bad(); }
  bool boolean(bool) override { return bad(); }
  bool number_integer(number_integer_t) override { return bad(); }  // negative ones only
  bool number_float(number_float_t, const string_t&) override { return bad(); }
  bool binary(binary_t&) override { return bad(); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == place::shape) {
      if (current_.shape.size() == max_dimensions || value > std::uint64_t(INT64_MAX)) return stop(fault::absurd_shape);
      current_.shape.push_back(std::int64_t(value));
      return true;
    }
    if (place_ != place::offsets || num_offsets_ == 2) return bad();
    (num_offsets_++ == 0 ? current_.begin : current_.end) = value;
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == place::metadata) {
      out_.meta[key_] = std::move(value);
      return true;
    }
    if (place_ != place::entry || key_ != "dtype") return bad();
    for (std::size_t i = 0; i < dtypes.size(); ++i) {
      if (dtypes[i].name != value) continue;
      current_.type = dtype(i);
      return true;
    }
    return stop(fault::unknown_dtype);
  }

  bool start_object(std::size_t) override {
    if (place_ == place::outside) return place_ = place::root, true;
    if (place_ != place::root) return stop(place_ == place::entry ? bad_nesting() : fault::too_deep);
    place_ = key_ == "__metadata__" ? place::metadata : place::entry;
    current_ = {};
    current_.name = key_;
    seen_.clear();
    num_offsets_ = 0;
    return true;
  }

  bool key(string_t& value) override {
    std::set<std::string>& names = place_ == place::root ? names_ : seen_;
    key_ = value;
    if (place_ == place::root) current_.name = value;
    if (!names.insert(value).second) return stop(fault::duplicate_name);
    return place_ != place::entry || value == "dtype" || value == "shape" || value == "data_offsets" || bad();
  }

  bool end_object() override {
    if (place_ == place::root) return place_ = place::done, true;
    if (place_ == place::entry) {
      if (seen_.size() != 3 || num_offsets_ != 2) return bad();
      out_.tensors.push_back(std::move(current_));
      current_ = {};
    }
    place_ = place::root;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == place::shape || place_ == place::offsets) return stop(fault::too_deep);
    if (place_ == place::entry && key_ == "shape") return place_ = place::shape, true;
    if (place_ == place::entry && key_ == "data_offsets") return place_ = place::offsets, true;
    return bad();
  }

  bool end_array() override { return place_ = place::entry, true; }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    if (!trouble) trouble = {fault::malformed_header, "byte " + std::to_string(position) + " of the header"};
    return false;
  }

 private:
  enum class place { outside, root, metadata, entry, shape, offsets, done };

  bool stop(fault f) {
    trouble = {f, current_.name};
    return false;
  }
  bool bad() { return stop(place_ == place::outside ? fault::malformed_header : fault::malformed_entry); }
  fault bad_nesting() const { return key_ == "dtype" ? fault::malformed_entry : fault::too_deep; }

  header& out_;
  place place_ = place::outside;
  std::string key_;
  tensor current_;
  int num_offsets_ = 0;
  std::set<std::string> names_, seen_;
};

/// Bytes of a tensor; false where shape times dtype is past what an offset can say.
inline bool bytes_of(const tensor& t, std::uint64_t& bytes) noexcept {
  bytes = std::uint64_t(size_of(t.type));
  const bool empty = std::find(t.shape.begin(), t.shape.end(), 0) != t.shape.end();
  if (empty) return bytes = 0, true;
  for (const std::int64_t n : t.shape)
    if (__builtin_mul_overflow(bytes, std::uint64_t(n), &bytes) || bytes > std::uint64_t(INT64_MAX)) return false;
  return true;
}

}  // namespace detail

/// Reads and checks the header of a file of `file_size` bytes that begins with `front`; `front` must hold the header,
/// and may hold more. After success every tensor's bytes lie in [data_begin, file_size).
inline problem parse_header(std::span<const std::byte> front, std::uint64_t file_size, header& out) {
  out = {};
  std::uint64_t length = 0;
  if (file_size < sizeof length || front.size() < sizeof length) return {fault::no_header};
  std::memcpy(&length, front.data(), sizeof length);
  if (length > max_header_size) return {fault::header_too_large};
  if (length > file_size - sizeof length || length > front.size() - sizeof length) return {fault::truncated_header};
  const char* text = reinterpret_cast<const char*>(front.data()) + sizeof length;
  if (length == 0 || text[0] != '{') return {fault::malformed_header};

  detail::header_reader reader(out);
  nlohmann::json::sax_parse(text, text + length, &reader);
  if (reader.trouble) return std::move(reader.trouble);

  out.data_begin = sizeof length + length;
  const std::uint64_t data_size = file_size - out.data_begin;
  for (const tensor& t : out.tensors) {
    std::uint64_t bytes = 0;
    if (!detail::bytes_of(t, bytes)) return {fault::absurd_shape, t.name};
    if (t.begin > t.end || t.end > data_size) return {fault::out_of_range, t.name};
    if (t.size_bytes() != bytes) return {fault::wrong_size, t.name};
  }
  std::stable_sort(out.tensors.begin(), out.tensors.end(), [](const tensor& a, const tensor& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  std::uint64_t at = 0;
  for (const tensor& t : out.tensors) {
    if (t.begin != at) return {t.begin < at ? fault::overlap : fault::gap, t.name};
    at = t.end;
  }
  if (at != data_size) return {fault::gap, "after the last tensor"};
  return {};
}

/// A whole file in memory. Every tensor starts at a multiple of 64 bytes, wherever it stood in the file.
class file {
 public:
  problem open(const std::string& path) {
    *this = {};
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> in(std::fopen(path.c_str(), "rb"), &std::fclose);
    std::error_code error;
    const std::uint64_t size = in ? std::filesystem::file_size(path, error) : 0;
    if (!in || error) return {fault::io, path, in ? error.message() : std::strerror(errno)};
    problem trouble;
    try {
      trouble = read(in.get(), size);
    } catch (const std::bad_alloc&) {
      trouble = {fault::out_of_memory};
    }
    if (!trouble) return trouble;
    *this = {};
    trouble.where = trouble.where.empty() ? path : path + ": " + trouble.where;
    return trouble;
  }

  const metadata& meta() const noexcept { return header_.meta; }
  const std::vector<tensor>& tensors() const noexcept { return header_.tensors; }

  /// The tensor of that name, or null; it lives as long as the file is not opened again.
  const tensor* find(std::string_view name) const noexcept {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &header_.tensors[found->second];
  }

  /// The bytes of a tensor of this file.
  std::span<std::byte> bytes(const tensor& t) noexcept { return {place_of(t), std::size_t(t.size_bytes())}; }
  std::span<const std::byte> bytes(const tensor& t) const noexcept {
    return {place_of(t), std::size_t(t.size_bytes())};
  }

  /// The elements of a tensor as T, which must be of the dtype's size: empty where it is not, or where t is null.
  template <class T>
  std::span<const T> values(const tensor* t) const noexcept {
    if (!t || size_of(t->type) != int(sizeof(T))) return {};
    return {reinterpret_cast<const T*>(place_of(*t)), std::size_t(t->size_bytes() / sizeof(T))};
  }

 private:
  static constexpr std::size_t alignment = 64;
  struct release {
    void operator()(std::byte* p) const noexcept { ::operator delete (p, std::align_val_t{alignment}); }
  };

  std::byte* place_of(const tensor& t) const noexcept {
    return data_.get() + places_[std::size_t(&t - tensors().data())];
  }

  problem read(std::FILE* in, std::uint64_t size) {
    std::vector<std::byte> front(sizeof(std::uint64_t));
    if (size < front.size()) return {fault::no_header};
    std::uint64_t length = 0;
    if (std::fread(&length, 1, sizeof length, in) != sizeof length) return {fault::io};
    if (length > max_header_size) return {fault::header_too_large};
    if (length > size - sizeof length) return {fault::truncated_header};
    std::memcpy(front.data(), &length, sizeof length);
    front.resize(sizeof length + std::size_t(length));
    if (std::fread(front.data() + sizeof length, 1, std::size_t(length), in) != length) return {fault::io};
    if (problem trouble = parse_header(front, size, header_)) return trouble;

    std::size_t total = 0;
    for (std::size_t i = 0; i < tensors().size(); ++i) {
      places_.push_back(total);
      total += (std::size_t(tensors()[i].size_bytes()) + alignment - 1) / alignment * alignment;
      index_.emplace(tensors()[i].name, i);
    }
    data_.reset(static_cast<std::byte*>(::operator new (total, std::align_val_t{alignment})));
    for (const tensor& t : tensors())
      if (std::fread(place_of(t), 1, std::size_t(t.size_bytes()), in) != t.size_bytes()) return {fault::io, t.name};
    return {};
  }

  header header_;
  std::map<std::string, std::size_t, std::less<>> index_;
  std::vector<std::size_t> places_;
  std::unique_ptr<std::byte, release> data_;
};

/// Collects tensors and writes them as one file, in the order they were added. Data is borrowed until save().
class writer {
 public:
  explicit writer(metadata meta = {}) : meta_(std::move(meta)) {}

  /// Error: wrong_size, duplicate_name, absurd_shape.
  problem add(std::string name, dtype type, std::vector<std::int64_t> shape, std::span<const std::byte> data) {
    tensor t{std::move(name), type, std::move(shape), size_, size_ + data.size()};
    std::uint64_t bytes = 0;
    const bool negative = std::any_of(t.shape.begin(), t.shape.end(), [](std::int64_t n) { return n < 0; });
    if (negative || t.shape.size() > max_dimensions || !detail::bytes_of(t, bytes))
      return {fault::absurd_shape, t.name};
    if (bytes != data.size()) return {fault::wrong_size, t.name};
    if (t.name == "__metadata__" || !names_.insert(t.name).second) return {fault::duplicate_name, t.name};
    size_ = t.end;
    tensors_.push_back(std::move(t));
    data_.push_back(data);
    return {};
  }

  /// Length and header, padded so that the data begins at a multiple of 8 bytes.
  std::string header_bytes() const {
    nlohmann::ordered_json json = nlohmann::ordered_json::object();
    if (!meta_.empty()) json["__metadata__"] = meta_;
    for (const tensor& t : tensors_)
      json[t.name] = {{"dtype", name_of(t.type)}, {"shape", t.shape}, {"data_offsets", {t.begin, t.end}}};
    std::string text = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const std::uint64_t length = text.size();
    std::string front(sizeof length, '\0');
    std::memcpy(front.data(), &length, sizeof length);
    return front + text;
  }

  /// Writes under a temporary name and renames: `path` is either the whole file or what it was before.
  problem save(const std::string& path) const {
    const std::string front = header_bytes();
    if (front.size() > max_header_size) return {fault::header_too_large, path};
    output_file out(path);
    out.write(std::as_bytes(std::span(front)));
    for (const auto data : data_) out.write(data);
    if (!out.commit()) return {fault::io, {}, out.error()};
    return {};
  }

 private:
  metadata meta_;
  std::vector<tensor> tensors_;
  std::vector<std::span<const std::byte>> data_;
  std::set<std::string> names_;
  std::uint64_t size_ = 0;
};

}  // namespace safetensors
