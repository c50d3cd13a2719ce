# SPDX-License-Identifier: Apache-2.0
# cmake -P cmake/demo.cmake: installs what is missing, builds the engine and the demo, runs the demo.
cmake_minimum_required(VERSION 3.25)
cmake_path(GET CMAKE_CURRENT_LIST_DIR PARENT_PATH root)
include("${CMAKE_CURRENT_LIST_DIR}/deps.cmake")
sluice_jobs(jobs)

set(build "${root}/build")
execute_process(COMMAND "${CMAKE_COMMAND}" -S "${root}" -B "${build}" -DCMAKE_BUILD_TYPE=Release -DSLUICE_BUILD_EXAMPLES=ON
  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${CMAKE_COMMAND}" --build "${build}" --parallel ${jobs} --target sluice_demo sluice_engine
  COMMAND_ERROR_IS_FATAL ANY)
file(MAKE_DIRECTORY "${build}/demo")

# A conversation with a real model, where it can be had; build/models/smol.gguf may also be put there by hand.
execute_process(COMMAND "${CMAKE_COMMAND}" "-DDIR=${build}/models" -P "${CMAKE_CURRENT_LIST_DIR}/models.cmake"
  RESULT_VARIABLE no_model ERROR_VARIABLE why)
set(conversation)
if(no_model)
  message("No conversation in this run. ${why}")
else()
  set(conversation --engine "${build}/bin/engine" --model "${build}/models/smol.gguf" --document "${root}/README.md")
endif()
execute_process(COMMAND "${build}/bin/sluice-demo" --data "${root}/test/data" --out "${build}/demo" ${conversation}
  COMMAND_ERROR_IS_FATAL ANY)
file(GLOB reports "${build}/demo/*.html")
foreach(report IN LISTS reports)
  message("Report: ${report}")
endforeach()
message("To try next: ${build}/bin/engine, and the `sluice` command: cmake --build ${build} --target sluice_tool")
