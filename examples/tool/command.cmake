# SPDX-License-Identifier: Apache-2.0
# How commands read their options, for the programs that consist of commands: one target, whoever comes first.
if(NOT TARGET sluice_command)
  add_library(sluice_command STATIC "${CMAKE_CURRENT_LIST_DIR}/command.cpp")
  target_include_directories(sluice_command PUBLIC "${CMAKE_CURRENT_LIST_DIR}")
  target_compile_features(sluice_command PUBLIC cxx_std_20)
  target_link_libraries(sluice_command PUBLIC nlohmann_json::nlohmann_json PRIVATE CLI11::CLI11 $<TARGET_NAME_IF_EXISTS:sluice_dev>)
  if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
    target_compile_options(sluice_command PRIVATE -O1)  # read once a call
  endif()
endif()
