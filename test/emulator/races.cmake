# SPDX-License-Identifier: Apache-2.0
# cmake -DCOMPILER=... -DROOT=<repository> -DWORK=<folder> -DSOURCE=... [-DLINK=<objects, libraries>]
#   [-DARGUMENTS=...] [-DPLANTED=N] -P races.cmake
# Compiles a program of the emulator with -fsanitize=thread, under which every thread of a kernel is one to the
# sanitizer, and runs it with ARGUMENTS: nothing may be reported. With PLANTED the same of `program 0`, and something must
# be reported of each of `program 1` to `program N`.
cmake_minimum_required(VERSION 3.25)
file(MAKE_DIRECTORY "${WORK}")
cmake_path(GET SOURCE STEM name)
set(program "${WORK}/${name}")
execute_process(COMMAND "${COMPILER}" -std=c++20 -O1 -g1 -fsanitize=thread -Wno-unknown-pragmas -DSLUICE_USE_KERNELS
  "-DSLUICE_SOURCE_DIR=\"${ROOT}\"" "-DSLUICE_TEST_DATA=\"${ROOT}/test/data\"" "-I${ROOT}/test/emulator"
  "-I${ROOT}/include" "-I${ROOT}/test" "-I${ROOT}/examples/tool" "${SOURCE}" ${LINK} -pthread -o "${program}"
  COMMAND_ERROR_IS_FATAL ANY)

set(ENV{TSAN_OPTIONS} "exitcode=66")
if(DEFINED PLANTED)  # where it is need not be said
  set(ENV{TSAN_OPTIONS} "exitcode=66:symbolize=0")
endif()
foreach(barrier RANGE 0 ${PLANTED})
  set(argument ${ARGUMENTS})
  if(DEFINED PLANTED)
    set(argument ${barrier})
  endif()
  execute_process(COMMAND "${program}" ${argument} RESULT_VARIABLE rc OUTPUT_VARIABLE said ERROR_VARIABLE said)
  if(barrier EQUAL 0 AND NOT rc EQUAL 0)
    message(FATAL_ERROR "${name} ended with ${rc}:\n${said}")
  elseif(barrier GREATER 0 AND NOT (rc EQUAL 66 AND said MATCHES "ThreadSanitizer: data race"))
    message(FATAL_ERROR "${name} ${argument} ended with ${rc}, and its race was not found:\n${said}")
  endif()
endforeach()
