// SPDX-License-Identifier: Apache-2.0
// Encodes, cuts, decodes and damages a real KV cache, and writes down what comes of it.

#include <attention.hpp>
#include <capture_file.hpp>
#include <facts.hpp>
#include <pages.hpp>
#include <race.hpp>
#include <sluice/codec/any_codec.hpp>

#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>

namespace {

using sluice::plane;
using sluice::status;

void require(bool fine, const std::string& what) {
  if (!fine) throw std::runtime_error(what);
}
void require(status s, const std::string& what) { require(s == status::ok, what + ": " + sluice::to_string(s)); }

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(": ") + 2));
  return "unknown processor";
}

std::string compiler_name() {
#if defined(__clang__)
  return "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__);
#else
  return "g++ " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__);
#endif
}

using frame_bytes = std::vector<std::byte>;

class bench {
 public:
  explicit bench(const std::string& folder) {
    const std::string capture = folder + "/smollm2_sample.safetensors", model = folder + "/smollm2.profile";
    if (const auto wrong = capture_.open(capture)) throw std::runtime_error(*wrong);
    auto loaded = sluice::profile::load(model.c_str());
    require(loaded.status(), model);
    profile_ = std::move(*loaded);
    const auto groups = capture_.captures();
    require(groups.size() == 1 && groups[0].query_tokens > 0 && groups[0].cache.v.present() &&
                groups[0].cache.k.type == sluice::dtype::f16 && groups[0].cache.v.type == sluice::dtype::f16,
            capture + ": needs like layers of f16 K and V, and queries");
    dense_ = groups[0].cache;
    std::vector<const sluice::f16*> queries;
    for (const sluice::capture_layer& l : groups[0].layers) queries.push_back(l.queries);
    require(std::count(queries.begin(), queries.end(), nullptr) == 0, capture + ": lacks queries of some layers");
    source_ = std::make_unique<page_pool>(dense_, 1u);
    target_ = std::make_unique<page_pool>(dense_, 2u);
    source_->fill(dense_);
    attention_ = std::make_unique<attention>(std::move(queries), groups[0].query_tokens, groups[0].num_heads);
    exact_outputs_ = attention_->outputs(source_->view());

    out_.model = "SmolLM2-135M-Instruct";
    out_.tokens = int(dense_.tokens);
    out_.layers = dense_.num_layers;
    out_.kv_heads = dense_.num_kv_heads;
    out_.heads = groups[0].num_heads;
    out_.head_dim = dense_.k.head_dim;
    out_.queries = groups[0].query_tokens;
    out_.page_size = int(page_pool::page_size);
    out_.sinks = profile_.sinks;
    out_.cpu = cpu_name();
    out_.cores = std::thread::hardware_concurrency();
    out_.compiler = compiler_name();
    out_.instructions = sluice::to_string(sluice::usable_isa());
    for (plane p : {plane::key, plane::value})
      for (int l = 0; l < dense_.num_layers; ++l) {
        const std::byte* first = dense_.layer_base(dense_[p], l);
        raw_.insert(raw_.end(), first, first + dense_.tokens * dense_[p].token_stride);
      }
    out_.raw_bytes = raw_.size();
  }

  facts run() {
    levels();
    // The others of the table that this profile serves; the bytes as they are have a row of their own, by memcpy.
    for (const sluice::preset& p : sluice::presets())
      if (p.name != std::string_view(with_levels) && p.name != std::string_view("raw")) preset(p);
    zstd(3);
    zstd(1);
    raw();
    speed();
    links();
    damage();
    return std::move(out_);
  }

 private:
  static constexpr const char* with_levels = "balanced";  // whose levels are shown; of others one is

  std::pair<std::shared_ptr<sluice::any_encoder>, std::shared_ptr<sluice::any_decoder>> coders(const char* name) const {
    const sluice::codec_id& id = sluice::preset_named(name)->id;
    return {sluice::make_encoder(id, profile_), sluice::make_decoder(id, profile_)};
  }

  static frame_bytes encode(sluice::any_encoder& encoder, const sluice::kv_view& cache,
                            const sluice::encode_options& o = {}) {
    frame_bytes frame(encoder.max_size(cache));
    const auto size = encoder.encode(cache, frame, o);
    require(size.status(), "encode");
    frame.resize(*size);
    return frame;
  }

  // Decodes into clean pages and compares what attention makes of them.
  void judge(sluice::any_decoder& decoder, const frame_bytes& frame, codec_row& row) {
    target_->clear();
    require(decoder.decode(frame, target_->view()).worst, row.name);
    out_.checked.other_pages_untouched &= target_->rest_untouched();
    if (row.lossless) out_.checked.lossless_exact &= target_->same(*source_);
    row.layer_error = attention::errors(exact_outputs_, attention_->outputs(target_->view()));
    row.error = std::accumulate(row.layer_error.begin(), row.layer_error.end(), 0.0) / double(row.layer_error.size());
  }

  // Puts a row on the list, with the work whose speed it will show.
  void enter(codec_row row, std::function<void()> encode, std::function<void()> decode) {
    out_.rows.push_back(std::move(row));
    runners_.push_back({race_.enter(std::move(encode)), race_.enter(std::move(decode))});
  }

  void enter(codec_row row, std::shared_ptr<sluice::any_encoder> encoder, std::shared_ptr<sluice::any_decoder> decoder,
             frame_bytes frame, const sluice::encode_options& options) {
    space_.resize(std::max(space_.size(), encoder->max_size(source_->view())));
    enter(
        std::move(row),
        [this, encoder, options] { require(encoder->encode(source_->view(), space_, options).status(), "encode"); },
        [this, decoder, frame = std::move(frame)] {
          require(decoder->decode(frame, target_->view()).worst, "decode");
        });
  }

  void speed() {
    race_.run(3);
    for (std::size_t i = 0; i < out_.rows.size(); ++i) {
      out_.rows[i].encode_rate = double(out_.raw_bytes) / race_.median(runners_[i].encode);
      out_.rows[i].decode_rate = double(out_.raw_bytes) / race_.median(runners_[i].decode);
    }
  }

  // All levels of one frame: each is what is left of it after truncate().
  void levels() {
    const auto [encoder, decoder] = coders(with_levels);
    const frame_bytes whole = encode(*encoder, source_->view());
    sluice::frame_index index;
    require(index.parse(whole), "index");
    out_.levels = index.header().passes;
    page_pool by_option(dense_, 3);
    for (int j = out_.levels - 1; j >= 0; --j) {
      frame_bytes cut = whole;
      const auto size = sluice::truncate(cut, j);
      require(size.status(), "truncate");
      cut.resize(*size);
      codec_row row{"level " + std::to_string(j), "the whole file", j};
      row.bytes = cut.size();
      if (j + 1 < out_.levels)
        row.what = "its first " + std::to_string((100 * cut.size() + whole.size() / 2) / whole.size()) + " %";
      for (int l = 0; l < out_.layers; ++l) {
        const auto loss = [&](plane p) { return double(profile_.of(l, p).loss[std::size_t(j)]); };
        row.layer_kl.push_back({loss(plane::key), loss(plane::value)});
        row.expected_kl += loss(plane::key) + loss(plane::value);
      }
      judge(*decoder, cut, row);
      require(decoder->decode(whole, by_option.view(), {.level = j}).worst, row.name);
      out_.checked.truncated_equal &= by_option.same(*target_);
      enter(std::move(row), encoder, decoder, std::move(cut), {.levels = j + 1});
    }
    out_.account = account_of(index, whole);
  }

  void preset(const sluice::preset& p) {
    const auto [encoder, decoder] = coders(p.name);
    frame_bytes frame(encoder->max_size(source_->view()));
    const auto size = encoder->encode(source_->view(), frame);
    if (size.status() == status::missing_section) return;  // a codec that this profile does not serve
    require(size.status(), p.name);
    frame.resize(*size);
    codec_row row{p.name, p.what};
    row.lossless = p.exact();
    sluice::encode_options options;
    sluice::frame_index index;
    require(index.parse(frame), "index");
    if (index.header().passes > 1) {
      row.what = "its level 1: " + row.what;
      options.levels = 2;
      frame.resize(sluice::truncate(frame, 1).value());
    }
    row.bytes = frame.size();
    judge(*decoder, frame, row);
    enter(std::move(row), encoder, decoder, std::move(frame), options);
  }

  void zstd(int level) {
    codec_row row{"zstd -" + std::to_string(level), "general compressor"};
    row.lossless = true;
    frame_bytes packed(ZSTD_compressBound(raw_.size()));
    row.bytes = ZSTD_compress(packed.data(), packed.size(), raw_.data(), raw_.size(), level);
    require(!ZSTD_isError(row.bytes), row.name);
    packed.resize(row.bytes);
    copy_.assign(raw_.size(), std::byte{0});
    require(ZSTD_decompress(copy_.data(), copy_.size(), packed.data(), packed.size()) == raw_.size(), row.name);
    out_.checked.lossless_exact &= copy_ == raw_;
    space_.resize(std::max(space_.size(), ZSTD_compressBound(raw_.size())));
    enter(
        std::move(row),
        [this, level] { (void)ZSTD_compress(space_.data(), space_.size(), raw_.data(), raw_.size(), level); },
        [this, packed = std::move(packed)] {
          (void)ZSTD_decompress(copy_.data(), copy_.size(), packed.data(), packed.size());
        });
  }

  void raw() {
    codec_row row{"raw", "f16 by memcpy"};
    row.lossless = true;
    row.bytes = raw_.size();
    copy_.resize(raw_.size());
    const auto copy = [this] {
      std::memcpy(copy_.data(), raw_.data(), raw_.size());
      asm volatile("" : : "r"(copy_.data()) : "memory");  // or the copy, which nobody reads, is left out
    };
    enter(std::move(row), copy, copy);
  }

  void links() {
    for (double gigabits : {0.1, 1.0, 10.0, 100.0}) {
      delivery d{gigabits, {}, out_.rows.size() - 1, out_.rows.size() - 1};
      for (const codec_row& r : out_.rows) d.seconds.push_back(out_.seconds(r, gigabits));
      for (std::size_t i = 0; i < out_.rows.size(); ++i) {
        const codec_row& r = out_.rows[i];
        if ((r.lossless || r.level >= 0) && d.seconds[i] < d.seconds[d.fastest]) d.fastest = i;
        if (r.lossless && d.seconds[i] < d.seconds[d.fastest_lossless]) d.fastest_lossless = i;
      }
      out_.links.push_back(std::move(d));
    }
  }

  // One frame a page, as a store would key them; then bytes are flipped.
  void damage() {
    const auto [encoder, decoder] = coders(with_levels);
    const auto part = [](const page_pool& pool, int n) {
      const sluice::kv_view v = pool.view();
      return v.slice(n * page_pool::page_size, std::min<std::int64_t>((n + 1) * page_pool::page_size, v.tokens));
    };
    const int pages = source_->pages();
    std::vector<frame_bytes> frames;
    for (int n = 0; n < pages; ++n) frames.push_back(encode(*encoder, part(*source_, n)));
    const auto decode_all = [&](page_pool& into) {
      std::vector<status> found(std::size_t(pages), status::absent);
      for (int n = 0; n < pages; ++n)
        (void)decoder->decode(frames[std::size_t(n)], part(into, n),
                              {.pages = std::span(found).subspan(std::size_t(n), 1)});
      return found;
    };
    page_pool whole(dense_, 4);
    const std::vector<status> before = decode_all(whole);
    checks& c = out_.checked;
    c.damaged_page = pages / 2 - 1;
    frame_bytes& victim = frames[std::size_t(c.damaged_page)];
    sluice::frame_index index;
    require(index.parse(victim), "index");
    std::byte& byte = victim[std::size_t(index.payload_offset() + index.size_at(0)) / 2];  // amid the base pass
    byte ^= std::byte{0x10};
    const std::vector<status> after = decode_all(*target_);
    byte ^= std::byte{0x10};
    c.damaged_status = sluice::to_string(after[std::size_t(c.damaged_page)]);
    c.only_that_page = c.others_unchanged = true;
    for (int n = 0; n < pages; ++n) {
      const bool hit = n == c.damaged_page;
      c.only_that_page &=
          before[std::size_t(n)] == status::ok && after[std::size_t(n)] == (hit ? status::corrupt_tile : status::ok);
      c.others_unchanged &= hit || whole.same_page(*target_, n);
    }
    for (std::size_t i = 0; i < 1000; ++i, ++c.flips) {
      std::byte& at = victim[i * (victim.size() - 1) / 999];
      at ^= std::byte(1u << i % 8);
      const status s = decoder->decode(victim, part(*target_, c.damaged_page)).worst;
      at ^= std::byte(1u << i % 8);
      c.flips_detected += s != status::ok;
      c.flips_degraded += s == status::degraded;
    }
  }

  capture_file capture_;
  sluice::profile profile_;
  sluice::kv_view dense_;
  std::unique_ptr<page_pool> source_, target_;
  std::unique_ptr<attention> attention_;
  std::vector<attention::matrix> exact_outputs_;
  frame_bytes raw_, space_, copy_;
  struct runner {
    std::size_t encode, decode;
  };
  std::vector<runner> runners_;  // like the rows
  race race_;
  facts out_;
};

}  // namespace

facts measure(const std::string& folder) { return bench(folder).run(); }
