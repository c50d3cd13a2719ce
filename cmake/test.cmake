# SPDX-License-Identifier: Apache-2.0
# cmake -P cmake/test.cmake: installs what is missing, builds everything into build/, runs the tests.
cmake_minimum_required(VERSION 3.25)
cmake_path(GET CMAKE_CURRENT_LIST_DIR PARENT_PATH root)
set(SLUICE_SERVERS ON)
include("${CMAKE_CURRENT_LIST_DIR}/deps.cmake")
sluice_jobs(jobs)
math(EXPR tests "${jobs} + 1")  # some of which wait for servers most of the time

execute_process(COMMAND "${CMAKE_COMMAND}" -S "${root}" -B "${root}/build" -DCMAKE_BUILD_TYPE=Release -DSLUICE_BUILD_TESTS=ON
  -DSLUICE_BUILD_EXAMPLES=ON -DSLUICE_BUILD_BENCH=ON COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${CMAKE_COMMAND}" --build "${root}/build" --parallel ${jobs} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${CMAKE_CTEST_COMMAND}" --test-dir "${root}/build" --output-on-failure --parallel ${tests}
  RESULT_VARIABLE rc)
if(NOT rc EQUAL 0)
  message(FATAL_ERROR "tests failed")
endif()
