// SPDX-License-Identifier: Apache-2.0
// The `sluice` command: compresses captured KV caches and takes them apart again.

#include <command.hpp>
#include <sluice/version.hpp>

#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

namespace {

constexpr char usage[] = R"(sluice compresses the KV cache of language models.

  sluice calibrate [--sensitivity S.json] [--heads-per-basis N] [--target-kl KL] [--threads N] CAPTURE... -o M.profile
  sluice calibrate --shape-only CAPTURE -o M.profile        a profile without calibration: twice the bytes, at once
  sluice encode -p M.profile [--codec NAME] [--chunk-tokens 256] [--levels N] IN.safetensors -o OUT.slc
  sluice decode -p M.profile [--level J] [--layers A:B] IN.slc -o OUT.safetensors
  sluice truncate --level J IN.slc -o OUT.slc
  sluice info [-p M.profile] IN.slc     bytes per level, layer, K and V; with the profile, how far above an ideal coder
  sluice verify IN.slc
  sluice put --model NAME --ids CAPTURE --store STORE IN.slc                 chunks, named by model, codec and all tokens before
  sluice get --model NAME --ids CAPTURE --store STORE -p M.profile [--codec NAME] [--chunk-tokens 256] [--level J] -o OUT.slc
  sluice simulate [--links DIR] [--requests FILE] [--shape NAME] [--policies A,B] [--deadlines 0.25,0.5] [--kv-share 0.25]
      [--context TOKENS]                  planner policies on recorded (or made-up) links

Captures are safetensors files with k.{layer} and v.{layer} [tokens, kv_heads, head_dim]. Every command takes --json.
A CAPTURE of put and get holds `ids` [tokens], from position 0 on. STORE: DIR, redis://HOST:PORT/DB, http(s)://HOST/PATH,
s3+https://HOST/BUCKET/PATH (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION).
Codecs: standard (default), exact, raw, fixed4, plain8, plain4. Exit codes: 0 done, 1 bad data, 2 wrong call.
)";

struct command {
  const char* name;
  int (*run)(int, char**);
};
constexpr command commands[] = {{"calibrate", calibrate_command}, {"encode", encode_command},
                                {"decode", decode_command},       {"truncate", truncate_command},
                                {"info", info_command},           {"verify", verify_command},
                                {"put", put_command},             {"get", get_command},
                                {"simulate", simulate_command}};

bool wants_json(int argc, char** argv) {
  for (int i = 2; i < argc; ++i)
    if (!std::strcmp(argv[i], "--json")) return true;
  return false;
}

int report(const char* message, int code, bool as_json) {
  if (as_json) std::printf("%s\n", json{{"error", message}}.dump().c_str());
  std::fprintf(stderr, "sluice: %s\n", message);
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || !std::strcmp(argv[1], "--help") || !std::strcmp(argv[1], "help")) {
    std::fputs(usage, argc < 2 ? stderr : stdout);
    return argc < 2 ? 2 : 0;
  }
  if (!std::strcmp(argv[1], "--version")) {
    std::printf("sluice %d.%d.%d, format %d.%d\n", SLUICE_VERSION_MAJOR, SLUICE_VERSION_MINOR, SLUICE_VERSION_PATCH,
                SLUICE_FORMAT_VERSION_MAJOR, SLUICE_FORMAT_VERSION_MINOR);
    return 0;
  }
  for (const command& c : commands) {
    if (std::strcmp(argv[1], c.name)) continue;
    try {
      return c.run(argc, argv);
    } catch (const failure& f) {
      return report(f.what(), f.code, wants_json(argc, argv));
    } catch (const std::bad_alloc&) {
      return report("out of memory", 1, wants_json(argc, argv));
    } catch (const std::exception& e) {
      return report(e.what(), 1, wants_json(argc, argv));
    }
  }
  std::fprintf(stderr, "sluice: unknown command %s\n\n%s", argv[1], usage);
  return 2;
}
