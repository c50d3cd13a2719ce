// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

// GGUF, the model file of llama.cpp: key-value pairs, a table of tensors, then their data. The file is untrusted: every
// count is compared with the bytes that are left before it is believed, and what does not fit is a file_error.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

namespace engine {

static_assert(std::endian::native == std::endian::little, "GGUF is read in place");

/// Why a model file cannot be used.
enum class file_errc {
  cannot_open,
  not_gguf,              ///< the magic number is missing
  unsupported_version,   ///< not version 2 or 3
  truncated,             ///< a count, a string or a tensor reaches past the end of the file
  malformed,             ///< a value that the format does not allow
  unknown_type,          ///< a tensor type this engine cannot read
  unknown_architecture,  ///< a model this engine cannot run
  missing,               ///< a key or tensor that the model needs
  wrong_shape,           ///< a tensor whose shape disagrees with the hyper-parameters
  unsupported,           ///< a feature of a known architecture that this engine lacks
};

constexpr const char* to_string(file_errc e) noexcept {
  switch (e) {
    case file_errc::cannot_open: return "cannot be opened";
    case file_errc::not_gguf: return "not a GGUF file";
    case file_errc::unsupported_version: return "unsupported GGUF version";
    case file_errc::truncated: return "truncated";
    case file_errc::malformed: return "malformed";
    case file_errc::unknown_type: return "unknown tensor type";
    case file_errc::unknown_architecture: return "unknown architecture";
    case file_errc::missing: return "missing";
    case file_errc::wrong_shape: return "wrong shape";
    case file_errc::unsupported: return "unsupported";
  }
  return "?";
}

struct file_error : std::runtime_error {
  file_error(file_errc c, const std::string& what)
      : std::runtime_error(std::string(to_string(c)) + ": " + what), code(c) {}
  file_errc code;
};

/// How ggml stores the elements of a tensor; numbers are the file's.
enum class tensor_type : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30,
};

/// Elements and bytes of one block of a type; {0, 0} for a type this engine does not know.
struct block_size {
  std::uint32_t elements = 0, bytes = 0;
};

constexpr block_size block_of(tensor_type t) noexcept {
  switch (t) {
    case tensor_type::f32: return {1, 4};
    case tensor_type::f16: return {1, 2};
    case tensor_type::bf16: return {1, 2};
    case tensor_type::q4_0: return {32, 18};
    case tensor_type::q4_1: return {32, 20};
    case tensor_type::q5_0: return {32, 22};
    case tensor_type::q5_1: return {32, 24};
    case tensor_type::q8_0: return {32, 34};
    case tensor_type::q4_k: return {256, 144};
    case tensor_type::q5_k: return {256, 176};
    case tensor_type::q6_k: return {256, 210};
  }
  return {};
}

/// A two-dimensional tensor in the file: `rows` rows of `cols` elements; a vector is one row.
struct tensor {
  tensor_type type = tensor_type::f32;
  std::uint64_t rows = 0, cols = 0;
  const std::byte* data = nullptr;

  std::size_t row_bytes() const noexcept {
    const block_size b = block_of(type);
    return std::size_t(cols / b.elements * b.bytes);
  }
  const std::byte* row(std::size_t r) const noexcept { return data + r * row_bytes(); }
};

/// A file mapped read-only into memory.
class mapped_file {
 public:
  explicit mapped_file(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat info {};
    if (fd < 0 || ::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
      if (fd >= 0) ::close(fd);
      throw file_error(file_errc::cannot_open, path);
    }
    size_ = std::size_t(info.st_size);
    void* at = size_ > 0 ? ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0) : nullptr;
    ::close(fd);
    if (at == MAP_FAILED) throw file_error(file_errc::cannot_open, path);
    data_ = static_cast<const std::byte*>(at);
  }
  mapped_file(mapped_file&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  mapped_file& operator=(mapped_file&&) = delete;
  ~mapped_file() {
    if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The parsed directory of a GGUF file; borrows the bytes, which must outlive it.
class gguf {
 public:
  /// `any_type`: tensors of types that this engine does not know are left out, and no error.
  explicit gguf(std::span<const std::byte> bytes, bool any_type = false) : bytes_(bytes), any_type_(any_type) {
    if (read<std::uint32_t>("the magic number") != 0x46554747)
      throw file_error(file_errc::not_gguf, "wrong magic number");
    const auto version = read<std::uint32_t>("the version");
    if (version < 2 || version > 3) throw file_error(file_errc::unsupported_version, std::to_string(version));
    const std::uint64_t tensors = read_count(24, "the number of tensors");  // name length, dims, type, offset
    const std::uint64_t keys = read_count(13, "the number of keys");        // name length, type, one byte
    for (std::uint64_t i = 0; i < keys; ++i) read_key();
    read_tensors(tensors);
  }

  /// A number (of any stored type, or a bool) as T; nothing where the key is absent or does not fit T.
  template <class T>
  std::optional<T> number(std::string_view key) const {
    const auto it = values_.find(key);
    if (it == values_.end()) return {};
    return element<T>(it->second, 0);
  }

  std::optional<std::string_view> text(std::string_view key) const {
    const auto it = values_.find(key);
    if (it == values_.end() || it->second.type != kind::string || it->second.is_array) return {};
    return text_at(it->second.at);
  }

  /// An array of strings; empty where the key is absent or something else.
  std::vector<std::string_view> texts(std::string_view key) const {
    std::vector<std::string_view> out;
    const auto it = values_.find(key);
    if (it == values_.end() || it->second.type != kind::string || !it->second.is_array) return out;
    out.reserve(it->second.count);
    std::size_t at = it->second.at;
    for (std::uint64_t i = 0; i < it->second.count; ++i) {
      out.push_back(text_at(at));
      at += 8 + out.back().size();
    }
    return out;
  }

  /// An array of numbers as T; empty where the key is absent or something else.
  template <class T>
  std::vector<T> numbers(std::string_view key) const {
    std::vector<T> out;
    const auto it = values_.find(key);
    if (it == values_.end() || it->second.type == kind::string || !it->second.is_array) return out;
    out.reserve(it->second.count);
    for (std::uint64_t i = 0; i < it->second.count; ++i) out.push_back(element<T>(it->second, i).value_or(T{}));
    return out;
  }

  bool has(std::string_view key) const { return values_.contains(key); }

  /// A tensor by name, or null.
  const tensor* find(std::string_view name) const {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? nullptr : &it->second;
  }

  const std::unordered_map<std::string_view, tensor>& tensors() const noexcept { return tensors_; }

 private:
  enum class kind : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

  struct value {
    kind type = kind::u8;
    bool is_array = false;
    std::uint64_t count = 1;
    std::size_t at = 0;  // of the first element
  };

  static constexpr std::size_t size_of(kind k) noexcept {
    switch (k) {
      case kind::u8:
      case kind::i8:
      case kind::boolean: return 1;
      case kind::u16:
      case kind::i16: return 2;
      case kind::u32:
      case kind::i32:
      case kind::f32: return 4;
      case kind::u64:
      case kind::i64:
      case kind::f64: return 8;
      case kind::string:
      case kind::array: break;
    }
    return 0;
  }

  [[noreturn]] static void fail(file_errc code, const std::string& what) { throw file_error(code, what); }

  std::size_t left() const noexcept { return bytes_.size() - at_; }

  template <class T>
  T load(std::size_t at) const noexcept {
    T x;
    std::memcpy(&x, bytes_.data() + at, sizeof x);
    return x;
  }

  template <class T>
  T read(const char* what) {
    if (left() < sizeof(T)) fail(file_errc::truncated, std::string("file ends before ") + what);
    const T x = load<T>(at_);
    at_ += sizeof(T);
    return x;
  }

  // A number of things of at least `smallest` bytes each.
  std::uint64_t read_count(std::size_t smallest, const char* what) {
    const auto n = read<std::uint64_t>(what);
    if (n > left() / smallest) fail(file_errc::truncated, std::string(what) + " exceeds the file");
    return n;
  }

  std::string_view read_text(const char* what) {
    const std::uint64_t n = read_count(1, what);
    const std::string_view s(reinterpret_cast<const char*>(bytes_.data() + at_), std::size_t(n));
    at_ += s.size();
    return s;
  }

  std::string_view text_at(std::size_t at) const noexcept {
    return {reinterpret_cast<const char*>(bytes_.data() + at + 8), std::size_t(load<std::uint64_t>(at))};
  }

  void read_key() {
    const std::string_view key = read_text("a key");
    value v;
    v.type = kind{read<std::uint32_t>("a value's type")};
    if (v.type == kind::array) {
      v.is_array = true;
      v.type = kind{read<std::uint32_t>("an array's type")};
      v.count = read<std::uint64_t>("an array's length");
    }
    const std::size_t size = size_of(v.type);
    if (size == 0 && v.type != kind::string) fail(file_errc::malformed, "type of value " + printable(key));
    if (v.count > left() / (size ? size : 8))
      fail(file_errc::truncated, "value " + printable(key) + " exceeds the file");
    v.at = at_;
    if (size) {
      at_ += size * std::size_t(v.count);
    } else {
      for (std::uint64_t i = 0; i < v.count; ++i) read_text("a string");
    }
    values_.insert_or_assign(key, v);
  }

  void read_tensors(std::uint64_t count) {
    std::vector<std::pair<std::string_view, std::uint64_t>> offsets;
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::string_view name = read_text("a tensor's name");
      const auto dims = read<std::uint32_t>("a tensor's dimensions");
      if (dims < 1 || dims > 4)
        fail(file_errc::malformed, "tensor " + printable(name) + " has " + std::to_string(dims) + " dimensions");
      tensor t;
      t.rows = 1;
      for (std::uint32_t d = 0; d < dims; ++d) {
        const auto n = read<std::uint64_t>("a tensor's shape");
        // 2^40 elements are 20 times the largest model there is, and their bytes fit 64 bits
        if (n == 0 || n > max_elements || (d > 0 && n > max_elements / t.cols / t.rows))
          fail(file_errc::malformed, "shape of tensor " + printable(name));
        if (d == 0)
          t.cols = n;
        else
          t.rows *= n;
      }
      t.type = tensor_type{read<std::uint32_t>("a tensor's type")};
      const block_size b = block_of(t.type);
      if (b.elements == 0 && any_type_) {
        read<std::uint64_t>("a tensor's offset");
        continue;
      }
      if (b.elements == 0)
        fail(file_errc::unknown_type, printable(name) + " has type " + std::to_string(std::uint32_t(t.type)));
      if (t.cols % b.elements)
        fail(file_errc::malformed, "a row of tensor " + printable(name) + " is not whole blocks");
      if (!tensors_.emplace(name, t).second) fail(file_errc::malformed, "tensor " + printable(name) + " appears twice");
      offsets.emplace_back(name, read<std::uint64_t>("a tensor's offset"));
    }
    const auto alignment = number<std::uint64_t>("general.alignment").value_or(32);
    if (!std::has_single_bit(alignment) || alignment > 65536) fail(file_errc::malformed, "general.alignment");
    const std::uint64_t begin = (at_ + alignment - 1) / alignment * alignment;
    for (const auto& [name, offset] : offsets) {
      tensor& t = tensors_.find(name)->second;
      const std::uint64_t size = t.rows * t.row_bytes();
      if (begin > bytes_.size() || offset > bytes_.size() - begin || size > bytes_.size() - begin - offset)
        fail(file_errc::truncated, "tensor " + printable(name) + " exceeds the file");
      if (offset % alignment) fail(file_errc::malformed, "tensor " + printable(name) + " is not aligned");
      t.data = bytes_.data() + begin + offset;
    }
  }

  // Names come from the file and end in messages on a terminal.
  static std::string printable(std::string_view s) {
    std::string out = "'";
    for (const char c : s.substr(0, 80)) out += c >= 0x20 && c < 0x7f ? c : '?';
    return out + "'";
  }

  template <class T>
  std::optional<T> element(const value& v, std::uint64_t i) const {
    if (i >= v.count) return {};
    const std::size_t at = v.at + size_of(v.type) * std::size_t(i);
    switch (v.type) {
      case kind::u8:
      case kind::boolean: return convert<T>(load<std::uint8_t>(at));
      case kind::i8: return convert<T>(load<std::int8_t>(at));
      case kind::u16: return convert<T>(load<std::uint16_t>(at));
      case kind::i16: return convert<T>(load<std::int16_t>(at));
      case kind::u32: return convert<T>(load<std::uint32_t>(at));
      case kind::i32: return convert<T>(load<std::int32_t>(at));
      case kind::u64: return convert<T>(load<std::uint64_t>(at));
      case kind::i64: return convert<T>(load<std::int64_t>(at));
      case kind::f32: return convert<T>(load<float>(at));
      case kind::f64: return convert<T>(load<double>(at));
      case kind::string:
      case kind::array: break;
    }
    return {};
  }

  template <class T, class From>
  static std::optional<T> convert(From x) {
    if constexpr (std::is_same_v<T, bool>) {
      return x != From{};
    } else if constexpr (std::is_integral_v<T> && std::is_integral_v<From>) {
      if (!std::in_range<T>(x)) return {};
      return static_cast<T>(x);
    } else if constexpr (std::is_integral_v<T>) {
      return {};
    } else {
      return static_cast<T>(x);
    }
  }

  static constexpr std::uint64_t max_elements = std::uint64_t{1} << 40;

  std::span<const std::byte> bytes_;
  bool any_type_ = false;
  std::size_t at_ = 0;
  std::unordered_map<std::string_view, value> values_;
  std::unordered_map<std::string_view, tensor> tensors_;
};

}  // namespace engine
