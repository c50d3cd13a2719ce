// SPDX-License-Identifier: Apache-2.0
#include "chat.hpp"
#include "prefix_cache.hpp"
#include "session.hpp"

#include <cstdio>
#include <string>

namespace engine {

int save_command(int argc, char** argv) {
  const arguments args =
      parse_arguments(argc, argv, {"--prompt-file", "--store", "--profile", "--levels", "--max-tokens"}, {});
  const std::string path = args.operand("MODEL"), text = read_text(args.required("--prompt-file"));
  store kept(args.required("--store"));
  const int levels = int(args.integer("--levels", sluice::max_passes, 1, sluice::max_passes));

  session s(args, path);
  prefix_cache prefixes(s.net, load_profile(args, path, s.net), kept, s.threads);
  const std::vector<std::int32_t> ids = document_of(args, s.text, text);
  page_pool pages(s.net.config(), kv_type(args), page_pool::pages_for(int(ids.size())));
  sequence seq(pages);
  progress bar("prefill");
  stopwatch clock;
  s.net.forward(ids, seq, with_progress(bar, s.net, ids.size()));
  const double prefill_seconds = clock.seconds();
  const save_report r = prefixes.save(ids, seq, levels);

  // What resume tells its time against.
  const std::string note = json{{"tokens", ids.size()}, {"prefill_seconds", prefill_seconds}}.dump();
  if (const std::string why = kept.put(prefixes.name_of(ids) + ".json", std::as_bytes(std::span(note))); !why.empty())
    throw data_error(why);

  const double ratio = double(r.raw_bytes) / double(r.bytes);
  if (args.has("--json")) {
    std::puts(json{{"model", path},
                   {"store", kept.folder()},
                   {"tokens", ids.size()},
                   {"chunks", r.chunks},
                   {"chunks_already_there", r.already_there},
                   {"bytes", r.bytes},
                   {"raw_bytes", r.raw_bytes},
                   {"ratio", ratio},
                   {"prefill_seconds", prefill_seconds},
                   {"encode_seconds", r.encode_seconds},
                   {"write_seconds", r.write_seconds}}
                  .dump(2)
                  .c_str());
  } else {
    std::printf("%zu tokens: prefill %.3f s, encoding %.3f s, writing %.3f s\n", ids.size(), prefill_seconds,
                r.encode_seconds, r.write_seconds);
    std::printf("%d chunks (%d were there), %.2f MB for %.2f MB of pages: %.2f times smaller, all levels\n", r.chunks,
                r.already_there, double(r.bytes) / 1e6, double(r.raw_bytes) / 1e6, ratio);
  }
  return 0;
}

}  // namespace engine
