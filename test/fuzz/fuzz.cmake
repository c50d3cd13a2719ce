# SPDX-License-Identifier: Apache-2.0
# fuzz/NAME_fuzz.cpp defines LLVMFuzzerTestOneInput; its seeds lie in fuzz/corpus/NAME/. Each is always built as
# fuzz_NAME_replay, which runs the corpus and mutations of it as a test under ASan and UBSan, and with SLUICE_BUILD_FUZZ
# also as fuzz_NAME for libFuzzer: build/fuzz/bin/fuzz_NAME -max_total_time=600 scratch test/fuzz/corpus/NAME
file(GLOB fuzzers CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/*_fuzz.cpp")
sluice_keep_buildable(fuzzers)
set(fuzz_sanitize -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
if(SLUICE_BUILD_FUZZ AND NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  message(FATAL_ERROR "SLUICE_BUILD_FUZZ needs clang: cmake --preset fuzz")
endif()

include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_FLAGS "-fsanitize=address,undefined")
check_cxx_source_compiles("int main() {}" SLUICE_HAS_SANITIZERS)
unset(CMAKE_REQUIRED_FLAGS)

if(fuzzers AND SLUICE_BUILD_TESTS)
  add_library(sluice_fuzz_driver OBJECT "${CMAKE_CURRENT_LIST_DIR}/driver.cpp")
  target_link_libraries(sluice_fuzz_driver PRIVATE sluice_test_headers)
  # All presets in one file take minutes and gigabytes: they are compiled some at a time, once for all replays of whole
  # codecs.
  get_property(presets GLOBAL PROPERTY SLUICE_PRESET_SOURCES)
  add_library(sluice_fuzz_presets STATIC ${presets})
  set_target_properties(sluice_fuzz_presets PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 4
    UNOPTIMIZED ON)
  target_link_libraries(sluice_fuzz_presets PRIVATE sluice_test_headers)
  target_compile_definitions(sluice_fuzz_presets PRIVATE SLUICE_PORTABLE_ONLY SLUICE_LINKS_PRESETS)
  if(SLUICE_HAS_SANITIZERS)
    target_compile_options(sluice_fuzz_presets PRIVATE -g1 ${fuzz_sanitize})
  endif()
endif()
foreach(source IN LISTS fuzzers)
  cmake_path(GET source STEM stem)
  string(REGEX REPLACE "_fuzz$" "" name "${stem}")
  set(corpus "${CMAKE_CURRENT_LIST_DIR}/corpus/${name}")
  if(SLUICE_BUILD_FUZZ)
    add_executable(fuzz_${name} "${source}")
    target_link_libraries(fuzz_${name} PRIVATE sluice_test_headers)
    target_compile_options(fuzz_${name} PRIVATE -g -fsanitize=fuzzer ${fuzz_sanitize})
    target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer ${fuzz_sanitize})
  endif()
  if(SLUICE_BUILD_TESTS)
    add_executable(fuzz_${name}_replay "${source}" $<TARGET_OBJECTS:sluice_fuzz_driver>)
    target_link_libraries(fuzz_${name}_replay PRIVATE sluice_test_headers)
    # Sanitizers take minutes over the vector bodies; in replays of whole codecs the portable ones stand for them, which
    # other tests compare. The fuzzers proper have all.
    file(STRINGS "${source}" whole_codec REGEX "#include <sluice/sluice.hpp>")
    if(whole_codec)
      target_compile_definitions(fuzz_${name}_replay PRIVATE SLUICE_PORTABLE_ONLY SLUICE_LINKS_PRESETS)
      target_link_libraries(fuzz_${name}_replay PRIVATE sluice_fuzz_presets)
      # Two thirds of the time to compile, and a replay has its seconds either way.
      set_target_properties(fuzz_${name}_replay PROPERTIES UNOPTIMIZED ON)
    endif()
    if(SLUICE_HAS_SANITIZERS)
      target_compile_options(fuzz_${name}_replay PRIVATE -g1 ${fuzz_sanitize})
      target_link_options(fuzz_${name}_replay PRIVATE ${fuzz_sanitize})
    endif()
    add_test(NAME fuzz.${name} COMMAND fuzz_${name}_replay "${corpus}")
    set_tests_properties(fuzz.${name} PROPERTIES LABELS fuzz TIMEOUT 300)
  endif()
endforeach()
