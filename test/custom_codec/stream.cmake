# SPDX-License-Identifier: Apache-2.0
# A planner policy and a byte source of one's own. The including project has found sluice and set SLUICE_TEST_DATA.
find_package(Threads REQUIRED)
add_executable(custom_stream "${CMAKE_CURRENT_LIST_DIR}/stream_main.cpp")
target_link_libraries(custom_stream PRIVATE sluice::sluice Threads::Threads)
add_test(NAME custom_stream COMMAND custom_stream "${SLUICE_TEST_DATA}")
