# SPDX-License-Identifier: Apache-2.0
# cmake -DTOOL=sluice -DCAPTURES=captures -DDATA=test/data -DSCRATCH=dir -P captures.cmake: captures of every kind come out
# of the command as they went in, and wrong ones are refused in words.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE "${SCRATCH}")
file(MAKE_DIRECTORY "${SCRATCH}")
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
execute_process(COMMAND "${CAPTURES}" make "${DATA}/smollm2_sample.safetensors" "${SCRATCH}" COMMAND_ERROR_IS_FATAL ANY)

# Fails where b does not hold the K and V of a (up to a relative error).
function(compare a b)
  execute_process(COMMAND "${CAPTURES}" compare "${a}.safetensors" "${b}.safetensors" ${ARGN} WORKING_DIRECTORY "${SCRATCH}"
    RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE err)
  if(NOT rc EQUAL 0)
    message(FATAL_ERROR "${a} and ${b}: ${out}${err}")
  endif()
endfunction()

# --- there and back: exact and raw bit for bit, with every codec again to the same bytes where it is exact ---
set(kinds plain hole first_absent types sliding sliding_all moved odd_position narrow latent)
foreach(name IN LISTS kinds)
  set(in ${name}.safetensors)
  sluice(0 calibrate --shape-only ${in} -o ${name}.profile)
  expect_not(err "rotary")
  foreach(codec exact raw)
    foreach(chunk 64 4096)
      sluice(0 encode -p ${name}.profile --codec ${codec} --chunk-tokens ${chunk} ${in} -o a.slc)
      sluice(0 verify a.slc)
      sluice(0 info a.slc)
      sluice(0 decode -p ${name}.profile a.slc -o b.safetensors)
      compare(${name} b)
      sluice(0 encode -p ${name}.profile --codec ${codec} --chunk-tokens ${chunk} b.safetensors -o c.slc)
      same(a.slc c.slc)
      sluice(0 decode -p ${name}.profile c.slc -o d.safetensors)
      same(b.safetensors d.safetensors)
      # What decode writes says the whole shape.
      if(NOT name STREQUAL "first_absent")
        sluice(0 calibrate --shape-only --name sample b.safetensors -o again.profile)
        sluice(0 calibrate --shape-only --name sample ${in} -o first.profile)
        same(first.profile again.profile)
      endif()
    endforeach()
  endforeach()
  # Without calibration K and V of level 3 are a few percent off, wherever they stand and whatever they are stored in.
  if(name STREQUAL "narrow")
    continue()
  endif()
  sluice(0 encode -p ${name}.profile --chunk-tokens 64 ${in} -o a.slc)
  sluice(0 info a.slc)
  sluice(0 verify a.slc)
  sluice(0 decode -p ${name}.profile a.slc -o b.safetensors)
  compare(${name} b 0.09)
endforeach()
# The same with calibration.
foreach(name hole first_absent types sliding latent)
  sluice(0 calibrate ${name}.safetensors -o t.profile)
  sluice(0 encode -p t.profile --chunk-tokens 64 ${name}.safetensors -o a.slc)
  sluice(0 decode -p t.profile a.slc -o b.safetensors)
  compare(${name} b 0.15)
endforeach()
sluice(0 calibrate --shape-only opaque.safetensors -o opaque.profile)
sluice(0 encode -p opaque.profile --codec exact opaque.safetensors -o a.slc)
sluice(0 decode -p opaque.profile a.slc -o b.safetensors)
compare(opaque b)
sluice(1 encode -p opaque.profile opaque.safetensors -o no.slc)
expect(err "k.0 is opaque bytes")
sluice(1 calibrate opaque.safetensors -o no.profile)
expect(err "opaque.safetensors: k.0 is opaque bytes")

# Layers keep their numbers.
sluice(0 calibrate --shape-only --json hole.safetensors -o p.profile)
json_is(layers 4)
sluice(0 calibrate --shape-only --json first_absent.safetensors -o p.profile)
json_is(layers 6)

# Ratios count what was there: exact copies of sliding layers hold about as many bytes as their tensors.
sluice(0 encode -p sliding.profile --codec raw sliding.safetensors -o a.slc --json)
math(EXPR there "2 * 2 * 192 * (256 + 63 + 256 + 100)")
json_is(raw_bytes ${there})
sluice(0 info a.slc --json)
json_is(raw_bytes ${there})
json_is(tokens 256)
json_is("types;1" "f16+bf16")
# A layer range; what it leaves out keeps its number, and goes back into a frame of the whole model.
sluice(0 decode -p sliding.profile --layers 1:3 --json a.slc -o b.safetensors)
sluice(0 encode -p sliding.profile --codec raw b.safetensors -o b.slc)
sluice(0 decode -p sliding.profile b.slc -o c.safetensors)
same(b.safetensors c.safetensors)
sluice(1 decode -p sliding.profile --layers 3: b.slc -o no.out)
expect(err "holds nothing of the layers asked for")

# --- positions: keys at 512 take no more bytes than the same keys at 0, and are as good ---
sluice(0 calibrate plain.safetensors -o tuned.profile)
foreach(name plain moved)
  sluice(0 encode -p tuned.profile ${name}.safetensors -o ${name}.slc)
  sluice(0 info ${name}.slc --json)
  string(JSON bytes_${name} GET "${out}" levels 3 bytes)
  sluice(0 decode -p tuned.profile ${name}.slc -o b.safetensors)
  compare(${name} b 0.12)
endforeach()
# CacheGen's paper needs tables of its own, which calibrate counts where it is asked to.
sluice(1 encode -p tuned.profile --codec cachegen_paper plain.safetensors -o no.slc)
expect(err "lacks what a stage of this codec needs")
sluice(0 calibrate --for cachegen_paper plain.safetensors -o tables.profile)
sluice(0 encode -p tables.profile --codec cachegen_paper plain.safetensors -o cachegen.slc)
sluice(0 decode -p tables.profile cachegen.slc -o b.safetensors)
compare(plain b 1)  # its bins do not know that values of the first layer are small
sluice(0 info moved.slc --json)
json_is(position 512)
if(bytes_moved GREATER bytes_plain)  # which also holds the first tokens, exact
  message(FATAL_ERROR "keys at 512: ${bytes_moved} bytes, at 0 ${bytes_plain}")
endif()
# A profile learns the same from captures at any position.
sluice(0 calibrate moved.safetensors -o t.profile)
sluice(0 encode -p t.profile plain.safetensors -o a.slc)
sluice(0 info a.slc --json)
string(JSON bytes GET "${out}" levels 3 bytes)
math(EXPR bytes "10 * ${bytes}")
math(EXPR most "11 * ${bytes_plain}")
if(bytes GREATER most)
  message(FATAL_ERROR "learnt at 512: ${bytes} tenths of a byte, at 0 ${bytes_plain} bytes")
endif()

# --- rotary embeddings: what is said is what the profile undoes ---
foreach(name plain rope_interleaved rope_partial rope_linear rope_ntk rope_llama3 rope_yarn rope_yarn_untruncated rope_of_one_layer)
  sluice(0 calibrate ${name}.safetensors -o t.profile)
  expect_not(err "warning")
  execute_process(COMMAND "${CAPTURES}" turned_back "${DATA}/smollm2_sample.safetensors" ${name}.safetensors t.profile
    WORKING_DIRECTORY "${SCRATCH}" COMMAND_ERROR_IS_FATAL ANY)
  sluice(0 encode -p t.profile ${name}.safetensors -o a.slc)
  expect_not(err "warning")
  sluice(0 decode -p t.profile a.slc -o b.safetensors)
  compare(${name} b 0.12)
  # The whole description is in what decode writes.
  sluice(0 calibrate --shape-only --name sample b.safetensors -o again.profile)
  sluice(0 calibrate --shape-only --name sample ${name}.safetensors -o first.profile)
  same(first.profile again.profile)
endforeach()
sluice(0 calibrate silent.safetensors -o t.profile)
expect(err "warning.*nothing about the rotary embedding")
sluice(0 encode -p tuned.profile silent.safetensors -o a.slc)
expect(err "warning.*nothing about the rotary embedding")
sluice(1 encode -p tuned.profile rope_partial.safetensors -o a.slc)
expect(err "warning.*another rotary embedding.* 0 1 2 3")
expect(err "tuned.profile it takes [0-9.]+ times the bits.*--any-profile")
sluice(0 encode -p tuned.profile rope_partial.safetensors -o a.slc --any-profile)

# --- refused, by name ---
foreach(refusal "no_window=layer 1: holds 63 of 256 tokens and has no window" "short_window=window of 65 sees 64"
    "v_only=layer 1: has v but no k" "disagree=layer 0: k and v disagree" "zeros_in_front=k.01 is no layer"
    "layer_9999=k.9999 is no layer" "few_layers=metadata layers: \"3\"" "no_position=metadata position: \"-1\""
    "far_position=metadata position: \"9223372036854775807\"" "rope_unknown=metadata rope_theta is not known"
    "rope_unknown_layer=metadata rope_base.x is not known" "rope_no_number=metadata rope_base.1: \"1e6,\""
    "rope_no_factor=rope_scaling without rope_factor" "rope_no_scaling=rope_factor without rope_scaling"
    "rope_no_name=metadata rope_scaling: \"longrope\" is none of none, linear" "rope_odd=does not fit heads of 64"
    "rope_wide=does not fit heads of 64")
  string(REGEX MATCH "^([a-z0-9_]+)=(.*)$" refusal "${refusal}")
  set(name ${CMAKE_MATCH_1})
  set(words ${CMAKE_MATCH_2})
  foreach(command "encode;-p;plain.profile" "calibrate" "calibrate;--shape-only")
    sluice(1 ${command} ${name}.safetensors -o no.out)
    expect(err "${name}.safetensors: .*${words}")
  endforeach()
endforeach()
sluice(1 encode -p plain.profile no_tokens.safetensors -o no.out)
expect(err "no_tokens.safetensors: holds no tokens")
sluice(1 encode -p plain.profile --codec exact sliding.safetensors -o no.out)
expect(err "layer 1: holds 63 of 256 tokens, and the window of the profile is all")
sluice(1 encode -p hole.profile plain.safetensors -o no.out)
expect(err "plain.safetensors: model shape differs: layer 2")
sluice(1 encode -p hole.profile latent.safetensors -o no.out)
expect(err "layer 1: 1 heads of 192 and 0 here, 3 of 64 and 64 in the profile")

# --- no profile can be made of ---
foreach(refusal "constant=the same" "nan=v.1: only 0 of 252 tokens" "huge=v.0" "few_tokens=k.0 has 1 tokens"
    "no_tokens=k.0 has 0 tokens")
  string(REGEX MATCH "^([a-z0-9_]+)=(.*)$" refusal "${refusal}")
  set(words "${CMAKE_MATCH_2}")
  sluice(1 calibrate ${CMAKE_MATCH_1}.safetensors -o no.out)
  expect(err "${CMAKE_MATCH_1}.safetensors: .*${words}")
endforeach()
if(EXISTS "${SCRATCH}/no.out" OR EXISTS "${SCRATCH}/no.profile" OR EXISTS "${SCRATCH}/no.slc")
  message(FATAL_ERROR "a command that failed left a file")
endif()
