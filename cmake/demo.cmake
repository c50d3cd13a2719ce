# SPDX-License-Identifier: Apache-2.0
# cmake -P cmake/demo.cmake: installs what is missing, builds the `sluice` command and the demo, runs the demo.
cmake_minimum_required(VERSION 3.25)
cmake_path(GET CMAKE_CURRENT_LIST_DIR PARENT_PATH root)
include("${CMAKE_CURRENT_LIST_DIR}/deps.cmake")
sluice_jobs(jobs)

set(build "${root}/build")
execute_process(COMMAND "${CMAKE_COMMAND}" -S "${root}" -B "${build}" -DCMAKE_BUILD_TYPE=Release -DSLUICE_BUILD_EXAMPLES=ON
  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${CMAKE_COMMAND}" --build "${build}" --parallel ${jobs} --target sluice_tool sluice_demo
  COMMAND_ERROR_IS_FATAL ANY)
file(MAKE_DIRECTORY "${build}/demo")
execute_process(COMMAND "${build}/bin/sluice-demo" --data "${root}/test/data" --out "${build}/demo"
  COMMAND_ERROR_IS_FATAL ANY)
file(GLOB reports "${build}/demo/*.html")
foreach(report IN LISTS reports)
  message("Report: ${report}")
endforeach()
message("The command to try next: ${build}/bin/sluice")
