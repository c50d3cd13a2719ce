// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "arrays.hpp"
#include "numbers.hpp"

#include <sluice/codec/any_codec.hpp>
#include <sluice/codec/budget.hpp>
#include <sluice/codec/fit.hpp>
#include <sluice/model/pairs.hpp>
#include <sluice/model/position.hpp>
#include <sluice/model/profile.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// Coders that wait for work, of several presets. Making one inverts bases or allocates a workspace, and one may serve one
/// thread at a time; so each call takes one and gives it back.
template <class Coder>
class pool {
 public:
  /// A coder for the time of a call.
  class lease {
   public:
    lease(pool& from, const sluice::preset* preset, std::unique_ptr<Coder> coder)
        : from_(&from), preset_(preset), coder_(std::move(coder)) {}
    lease(const lease&) = delete;
    lease& operator=(const lease&) = delete;
    ~lease() {
      const std::lock_guard held(from_->busy_);
      from_->free_.emplace_back(preset_, std::move(coder_));
    }
    Coder* operator->() const noexcept { return coder_.get(); }

   private:
    pool* from_;
    const sluice::preset* preset_;
    std::unique_ptr<Coder> coder_;
  };

  /// One of this preset, which make() makes where none waits.
  template <class Make>
  lease take(const sluice::preset* preset, Make make) {
    {
      const std::lock_guard held(busy_);
      for (auto i = free_.begin(); i != free_.end(); ++i)
        if (i->first == preset) {
          std::unique_ptr<Coder> found = std::move(i->second);
          free_.erase(i);
          return {*this, preset, std::move(found)};
        }
    }
    return {*this, preset, make()};
  }

 private:
  std::mutex busy_;
  std::vector<std::pair<const sluice::preset*, std::unique_ptr<Coder>>> free_;
};

/// Lets other Python threads run while C++ works; nothing inside may touch a Python object.
template <class F>
auto without_interpreter(F f) {
  const nb::gil_scoped_release released;
  return f();
}

/// What is asked of encode(), as Python says it. Numbers are None where nothing is told.
struct encode_request {
  std::int64_t position = 0;
  std::optional<int> levels;
  std::optional<std::size_t> max_bytes;
  std::string codec = "standard";
  std::optional<std::string> dtype;
  nb::handle token_ids, importance, attention;
  float coarser = 0;
  nb::handle loss;
};

/// The same as the library takes it, with the numbers that it borrows.
class encode_wishes {
 public:
  /// For a cache of so many tokens. Errors: invalid_argument, wrong_shape, wrong_side_info, unsupported_type.
  encode_wishes(const encode_request& r, int layers, std::int64_t tokens)
      : ids_(numbers_of<std::int32_t>(r.token_ids, "token_ids")),
        importance_(numbers_of<float>(r.importance, "importance", {std::size_t(tokens)})),
        attention_(numbers_of<float>(r.attention, "attention", {std::size_t(layers), std::size_t(tokens)})),
        loss_(numbers_of<double>(r.loss, "loss")) {
    if (r.levels) options_.levels = *r.levels;
    if (options_.levels < 1)
      throw failure(sluice::status::invalid_argument, "levels counts them: 1 is the coarsest alone");
    if (!r.token_ids.is_none() && std::ssize(ids_) < tokens)
      throw failure(sluice::status::wrong_side_info,
                    "token_ids has " + std::to_string(ids_.size()) + " of " + std::to_string(tokens) + " tokens");
    if (!(std::abs(r.coarser) <= float(sluice::max_row_step)))
      throw failure(sluice::status::invalid_argument,
                    "coarser counts quarter octaves, up to " + std::to_string(sluice::max_row_step) + " either way");
    if (r.max_bytes) options_.max_bytes = *r.max_bytes;
    options_.side = {ids_};
    options_.weights = {attention_, importance_};
    options_.coarser = r.coarser;
    options_.loss = loss_;
  }
  encode_wishes(const encode_wishes&) = delete;
  encode_wishes& operator=(const encode_wishes&) = delete;

  const sluice::encode_options& options() const noexcept { return options_; }

 private:
  std::vector<std::int32_t> ids_;
  std::vector<float> importance_, attention_;
  std::vector<double> loss_;
  sluice::encode_options options_;
};

/// A profile and the coders that work with it: all that Python needs of a model.
class model_codec {
 public:
  explicit model_codec(sluice::profile p) : profile_(std::move(p)) { check(validate(profile_)); }

  const sluice::profile& profile() const noexcept { return profile_; }

  std::size_t max_size(nb::handle k, nb::handle v, const std::string& codec, const std::optional<std::string>& dtype) {
    const cache_arrays arrays(k, v, purpose::read, dtype);
    const auto views = arrays.views(0, arrays.tokens());
    return without_interpreter([&] { return encoder(preset_of(codec))->max_size(views); });
  }

  nb::bytes encode(nb::handle k, nb::handle v, const encode_request& r) {
    const cache_arrays arrays(k, v, purpose::read, r.dtype);
    const auto views = arrays.views(r.position, arrays.tokens());
    const encode_wishes wishes(r, profile_.shape.num_layers(), arrays.tokens());
    std::vector<std::byte> frame;
    without_interpreter([&] {
      const auto e = encoder(preset_of(r.codec));
      frame.resize(std::min(e->max_size(views), r.max_bytes.value_or(SIZE_MAX)));
      frame.resize(value_of(e->encode(views, frame, wishes.options())));
    });
    return nb::bytes(frame.data(), frame.size());
  }

  std::size_t encode_into(nb::handle out, nb::handle k, nb::handle v, const encode_request& r) {
    const buffer to(out, purpose::write);
    const cache_arrays arrays(k, v, purpose::read, r.dtype);
    const auto views = arrays.views(r.position, arrays.tokens());
    const encode_wishes wishes(r, profile_.shape.num_layers(), arrays.tokens());
    return without_interpreter(
        [&] { return value_of(encoder(preset_of(r.codec))->encode(views, to.bytes(), wishes.options())); });
  }

  std::uint32_t decode(nb::handle frame, nb::handle k, nb::handle v, std::optional<int> level,
                       std::optional<std::int64_t> position, const std::optional<std::string>& dtype,
                       nb::handle token_ids) {
    const buffer in(frame);
    sluice::frame_index index;
    check(index.parse(in.bytes()));
    const sluice::frame_header& h = index.header();
    const sluice::preset* const preset = sluice::preset_reading(h.codec);
    if (!preset) throw failure(sluice::status::wrong_codec, "no preset of this version reads what made the frame");
    const cache_arrays arrays(k, v, purpose::write, dtype);
    if (arrays.tokens() < std::int64_t{h.tokens})
      throw failure(sluice::status::wrong_shape, "the frame holds " + std::to_string(h.tokens) +
                                                     " tokens, the arrays have room for " +
                                                     std::to_string(arrays.tokens()));
    const std::vector<std::int32_t> ids = numbers_of<std::int32_t>(token_ids, "token_ids");
    sluice::decode_options o;
    o.side = {ids};
    if (level) o.level = *level;
    o.position = position.value_or(h.position);
    const auto views = arrays.views(o.position, std::int64_t{h.tokens});
    const sluice::page_status s = without_interpreter([&] {
      return decoders_.take(preset, [&] { return make_decoder(h.codec, profile_); })->decode(in.bytes(), views, o);
    });
    if (s.worst == sluice::status::degraded) return s.degraded;
    if (s.worst != sluice::status::ok && s.damaged > 0)
      throw failure(s.worst, std::string(to_string(s.worst)) + ": " + std::to_string(s.damaged) + " of " +
                                 std::to_string(s.tiles) + " tiles are not there, and their tokens not written");
    check(s.worst);
    return 0;
  }

  std::int64_t find_position(nb::handle k, const sluice::position_search& range,
                             const std::optional<std::string>& dtype) {
    const cache_arrays arrays(k, nb::none(), purpose::read, dtype);
    const auto views = arrays.views(0, arrays.tokens());
    return value_of(without_interpreter([&] { return sluice::find_position(views, profile_, range); }));
  }

  nb::bytes truncate_to(nb::handle frame, std::size_t max_bytes) const {
    const buffer in(frame);
    std::vector<std::byte> cut(in.bytes().begin(), in.bytes().end());
    const std::size_t size =
        value_of(without_interpreter([&] { return sluice::truncate_to(cut, max_bytes, &profile_); }));
    return nb::bytes(cut.data(), size);
  }

  double fit(nb::handle k, nb::handle v, std::int64_t position, const std::optional<std::string>& dtype) {
    const cache_arrays arrays(k, v, purpose::read, dtype);
    const auto views = arrays.views(position, arrays.tokens());
    return value_of(without_interpreter([&] { return sluice::fit(views, profile_); })).ratio();
  }

 private:
  static const sluice::preset* preset_of(const std::string& name) {
    if (const sluice::preset* p = sluice::preset_named(name.c_str())) return p;
    std::string all;
    for (const sluice::preset& p : sluice::presets()) all.append(all.empty() ? "" : ", ").append(p.name);
    throw failure(sluice::status::invalid_argument, "no codec is called '" + name + "': take one of " + all);
  }

  pool<sluice::any_encoder>::lease encoder(const sluice::preset* p) {
    return encoders_.take(p, [&] { return make_encoder(p->id, profile_); });
  }

  sluice::profile profile_;
  pool<sluice::any_encoder> encoders_;
  pool<sluice::any_decoder> decoders_;
};
