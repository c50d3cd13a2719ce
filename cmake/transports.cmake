# SPDX-License-Identifier: Apache-2.0
# Targets that need libraries: sluice::zlib for the header codec/entropy/deflate.hpp; for sources that talk to servers
# sluice::redis (with TLS where OpenSSL 1.1.1 or newer is found), sluice::http (libcurl 7.85 or newer). These two define SLUICE_WITH_REDIS,
# SLUICE_WITH_TLS and SLUICE_WITH_HTTP for programs that take what there is. A library that is missing, or that the source does not compile or link with, leaves its part out.

cmake_policy(SET CMP0067 NEW)  # checks take the language standard that is set

# Whether HEADER and a main() around STATEMENT compile and link with DEFINITION and the libraries that follow.
function(sluice_source_works out header statement definition)
  include(CheckCXXSourceCompiles)
  set(CMAKE_REQUIRED_QUIET ON)
  set(CMAKE_REQUIRED_DEFINITIONS "-D${definition}")
  set(CMAKE_REQUIRED_LIBRARIES ${ARGN})
  set(CMAKE_REQUIRED_INCLUDES "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../include")
  if(NOT EXISTS "${CMAKE_REQUIRED_INCLUDES}/sluice")  # installed
    get_target_property(CMAKE_REQUIRED_INCLUDES sluice::sluice INTERFACE_INCLUDE_DIRECTORIES)
  endif()
  set(CMAKE_CXX_STANDARD 20)
  string(MD5 key "${ARGN}")
  check_cxx_source_compiles("#include <${header}>\nint main() { ${statement} }" ${definition}_${key})
  if(NOT ${definition}_${key})
    message(STATUS "left out, as <${header}> does not compile or link with what was found: ${definition}")
  endif()
  set(${out} "${${definition}_${key}}" PARENT_SCOPE)
endfunction()

if(UNIX AND NOT TARGET sluice::redis)
  add_library(sluice::redis INTERFACE IMPORTED GLOBAL)
  target_link_libraries(sluice::redis INTERFACE sluice::sluice)
  target_compile_definitions(sluice::redis INTERFACE SLUICE_WITH_REDIS)
  find_package(OpenSSL 1.1.1 QUIET)
  if(TARGET OpenSSL::SSL)
    sluice_source_works(works sluice/stream/store/sources/redis.hpp
      "sluice::stream::redis_source s({.tls = true}); return int(s.size(\"a\").status());" SLUICE_WITH_TLS OpenSSL::SSL)
    if(works)
      target_link_libraries(sluice::redis INTERFACE OpenSSL::SSL)
      target_compile_definitions(sluice::redis INTERFACE SLUICE_WITH_TLS)
    endif()
  endif()
endif()
find_package(ZLIB QUIET)
if(TARGET ZLIB::ZLIB AND NOT TARGET sluice::zlib)
  add_library(sluice::zlib INTERFACE IMPORTED GLOBAL)
  target_link_libraries(sluice::zlib INTERFACE sluice::sluice ZLIB::ZLIB)
endif()
find_package(CURL 7.85 QUIET)
if(TARGET CURL::libcurl AND NOT TARGET sluice::http)
  sluice_source_works(works sluice/stream/store/sources/http.hpp
    "sluice::stream::http_source s({.url = \"http://h\"}); return int(s.size(\"a\").status());" SLUICE_WITH_HTTP CURL::libcurl)
  if(works)
    add_library(sluice::http INTERFACE IMPORTED GLOBAL)
    target_link_libraries(sluice::http INTERFACE sluice::sluice CURL::libcurl)
    target_compile_definitions(sluice::http INTERFACE SLUICE_WITH_HTTP)
  endif()
endif()
