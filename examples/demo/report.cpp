// SPDX-License-Identifier: Apache-2.0

#include <charts.hpp>
#include <report.hpp>
#include <svg.hpp>

namespace {

using svg::escape;
using svg::format;

constexpr char style[] = R"(
:root{color-scheme:light dark;--bg:#fcfcfb;--card:#f3f4f4;--ink:#16202b;--muted:#56616d;--grid:#e3e6e9;--axis:#9aa4ae;
--l0:#5a9bd8;--l1:#2c74b8;--l2:#1b5590;--l3:#113a68;--exact:#17805a;--fixed:#b4560b;--zstd:#7d4fb0;--raw:#6a727b;
--k:#2c74b8;--v:#c27a10;--both:#5d7186;--over:#8b3a52;--o0:#8b3a52;--o1:#ad5f74;--o2:#c98a99;--o3:#dfb4be;
--on-light:#0b1b2c;--on-dark:#fff;--good:#17805a;--mark:#e8f1fa}
@media(prefers-color-scheme:dark){:root{--bg:#12161b;--card:#1b2128;--ink:#e8ecf0;--muted:#9fabb7;--grid:#2a323b;--axis:#5d6974;
--l0:#3d7ec4;--l1:#6aa9e6;--l2:#9ccaf4;--l3:#cfe6fb;--exact:#46b98a;--fixed:#e88e3e;--zstd:#b48be0;--raw:#a3acb5;
--k:#6aa9e6;--v:#e0a03c;--both:#8fa3b8;--over:#d9849b;--o0:#d9849b;--o1:#b5637b;--o2:#8f4a5f;--o3:#6b3747;
--on-light:#06121e;--on-dark:#06121e;--good:#46b98a;--mark:#1d2c3b}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:17px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main{max-width:900px;margin:0 auto;padding:56px 20px 72px}
h1{font-size:2.1rem;line-height:1.15;letter-spacing:-.02em;margin:0 0 14px;text-wrap:balance}
h2{font-size:1.28rem;line-height:1.3;letter-spacing:-.01em;margin:64px 0 8px;text-wrap:balance}
p{margin:0 0 12px;max-width:68ch}.lede{font-size:1.12rem}.note{color:var(--muted);font-size:.92rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin:30px 0 0}
.card{background:var(--card);border-radius:10px;padding:16px 18px}
.card b{display:block;font-size:1.65rem;line-height:1.2;letter-spacing:-.02em;white-space:nowrap;font-variant-numeric:tabular-nums}
.card span{color:var(--muted);font-size:.9rem;line-height:1.4;display:block;margin-top:4px}
figure{margin:22px 0 14px;overflow-x:auto}svg{display:block;width:100%;min-width:680px;height:auto;overflow:visible}
svg text{font-size:13px;fill:var(--ink)}svg .tick{fill:var(--muted);font-size:12.5px;font-variant-numeric:tabular-nums}
svg .name{font-weight:600}svg .label{font-size:12.5px}svg .faint{opacity:.8}
svg .halo{paint-order:stroke;stroke:var(--bg);stroke-width:5px;stroke-linejoin:round}
svg .on-light{fill:var(--on-light);font-size:12.5px}svg .on-dark{fill:var(--on-dark);font-size:12.5px}
.grid{stroke:var(--grid)}line.faint{opacity:.55}.axis{stroke:var(--axis)}.deadline{stroke:var(--over);stroke-width:1.5;stroke-dasharray:5 4}.leader{stroke:var(--axis);stroke-width:.8}
.line{fill:none;stroke:var(--c);stroke-width:2.2;stroke-linejoin:round}.levels{stroke:var(--l1);stroke-width:2}
.dot{fill:var(--c);stroke:var(--bg);stroke-width:2}.fill{fill:var(--c);stroke:var(--bg);stroke-width:.6}
.l0{--c:var(--l0)}.l1{--c:var(--l1)}.l2{--c:var(--l2)}.l3{--c:var(--l3)}.exact{--c:var(--exact)}.fixed{--c:var(--fixed)}
.zstd{--c:var(--zstd)}.raw{--c:var(--raw)}.k{--c:var(--k)}.v{--c:var(--v)}.both{--c:var(--both)}.over{--c:var(--over)}
.o0{--c:var(--o0)}.o1{--c:var(--o1)}.o2{--c:var(--o2)}.o3{--c:var(--o3)}
.scroll{overflow-x:auto;margin:18px 0}table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:7px 10px;border-bottom:1px solid var(--grid);white-space:nowrap}
th{color:var(--muted);font-weight:500;vertical-align:bottom;line-height:1.3}th:first-child,td:first-child{text-align:left;padding-left:2px}
td.what{text-align:left;color:var(--muted)}td.best{background:var(--mark);font-weight:650}tr.level td:first-child{font-weight:650}
tr.gap td{border-bottom-color:var(--axis)}
ul{padding:0;margin:12px 0;list-style:none}li{padding:3px 0 3px 28px;position:relative}
li::before{content:"✓";position:absolute;left:4px;color:var(--good);font-weight:700}li.bad::before{content:"✗";color:var(--over)}
.swatch{display:inline-block;width:10px;height:10px;border-radius:50%;background:var(--c);margin-right:8px}
footer{margin-top:56px;padding-top:18px;border-top:1px solid var(--grid)}code{font-size:.92em}
@media print{main{padding:0}h2{break-after:avoid}figure,table{break-inside:avoid}}
)";

std::string percent(double share) {
  return format(share < 0.01 ? "%.2f %%" : share < 0.1 ? "%.1f %%" : "%.0f %%", 100 * share);
}
std::string milliseconds(double s) { return format(s < 0.00995 ? "%.2f" : s < 0.0995 ? "%.1f" : "%.0f", 1e3 * s); }
std::string rate(double bytes) { return format(bytes < 9.995e9 ? "%.2f" : "%.1f", bytes / 1e9); }
std::string link_name(double gigabits) { return format("%g Gbit/s", gigabits); }

std::string grouped(std::size_t n) {
  std::string s = std::to_string(n);
  for (std::size_t i = s.size(); i > 3;) s.insert(i -= 3, " ");
  return s;
}

std::string card(const std::string& figure, const std::string& meaning) {
  return "<div class=\"card\"><b>" + figure + "</b><span>" + meaning + "</span></div>\n";
}

std::string cards(const facts& f) {
  const codec_row& r = f.level(f.chosen_level());
  const delivery& d = f.links[1];
  return "<div class=\"cards\">\n" +
         card(format("%.1f×", f.ratio(r.bytes)),
              format("smaller than f16 at %s: %.2f bits per value, every byte of the file counted", r.name.c_str(),
                     f.bits(r.bytes))) +
         card(format("%.3f nats", r.expected_kl),
              "what calibration expects the next-token distribution to move by (KL) at that level") +
         card(rate(r.decode_rate) + " GB/s", "decoded into pages by one core, counted in bytes of f16") +
         card(format("%.0f → %.0f ms", 1e3 * f.seconds(f.raw(), d.gigabits), 1e3 * f.seconds(r, d.gigabits)),
              "to deliver over " + link_name(d.gigabits) + ", raw against " + r.name) +
         "</div>\n";
}

// What the plot of rates shows, in figures: the cheapest level that errs no more than four plain bits.
std::string rival_sentence(const facts& f) {
  const codec_row* plain = f.row("plain4");
  if (!plain) return {};
  for (int j = 0; j < f.levels; ++j) {
    const codec_row& r = f.level(j);
    if (r.error > plain->error) continue;
    return format(
        "Rounding every value to 4 bits (<code>plain4</code>) takes %.2f bits with its scales and moves attention "
        "outputs by "
        "%s; %s takes %.2f bits, %.0f %% %s, and moves them by %s. ",
        f.bits(plain->bytes), percent(plain->error).c_str(), r.name.c_str(), f.bits(r.bytes),
        100 * std::abs(1 - double(r.bytes) / double(plain->bytes)), r.bytes < plain->bytes ? "less" : "more",
        percent(r.error).c_str());
  }
  return {};
}

std::string link_sentence(const facts& f) {
  const codec_row& r = f.level(f.chosen_level());
  const double even = f.break_even(r);
  if (even <= 0) return {};
  return format(
      "With one core decoding, %s arrives before the raw cache does on every link slower than <b>%.1f Gbit/s</b>; ",
      r.name.c_str(), even);
}

std::string link_table(const facts& f) {
  std::vector<std::size_t> shown;
  for (std::size_t i = 0; i < f.rows.size(); ++i)
    if (f.rows[i].level >= 0 || f.rows[i].name == "exact" || f.rows[i].name == "raw") shown.insert(shown.begin(), i);
  std::string t = "<div class=\"scroll\"><table><tr><th>link</th>";
  for (std::size_t i : shown) t += "<th>" + f.rows[i].name + "<br>ms</th>";
  t += "<th>fastest</th><th>fastest<br>without loss</th></tr>\n";
  for (const delivery& d : f.links) {
    t += "<tr><td>" + link_name(d.gigabits) + "</td>";
    for (std::size_t i : shown)
      t += format("<td%s>", i == d.fastest ? " class=\"best\"" : "") + milliseconds(d.seconds[i]) + "</td>";
    t += "<td>" + f.rows[d.fastest].name + "</td><td>" + f.rows[d.fastest_lossless].name + "</td></tr>\n";
  }
  return t + "</table></div>\n";
}

std::string codec_table(const facts& f) {
  std::string t =
      "<div class=\"scroll\"><table><tr><th>codec</th><th>bytes</th><th>bits<br>per value</th><th>times<br>smaller</th>"
      "<th>attention<br>error</th><th>expected<br>KL, "
      "nats</th><th>encode<br>GB/s</th><th>decode<br>GB/s</th><th></th></tr>\n";
  for (const codec_row& r : f.rows) {
    const bool last_level = r.level == 0;
    t += format(
        "<tr class=\"%s%s\"><td><i class=\"swatch "
        "%s\"></i>%s</td><td>%s</td><td>%.2f</td><td>%.2f</td><td>%s</td><td>%s</td>",
        r.level >= 0 ? "level" : "", last_level ? " gap" : "", colour_of(r).c_str(), r.name.c_str(),
        grouped(r.bytes).c_str(), f.bits(r.bytes), f.ratio(r.bytes), r.lossless ? "none" : percent(r.error).c_str(),
        r.level >= 0 ? format("%.4f", r.expected_kl).c_str()
        : r.lossless ? "0"
                     : "–");
    t += "<td>" + rate(r.encode_rate) + "</td><td>" + rate(r.decode_rate) + "</td><td class=\"what\">" +
         escape(r.what) + "</td></tr>\n";
  }
  return t + "</table></div>\n";
}

std::string check_list(const facts& f) {
  const checks& c = f.checked;
  const auto item = [](bool fine, const std::string& s) {
    return (fine ? "<li>" : "<li class=\"bad\">failed: ") + s + "</li>\n";
  };
  return "<ul>\n" +
         item(c.truncated_equal,
              "The file cut after a level decodes to the same bits as the whole file decoded at that level.") +
         item(c.lossless_exact, "<code>exact</code> gives back every bit.") +
         item(c.other_pages_untouched, "Pages that belong to other sequences are untouched.") +
         item(c.only_that_page && c.others_unchanged,
              format("Stored as one frame a page, one byte flipped: detected (%s), page %d to be recomputed, the "
                     "others decode unchanged.",
                     escape(c.damaged_status).c_str(), c.damaged_page)) +
         item(c.flips == c.flips_detected, format("%d bits flipped one at a time all over that frame: %d detected; %d "
                                                  "of them hit a refinement and cost only a level.",
                                                  c.flips, c.flips_detected, c.flips_degraded)) +
         "</ul>\n";
}

}  // namespace

std::string report(const facts& f, const conversation& c, const streaming& s) {
  const codec_row& r = f.level(f.chosen_level());
  const std::string level = r.name;
  std::string h =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>sluice: a KV cache, "
      "compressed</title>\n<style>";
  h += style;
  h += "</style></head>\n<body><main>\n";
  h += format("<h1>A real KV cache, %.1f to %.0f times smaller, and back in its pages</h1>\n",
              f.ratio(f.level(f.levels - 1).bytes), f.ratio(f.level(0).bytes));
  h += format(
      "<p class=\"lede\">What %s remembers of %d tokens takes %.2f MB as f16: keys and values of %d layers with %d "
      "heads of %d. "
      "sluice encoded it once. Cutting the end off that file gives coarser levels; each was decoded into an engine’s "
      "pages of %d "
      "tokens, and every figure below was measured in this run.</p>\n",
      f.model.c_str(), f.tokens, double(f.raw_bytes) / 1e6, f.layers, f.kv_heads, f.head_dim, f.page_size);
  h += cards(f);

  h += "<h2>Fewer bits for less error</h2>\n<p>" + rival_sentence(f);
  h += "The levels on the line are one file, cut at different places. At the bottom: what can be had without any "
       "loss.</p>\n<figure>" +
       rate_error_chart(f) + "</figure>\n";
  h += format(
      "<p class=\"note\">Error: outputs of attention, softmax(q k<sup>T</sup> / √d) v, of the last %d queries over "
      "decoded against exact "
      "K and V; relative L2 norm of each layer, averaged over layers as if all mattered alike. They do not: see the "
      "last plot.</p>\n",
      f.queries);

  h += "<h2>Over a link, small wins until the link outruns the decoder</h2>\n<p>" + link_sentence(f) +
       "on faster ones raw wins, and more cores move that point up. Dots mark the fastest way for each "
       "link, whatever its quality.</p>\n<figure>" +
       delivery_chart(f) + "</figure>\n" + link_table(f) +
       "<p class=\"note\">All bytes over the link, then decode with one core; nothing is overlapped. Raw is copied "
       "into place by memcpy.</p>\n";

  h += conversation_section(c);
  h += streaming_section(s);

  h += "<h2>Where the bits go</h2>\n<p>Every level is the one before it and a refinement that cuts each step of the "
       "quantiser in three. ";
  h += format(
      "The first %d tokens of a sequence stay exact, since attention leans on them; in a context as short as this one "
      "they weigh most.</p>\n",
      f.sinks);
  h += "<figure>" + bits_chart(f) + overhead_chart(f) + "</figure>\n";

  h += "<h2>Layers get what the next token needs</h2>\n<p>" +
       format(
           "Calibration measured how far the prediction of the next token moves when one layer’s K or V is off, and %s "
           "spends its bytes accordingly. "
           "Where the error is large (middle) it mostly costs little (bottom).</p>\n",
           level.c_str());
  h += "<figure>" + layers_chart(f) + "</figure>\n<p class=\"note\">At " + level +
       ". Expected loss: KL divergence of the next-token distribution, from the profile.</p>\n";

  h += "<h2>All figures</h2>\n" + codec_table(f) +
       "<p class=\"note\">Speeds in bytes of f16 per second of one core’s time, all codecs in turns, medians; raw "
       "is memcpy. "
       "The same figures are in <code>demo.json</code>.</p>\n";
  h += "<h2>Checked on the way</h2>\n" + check_list(f);
  h += "<footer><p class=\"note\">" + escape(f.cpu) + format(", %u cores, one used; instructions: ", f.cores) +
       f.instructions + "; compiled with " + escape(f.compiler) +
       ". Attention errors need no engine; the quality of generated text does, and is "
       "measured with examples/engine.</p></footer>\n</main></body></html>\n";
  return h;
}
