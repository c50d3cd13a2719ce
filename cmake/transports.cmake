# SPDX-License-Identifier: Apache-2.0
# Targets for sources that need a library, where it is found: sluice::redis (hiredis), sluice::http (libcurl 7.85 or newer).
# They define SLUICE_WITH_REDIS and SLUICE_WITH_HTTP for programs that take what there is.
find_path(SLUICE_HIREDIS_INCLUDE_DIR hiredis/hiredis.h)
find_library(SLUICE_HIREDIS_LIBRARY hiredis)
mark_as_advanced(SLUICE_HIREDIS_INCLUDE_DIR SLUICE_HIREDIS_LIBRARY)
if(SLUICE_HIREDIS_INCLUDE_DIR AND SLUICE_HIREDIS_LIBRARY AND NOT TARGET sluice::redis)
  add_library(sluice::redis INTERFACE IMPORTED GLOBAL)
  target_link_libraries(sluice::redis INTERFACE sluice::sluice "${SLUICE_HIREDIS_LIBRARY}")
  target_include_directories(sluice::redis INTERFACE "${SLUICE_HIREDIS_INCLUDE_DIR}")
  target_compile_definitions(sluice::redis INTERFACE SLUICE_WITH_REDIS)
endif()
find_package(CURL 7.85 QUIET)
if(TARGET CURL::libcurl AND NOT TARGET sluice::http)
  add_library(sluice::http INTERFACE IMPORTED GLOBAL)
  target_link_libraries(sluice::http INTERFACE sluice::sluice CURL::libcurl)
  target_compile_definitions(sluice::http INTERFACE SLUICE_WITH_HTTP)
endif()
