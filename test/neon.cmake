# SPDX-License-Identifier: Apache-2.0
# The NEON bodies on a machine that has none: tests of bodies, golden streams and corrupt codes, compiled for 64-bit ARM
# and run by qemu. Skipped (exit code 77) where there is no cross compiler or no qemu; on ARM the ordinary tests do it.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64|ARM64")
  return()
endif()
find_program(SLUICE_ARM_CXX aarch64-linux-gnu-g++)
find_program(SLUICE_QEMU_ARM qemu-aarch64)
find_path(SLUICE_DOCTEST_FOLDER doctest/doctest.h PATH_SUFFIXES doctest)

set(neon_unit warp_test rans_test checksum_test dense_test groups_test bitpack_test golden_test)
set(neon_fuzz_lossless 4000)  # mutations
set(neon "${CMAKE_CURRENT_BINARY_DIR}/neon")
set(neon_warnings -Wall -Wextra -Wconversion -Wshadow -Wpedantic)
if(SLUICE_WERROR)
  list(APPEND neon_warnings -Werror)  # not a generator expression: where it is empty, the compiler is given an empty argument
endif()

# Compiles one source into OBJECT, as the build does: again when a header of it changes.
function(sluice_arm_object source object)
  add_custom_command(OUTPUT "${object}"
    COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} "${SLUICE_ARM_CXX}" -std=c++20 ${ARGN} ${neon_warnings}
      "-I${PROJECT_SOURCE_DIR}/include" "-I${CMAKE_CURRENT_LIST_DIR}"
      "-I${PROJECT_SOURCE_DIR}/examples/tool" -isystem "${neon}/include" "-DSLUICE_SOURCE_DIR=\"${SLUICE_DATA_ROOT}\""
      "-DSLUICE_TEST_DATA=\"${SLUICE_DATA_ROOT}/test/data\"" -MMD -MF "${object}.d" -c "${source}" -o "${object}"
    DEPENDS "${source}" DEPFILE "${object}.d" VERBATIM COMMENT "Building for ARM: ${source}")
endfunction()

# A program of objects and the test that runs it; no shared library is needed to run it.
function(sluice_arm_program name)
  add_custom_command(OUTPUT "${neon}/${name}" COMMAND "${SLUICE_ARM_CXX}" -static ${ARGN} -o "${neon}/${name}"
    DEPENDS ${ARGN} VERBATIM)
  add_custom_target(neon_${name} ALL DEPENDS "${neon}/${name}")
endfunction()

if(SLUICE_ARM_CXX AND SLUICE_QEMU_ARM AND SLUICE_DOCTEST_FOLDER)
  # Nothing else of the host's headers may be seen.
  file(MAKE_DIRECTORY "${neon}/include")
  file(CREATE_LINK "${SLUICE_DOCTEST_FOLDER}/doctest" "${neon}/include/doctest" SYMBOLIC)
  set(objects)
  foreach(name main ${neon_unit})
    set(source "${CMAKE_CURRENT_LIST_DIR}/unit/${name}.cpp")
    set(optimize -O1)
    if(name STREQUAL "main")
      set(source "${CMAKE_CURRENT_LIST_DIR}/main.cpp")
    elseif(name STREQUAL "golden_test")
      set(optimize -O0)  # whole codecs: half the time and the memory to compile
    endif()
    sluice_arm_object("${source}" "${neon}/${name}.o" ${optimize})
    list(APPEND objects "${neon}/${name}.o")
  endforeach()
  sluice_arm_program(tests ${objects})
  sluice_arm_object("${CMAKE_CURRENT_LIST_DIR}/fuzz/driver.cpp" "${neon}/driver.o" -O1)
  sluice_arm_object("${CMAKE_CURRENT_LIST_DIR}/fuzz/lossless_fuzz.cpp" "${neon}/lossless_fuzz.o" -O0)
  sluice_arm_program(fuzz_lossless "${neon}/driver.o" "${neon}/lossless_fuzz.o")
endif()

foreach(name ${neon_unit} fuzz_lossless)
  if(NOT TARGET neon_tests)
    add_test(NAME neon.${name} COMMAND sh -c "echo 'no aarch64-linux-gnu-g++, qemu-aarch64 or doctest'; exit 77")
  elseif(name MATCHES "^fuzz_(.*)")
    add_test(NAME neon.${name} COMMAND "${SLUICE_QEMU_ARM}" "${neon}/${name}"
      "${CMAKE_CURRENT_LIST_DIR}/fuzz/corpus/${CMAKE_MATCH_1}" 1 ${neon_${name}})
  else()
    add_test(NAME neon.${name} COMMAND "${SLUICE_QEMU_ARM}" "${neon}/tests" --source-file=*/${name}.cpp)
    set_tests_properties(neon.${name} PROPERTIES FAIL_REGULAR_EXPRESSION "test cases: +0 ")
  endif()
  set_tests_properties(neon.${name} PROPERTIES LABELS neon TIMEOUT 600 SKIP_RETURN_CODE 77)
endforeach()
