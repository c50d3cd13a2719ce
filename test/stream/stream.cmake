# SPDX-License-Identifier: Apache-2.0
# Streaming against real servers, which the tests start for themselves on free ports, with a proxy in front that does what
# bad networks do. A test whose server is not installed says so and is skipped (exit code 77).
file(GLOB stream_tests CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/*_test.cpp")
set(all_stream_tests ${stream_tests})
sluice_keep_buildable(stream_tests)
list(REMOVE_ITEM all_stream_tests "" ${stream_tests})
foreach(source IN LISTS all_stream_tests)
  cmake_path(GET source STEM name)
  add_test(NAME stream.${name} COMMAND "${CMAKE_COMMAND}" -E echo "skipped: libcurl or nlohmann-json is not installed")
  set_tests_properties(stream.${name} PROPERTIES LABELS stream SKIP_REGULAR_EXPRESSION "skipped")
endforeach()
# With SLUICE_NIXL_INCLUDE (src/api/cpp of NIXL's repository) and SLUICE_NIXL_SITE (where pip put the wheel nixl-cu12:
# site-packages) the NIXL source is tested with both; with SLUICE_MOONCAKE_LIBRARY (libmooncake_store.so) and
# SLUICE_MOONCAKE_MASTER (mooncake_master of the same version) the Mooncake source is; mooncake_library.sh makes that library.
# None of these is installed by any script here.
set(SLUICE_NIXL_INCLUDE "" CACHE PATH "folder of nixl.h, for its test")
set(SLUICE_NIXL_SITE "" CACHE PATH "site-packages with the wheel nixl-cu12, for its test")
set(SLUICE_MOONCAKE_LIBRARY "" CACHE FILEPATH "libmooncake_store.so, for its test")
set(SLUICE_MOONCAKE_MASTER "" CACHE FILEPATH "mooncake_master, for the test of its clients")
foreach(source IN LISTS stream_tests)
  cmake_path(GET source STEM name)
  add_executable(sluice_stream_${name} "${source}")
  target_link_libraries(sluice_stream_${name} PRIVATE sluice_test)
  target_include_directories(sluice_stream_${name} PRIVATE "${CMAKE_CURRENT_LIST_DIR}")
  # Where cmake/deps.cmake puts moto, and where commands and models are, if they are.
  target_compile_definitions(sluice_stream_${name} PRIVATE "SLUICE_MOTO=\"${PROJECT_BINARY_DIR}/moto/bin/moto_server\""
    "SLUICE_BIN=\"${CMAKE_RUNTIME_OUTPUT_DIRECTORY}\""
    "SLUICE_MODELS=\"${PROJECT_BINARY_DIR}/models\""
    "SLUICE_MOONCAKE_LIBRARY=\"${SLUICE_MOONCAKE_LIBRARY}\"" "SLUICE_MOONCAKE_MASTER=\"${SLUICE_MOONCAKE_MASTER}\"")
  add_test(NAME stream.${name} COMMAND sluice_stream_${name})
  set_tests_properties(stream.${name} PROPERTIES LABELS stream TIMEOUT 300 SKIP_RETURN_CODE 77)
  if(name MATCHES "^(silence|faults)_")  # what comes in time there depends on who else is at work
    set_tests_properties(stream.${name} PROPERTIES RUN_SERIAL ON)
  endif()
  if(name STREQUAL nixl_test AND SLUICE_NIXL_INCLUDE AND SLUICE_NIXL_SITE)
    set(libraries "${SLUICE_NIXL_SITE}/.nixl_cu12.mesonpy.libs" "${SLUICE_NIXL_SITE}/nixl_cu12.libs")
    target_include_directories(sluice_stream_${name} SYSTEM PRIVATE "${SLUICE_NIXL_INCLUDE}")
    target_link_directories(sluice_stream_${name} PRIVATE ${libraries})
    target_link_libraries(sluice_stream_${name} PRIVATE nixl nixl_build)
    target_link_options(sluice_stream_${name} PRIVATE -Wl,--allow-shlib-undefined)
    list(JOIN libraries ":" libraries)
    set_tests_properties(stream.${name} PROPERTIES
      ENVIRONMENT "LD_LIBRARY_PATH=${libraries};NIXL_PLUGIN_DIR=${SLUICE_NIXL_SITE}/nixl_cu12.libs/nixl")
  endif()
endforeach()
