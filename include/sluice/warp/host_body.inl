// SPDX-License-Identifier: Apache-2.0
// The 32-lane machine of one instruction set. All of them, and cuda::warp, have the same members; a body sees whole
// vectors only and never learns how many registers or threads they fill.
//
//   make(), sync()                        a machine with its constants; what one lane stored, others may read
//   leads()                               whether what is one and the same for all lanes is to be stored here
//   words                                 32 int16: load, store, load_bytes, load_signed_bytes, zero, select, third,
//                                         minus_triple, symbol_of
//   lane_set                              all, none, at_least, either, any
//   row, make_rows, make_dead             thresholds of a distribution per lane as this machine searches them:
//                                         rows_of(n) rows for n thresholds, search() compiled for counts searched(n)
//   state, load_state, valid, settle, home  32 coder states of 16 bits; a settled one takes no more bytes
//   search, search_digit -> hit           compare with every row and count; start and frequency by running extremes
//   advance                               multiply and add, then expand bytes of a source into the lanes that ran low
//   decoded, refined, store_symbols       what was found, as words or bytes
//   code_row, make_codes, find, find_digit, impossible -> code
//   first_state, liftable, lift, push, store_state  compress bytes backwards out of the lanes that ran full, then divide

#if SLUICE_TARGET_AVX512
#include <sluice/warp/avx512.inl>
#elif SLUICE_TARGET_AVX2
#include <sluice/warp/avx2.inl>
#elif SLUICE_TARGET_NEON
#include <sluice/warp/neon.inl>
#else
#include <sluice/warp/portable.inl>
#endif
