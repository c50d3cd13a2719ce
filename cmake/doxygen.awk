# SPDX-License-Identifier: Apache-2.0
# Doxygen's view of a header (INPUT_FILTER): a line out for each line in, so that warnings name the right one.

# What the models of a concept have in common is documented once, at the concept. Here: whose models live where,
# in codec/ those of tile_codec but for its folders.
BEGIN {
  concept["/sluice/codec/group/"] = "sluice::grouping_policy"
  concept["/sluice/codec/predict/"] = "sluice::predictor_policy or sluice::feature_source"
  concept["/sluice/codec/transform/"] = "sluice::transform_policy"
  concept["/sluice/codec/quantize/"] = "sluice::quantizer_policy"
  concept["/sluice/codec/width/"] = "sluice::bit_widths_policy"
  concept["/sluice/codec/entropy/"] = "sluice::entropy_model or sluice::lossless_model"
  concept["/stream/plan/policy/"] = concept["/study/oracle.hpp"] = concept["/study/replay.hpp"] = \
      "sluice::stream::planner_policy"
  concept["/plan/placement_policies.hpp"] = "sluice::stream::placement_policy"
  concept["/stream/store/sources/"] = "sluice::stream::byte_source"
}
FNR == 1 {
  if (index(FILENAME, "/sluice/codec/")) asked_by = "sluice::tile_codec"
  for (place in concept)
    if (index(FILENAME, place)) asked_by = concept[place]
}
asked_by && !documented &&
  (/^  static constexpr [a-z_:* ]+ (id|tokens|heads_per_basis|tile_tokens|domain|span|predicts|passes|rank|lower)[ {]/ ||
   /^  static constexpr [a-z_:* ]+ (fixed_width|rounds|name|refines|in_place|scales_rows|reads_tokens) =/ || /^  using (en|de)coder = / ||
   /^  static [a-z_0-9: ]+ (passes|keeps_exact|uses|fingerprint|depth|measures|step|bits)\(/ ||
   /^  (static int width|(bool|void) (predict|gather|learn|forget))\(/ || /^  explicit [a-z_]+\(const (profile|detail::prediction_model)& / ||
   /^  step (link|compute)\(/ || /^  (placement_move|double) (move|worth|worth_at|density)\(/ ||
   /^  (virtual )?[a-z_0-9:<>]+ (size|put|detail|submit|arrived|cancel|poll|erase|keys)\(/) {
  sub(/^  /, "  /** Asked for by " asked_by ". */ ")
}
asked_by && /^  class (en|de)coder [{]$/ {
  sub(/^/, "/** @cond */")
  in_coder = 1
}
in_coder && /^  [}];$/ {
  sub(/$/, "/** @endcond */")
  in_coder = 0
}

# The inline namespace that keeps two kinds of translation unit apart is no part of any name, and in `detail` doxygen
# would lose it. Comparison member by member needs no words.
/^inline namespace SLUICE_(HOST|CALIBRATION)_ABI [{]$/ || /^[}]  \/\/ namespace SLUICE_(HOST|CALIBRATION)_ABI$/ || / operator==\(.* = default;$/ {
  $0 = ""
}
{
  sub(/::inline SLUICE_(HOST|CALIBRATION)_ABI/, "")
  documented = /^ *\/\/\//
  print
}
